"""A Hub of one model on this machine: the two addresses that a download uses, with the faults of a bad connection."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# The Hub keeps large files in Git LFS, which knows their SHA-256, and the others in Git itself.
LFS_SUFFIXES = (".safetensors", "tokenizer.json")


@dataclass
class Request:
    """One request that came."""

    path: str
    range: str | None


@dataclass
class FakeHub:
    """What the Hub has, and how it misbehaves.

    Attributes:
        model: The id of its only model.
        files: Content by name.
        cut_after: Bytes of a file's content after which the connection breaks.
        cut_times: How many connections break so; afterwards they hold.
        dies: Whether no file is sent any more after a connection broke.
        ranges: Whether it knows ranges.
        sized: Whether it says how much it will send; otherwise a cut looks like the end.
        stated: Other content to state the hash and size of.
        answer: The listing, in place of the true one.
        status: The status of every answer, instead of what it should be.
        requests: The requests that came, in order.
    """

    model: str
    files: dict[str, bytes]
    cut_after: dict[str, int] = field(default_factory=dict)
    cut_times: int = 0
    dies: bool = False
    ranges: bool = True
    sized: bool = True
    stated: dict[str, bytes] = field(default_factory=dict)
    answer: bytes | None = None
    status: int | None = None
    dead: bool = False
    requests: list[Request] = field(default_factory=list)
    address: str = ""

    def listing(self) -> dict[str, Any]:
        """The answer to /api/models/<id>/revision/<commit>?blobs=True."""
        siblings = [self._sibling(name, self.stated.get(name, content)) for name, content in self.files.items()]
        return {"id": self.model, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}

    def _sibling(self, name: str, content: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob}
        if name.endswith(LFS_SUFFIXES):
            lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            entry |= {"lfs": lfs, "blobId": "0" * 40}
        return entry

    def asked_for(self, name: str) -> list[str | None]:
        """The ranges of the requests for a file, None for all of it."""
        return [request.range for request in self.requests if request.path.endswith(f"/{name}")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(Request(path, self.headers.get("Range")))
        if self.hub.status is not None:
            self._answer(self.hub.status, b"")
        elif path in {f"/api/models/{self.hub.model}/revision/{COMMIT}", f"/api/models/{self.hub.model}"}:
            self._answer(200, self.hub.answer or json.dumps(self.hub.listing()).encode())
        elif path.startswith(f"/api/models/{self.hub.model}/revision/"):
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(f"/{self.hub.model}/resolve/{COMMIT}/"):
            # As the real one, which sends to another address for the content.
            self._answer(302, b"", {"Location": f"/content/{path.rpartition('/')[2]}"})
        elif path.startswith("/content/"):
            self._send_file(path.removeprefix("/content/"))
        else:
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _send_file(self, name: str) -> None:
        content = self.hub.files[name]
        if self.hub.dead:
            self.close_connection = True
            return
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.hub.ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.close_connection = not self.hub.sized
        if self.hub.sized:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = self.hub.cut_after.get(name)
        if cut is not None and self.hub.cut_times > 0:
            self.hub.cut_times -= 1
            self.hub.dead = self.hub.dies
            self.wfile.write(content[start : start + cut])
            self.close_connection = True
            return
        self.wfile.write(content[start:])

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(model: str, folder: Path) -> Iterator[FakeHub]:
    """Serve a folder as the model, on a port of this machine."""
    hub = FakeHub(model, {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
