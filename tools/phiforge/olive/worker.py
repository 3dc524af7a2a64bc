"""The child process of `driver`: Olive's own command line, once for each request, ended when its parent ends.

A request is a line of JSON on standard input: `arguments` of `olive`, or a `planned` graph to check; the `folder` to
work in, the files `events` and `log`. One process serves several, because importing Olive and torch takes longer than
many a run. The driver holds the other end of the pipe, and a killed driver closes it. Without this, Olive would work on
beside the next attempt.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import Any

from phiforge.errors import PhiforgeError
from phiforge.olive.progress import EVENTS_VARIABLE, note_failure, note_finished

ORPHANED = 75


def _read(requests: queue.Queue[str]) -> None:
    """Hand on each line; end the process when the driver has closed its end, whatever is being done."""
    unread = b""
    # os.read, because a thread blocked in sys.stdin would hold its lock when the interpreter shuts down.
    while part := os.read(0, 65536):
        *lines, unread = (unread + part).split(b"\n")
        for line in lines:
            requests.put(line.decode("utf-8"))
    os._exit(ORPHANED)


def serve(request: dict[str, Any]) -> int:
    """Carry out one request and return its exit code, which is Olive's own where Olive runs."""
    with open(request["log"], "ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    os.chdir(request["folder"])
    os.environ[EVENTS_VARIABLE] = request["events"]
    try:
        if "planned" in request:
            return _check(request["planned"])
        from olive.cli.launcher import main as olive

        olive(request["arguments"])
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _check(planned: dict[str, Any]) -> int:
    from phiforge.olive.planned import PlannedGraph
    from phiforge.olive.weightless import check_planned_graph

    try:
        with note_failure():
            check_planned_graph(PlannedGraph.model_validate(planned))
    except PhiforgeError as error:
        return error.exit_code
    return 0


def main() -> None:
    """Serve requests until the driver closes the pipe."""
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    from phiforge.olive.adaptations import adapt_olive

    adapt_olive()
    while True:
        note_finished(serve(json.loads(requests.get())))


if __name__ == "__main__":
    main()
