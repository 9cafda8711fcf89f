"""A Hugging Face Hub on this machine: what the real huggingface_hub client asks for, over real HTTP."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".bin", ".safetensors", ".parquet", ".jsonl", ".gguf")  # kept outside git: 302 to another address


@dataclasses.dataclass
class Request:
    """One request, and how many bytes of a body were sent back."""

    method: str
    path: str
    range: str | None
    token: str | None
    status: int = 0
    sent: int = 0


@dataclasses.dataclass
class Fault:
    """What goes wrong with the next `times` requests whose "METHOD path" matches `where`."""

    where: str
    times: int = 1_000_000
    status: int | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    cut_after: int | None = None  # bytes of the body, then the connection ends
    ignore_range: bool = False
    replace: bytes | None = None  # another content than was listed
    delay: float = 0


@dataclasses.dataclass
class Stored:
    """A file: its bytes, or where they lie."""

    content: bytes | Path
    large: bool

    @property
    def size(self) -> int:
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)

    def read(self, start: int, stop: int) -> bytes:
        if isinstance(self.content, bytes):
            return self.content[start:stop]
        with open(self.content, "rb") as file:
            file.seek(start)
            return file.read(stop - start)

    @property
    def etag(self) -> str:
        if self.large and isinstance(self.content, bytes):
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(repr(self.content).encode()).hexdigest()  # noqa: S324 - a name, as in git


class LoopbackHub:
    """Serves repositories on 127.0.0.1 while the block runs.

    >>> with LoopbackHub() as hub:
    ...     commit = hub.add("me/model", {"config.json": b"{}"})
    >>> len(commit)
    40
    """

    def __init__(self) -> None:
        self.commits: dict[tuple[str, str], dict[str, str]] = {}  # (type, repository) -> revision -> commit
        self.files: dict[str, dict[str, Stored]] = {}  # commit -> path -> file
        self.private: set[str] = set()
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            owner = hub

        # Large files come from another address than the Hub's, as they do there.
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
        self.endpoint, self.elsewhere = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self) -> LoopbackHub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add(
        self, repo: str, files: Mapping[str, bytes | Path], *, repo_type: str = "model", revision: str = "main"
    ) -> str:
        """Commit files to a branch; gives the commit."""
        stored = {path: Stored(content, path.endswith(LARGE)) for path, content in files.items()}
        names = json.dumps([repo, revision, [[path, file.etag, file.size] for path, file in sorted(stored.items())]])
        commit = hashlib.sha1(names.encode()).hexdigest()  # noqa: S324 - a name, as in git
        self.files[commit] = stored
        self.commits.setdefault((repo_type, repo), {}).update({revision: commit, commit: commit})
        return commit

    def environment(self, folder: Path) -> dict[str, str]:
        """Variables that send a process's Hugging Face client here, with caches of its own."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(folder / "huggingface"),
            "LMMEM_CACHE": str(folder / "lmmem"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def ranges(self) -> list[Request]:
        """The requests for a byte range."""
        return [request for request in self.requests if request.range]

    def sent(self) -> int:
        """Bytes of all bodies."""
        return sum(request.sent for request in self.requests)

    def fault_for(self, what: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.where, what):
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    owner: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.request_made = Request(self.command, path, self.headers.get("Range"), token)
        self.owner.requests.append(self.request_made)
        self.fault = self.owner.fault_for(f"{self.command} {path}") or Fault("", 0)
        time.sleep(self.fault.delay)
        if self.fault.status is not None:
            return self._send(self.fault.status, b'{"error": "as the test wants"}', self.fault.headers)
        if match := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self._info(match[1], match[2], match[3] or "main")
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve("dataset" if match[1] else "model", match[2], match[3], match[4])
        if match := re.fullmatch(r"/cdn/([0-9a-f]{40})/(.+)", path):
            return self._content(self.owner.files[match[1]][match[2]], {})
        return self._missing("EntryNotFound")

    def _commit(self, repo_type: str, repo: str, revision: str) -> str | None:
        """The commit, or None after an error has been sent."""
        branches = self.owner.commits.get((repo_type, repo))
        if repo in self.owner.private and not self.request_made.token:
            self._send(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository Not Found"})
            return None
        if branches is None:
            self._missing("RepoNotFound")
            return None
        commit = branches.get(revision)
        if commit is None:
            self._missing("RevisionNotFound")
        return commit

    def _info(self, repo_type: str, repo: str, revision: str) -> None:
        commit = self._commit(repo_type, repo, revision)
        if commit is None:
            return
        siblings = []
        for path, file in self.owner.files[commit].items():
            large = {"lfs": {"sha256": file.etag, "size": file.size, "pointerSize": 134}} if file.large else {}
            siblings.append({"rfilename": path, "size": file.size, "blobId": file.etag[:40], **large})
        facts = {"id": repo, "sha": commit, "private": False, "tags": [], "downloads": 0, "likes": 0}
        self._send(200, json.dumps(facts | {"siblings": siblings}).encode(), {"Content-Type": "application/json"})

    def _resolve(self, repo_type: str, repo: str, revision: str, path: str) -> None:
        commit = self._commit(repo_type, repo, revision)
        if commit is None:
            return None
        file = self.owner.files[commit].get(path)
        if file is None:
            return self._missing("EntryNotFound", {"X-Repo-Commit": commit})
        if self.fault.replace is not None:
            file = Stored(self.fault.replace, file.large)
        facts = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not file.large:
            return self._content(file, facts | {"ETag": f'"{file.etag}"'})
        linked = {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
        return self._send(302, b"", facts | linked | {"Location": f"{self.owner.elsewhere}/cdn/{commit}/{path}"})

    def _content(self, file: Stored, headers: dict[str, str]) -> None:
        if self.fault.replace is not None:
            file = Stored(self.fault.replace, file.large)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.request_made.range or "")
        if not wanted or self.fault.ignore_range:
            return self._send(200, file, headers)
        start, stop = int(wanted[1]), min(int(wanted[2] or file.size - 1) + 1, file.size)
        if start >= file.size:
            return self._send(416, b"", {"Content-Range": f"bytes */{file.size}"})
        span = {"Content-Range": f"bytes {start}-{stop - 1}/{file.size}"}
        return self._send(206, file, headers | span, start, stop)

    def _missing(self, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(404, b'{"error": "not found"}', (headers or {}) | {"X-Error-Code": code, "X-Error-Message": code})

    def _send(
        self, status: int, body: bytes | Stored, headers: dict[str, str], start: int = 0, stop: int | None = None
    ) -> None:
        if isinstance(body, bytes):
            body = Stored(body, False)
        stop = body.size if stop is None else stop
        self.request_made.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        end = stop if self.fault.cut_after is None else min(stop, start + self.fault.cut_after)
        try:
            for first in range(start, end, 2**16):
                part = body.read(first, min(first + 2**16, end))
                self.request_made.sent += len(part)
                self.wfile.write(part)
        except OSError:  # the client has had enough
            self.close_connection = True
        if end < stop:
            self.close_connection = True
