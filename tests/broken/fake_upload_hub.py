"""A Hub of one repository on this machine that takes commits, with the faults of a bad connection."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".onnx", ".data", ".bin", ".safetensors")
TOKEN = "hf_madeup"


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class UploadHub:
    """What the repository has, and how it misbehaves.

    Attributes:
        repository: Its id.
        commits: The content by name of every commit, the newest last.
        blobs: Large files that were sent, by their SHA-256, committed or not.
        sent: SHA-256 of every large file that was sent, as often as it was.
        cut_at: The number of the large file at which the connection breaks, from 0; it stays broken.
        cut_commit: Whether the connection breaks before the answer to a commit; `commits_first` whether it was made.
        status: The status of every answer to a request that changes something, instead of what it should be.
        other_commit: Whether somebody else commits before each commit.
        ignored: Names that the Hub leaves out of a commit.
        yaml_error: What is wrong with the card.
        requests: Method and path of the requests that came.
    """

    repository: str
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])
    blobs: dict[str, bytes] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    cut_at: int | None = None
    cut_commit: bool = False
    commits_first: bool = False
    status: int | None = None
    other_commit: bool = False
    ignored: tuple[str, ...] = ()
    yaml_error: str | None = None
    dead: bool = False
    requests: list[str] = field(default_factory=list)
    address: str = ""

    @property
    def files(self) -> dict[str, bytes]:
        """What the branch has now."""
        return self.commits[-1]

    def head(self) -> str:
        """The newest commit."""
        return f"{len(self.commits):040x}"

    def listing(self) -> dict[str, Any]:
        """The answer to /api/models/<id>/revision/<branch>?blobs=True."""
        siblings = []
        for name, content in self.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
            if name.endswith(LARGE):
                digest = hashlib.sha256(content).hexdigest()
                entry |= {"lfs": {"sha256": digest, "size": len(content), "pointerSize": 130}, "blobId": "0" * 40}
            siblings.append(entry)
        return {"id": self.repository, "sha": self.head(), "siblings": siblings, "private": True, "tags": []}

    def commit(self, lines: list[dict[str, Any]]) -> str:
        """Make a commit of the lines of a request."""
        files = dict(self.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.commits.append({name: content for name, content in files.items() if name not in self.ignored})
        return self.head()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: UploadHub

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def _begin(self) -> str | None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.dead:
            self.close_connection = True
            return None
        return path

    def do_GET(self) -> None:
        path = self._begin()
        if path is None:
            return
        base = f"/api/models/{self.hub.repository}/revision/"
        if path.startswith(base):
            if path.removeprefix(base) in {"main", self.hub.head()}:
                self._answer(200, self.hub.listing())
            else:
                self._answer(404, {}, {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(f"/{self.hub.repository}/resolve/"):
            self._answer(200, self.hub.files[path.split("/", 5)[5]])
        else:
            self._answer(404, {}, {"X-Error-Code": "RepoNotFound"})

    def do_PUT(self) -> None:
        path = self._begin()
        if path is None:
            return
        length = int(self.headers["Content-Length"])
        if self.hub.cut_at == len(self.hub.sent):
            self.rfile.read(length // 2)
            self.hub.dead = True
            self.close_connection = True
            return
        content = self.rfile.read(length)
        digest = path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == digest
        self.hub.blobs[digest] = content
        self.hub.sent.append(digest)
        self._answer(200, {})

    def do_POST(self) -> None:
        path = self._begin()
        if path is None:
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {})
        elif path == "/api/validate-yaml":
            errors = [{"message": self.hub.yaml_error}] if self.hub.yaml_error else []
            self._answer(400 if errors else 200, {"errors": errors, "warnings": []})
        elif self.hub.status is not None:
            self._answer(self.hub.status, {})
        elif path == f"/api/models/{self.hub.repository}/preupload/main":
            self._answer(200, {"files": [self._mode(file) for file in json.loads(body)["files"]]})
        elif path == f"/{self.hub.repository}.git/info/lfs/objects/batch":
            self._answer(200, {"transfer": "basic", "objects": [self._object(o) for o in json.loads(body)["objects"]]})
        elif path == f"/api/models/{self.hub.repository}/commit/main":
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404, {}, {"X-Error-Code": "RepoNotFound"})

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        name = file["path"]
        there = self.hub.files.get(name)
        large = name.endswith(LARGE)
        oid = None
        if there is not None:
            oid = hashlib.sha256(there).hexdigest() if large else git_sha1(there)
        return {
            "path": name,
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": name in self.hub.ignored,
            "oid": oid,
        }

    def _object(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in self.hub.blobs:
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"{self.hub.address}/store/{wanted['oid']}"}}}

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        if self.hub.other_commit:
            self.hub.commits.append({**self.hub.files, "other.txt": b"theirs"})
        if lines[0]["value"].get("parentCommit") != self.hub.head():
            self._answer(412, {"error": "A commit has happened since"})
            return
        if self.hub.cut_commit:
            if self.hub.commits_first:
                self.hub.commit(lines)
            self.hub.dead = True
            self.close_connection = True
            return
        oid = self.hub.commit(lines)
        url = f"{self.hub.address}/{self.hub.repository}/commit/{oid}"
        self._answer(200, {"commitUrl": url, "commitOid": oid, "pullRequestUrl": None})

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving_uploads(repository: str) -> Iterator[UploadHub]:
    """Serve an empty repository on a port of this machine."""
    hub = UploadHub(repository)
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
