"""Releases: hold a package against the previous release, and refuse or publish it.

What is measured or judged comes in; nothing here measures, judges a budget or runs a model.
"""
