"""The child process of `driver`: Olive's own command line, ended when its parent ends.

`python -m phiforge.olive.worker run ...` is `olive run ...` with a watch on standard input: the driver holds the other
end of the pipe, and a killed driver closes it. Without this, Olive would work on beside the next attempt.
"""

from __future__ import annotations

import os
import sys
import threading

ORPHANED = 75


def _end_with_parent() -> None:
    # os.read, because a thread blocked in sys.stdin would hold its lock when the interpreter shuts down.
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(ORPHANED)


def main() -> None:
    """Run Olive's command line with this process's arguments."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from olive.cli.launcher import main as olive

    from phiforge.olive.adaptations import adapt_olive

    adapt_olive()
    olive(sys.argv[1:])


if __name__ == "__main__":
    main()
