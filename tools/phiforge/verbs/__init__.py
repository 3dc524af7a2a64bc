"""One verb a file, one function a verb: what the command line calls and what a program can call.

No verb prints; progress goes to a `Watcher`.
"""
