"""A stand-in for the Hugging Face hub: its real protocol, on 127.0.0.1.

Each call is a process of its own, as the hub's library reads HF_ENDPOINT and HF_HOME on import.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

FIRST, SECOND = "1" * 40, "2" * 40
TOKEN = "hf_a_token_that_opens"
LARGE = (".safetensors", ".gguf", ".bin", ".parquet")
"""Files that the hub keeps on another host and answers with a redirect."""
Files = dict[str, bytes]
H = TypeVar("H", bound="Hub")


class Hub(ThreadingHTTPServer):
    """Repositories with commits and branches; keeps every request it got.

    A model is named `owner/name`, a data set `datasets/owner/name`.
    """

    daemon_threads = True

    def __init__(self, handler: "type[Handler] | None" = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.commits: dict[str, dict[str, Files]] = {}
        self.main: dict[str, str] = {}
        self.gated: set[str] = set()
        self.cut: set[str] = set()  # files whose first transfer breaks off half way
        self.slow: set[str] = set()  # files of which a byte comes now and then
        self.endless: set[str] = set()  # files that are longer than announced, without an end
        self.broken: set[str] = set()  # repositories that the hub can't serve now
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.sent: dict[str, int] = {}  # file → bytes of it that went out
        self.tokens_at_storage: list[str | None] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that go away."""

    def push(self, repo: str, commit: str, files: Files) -> None:
        """Add a commit, and move main to it."""
        self.commits.setdefault(repo, {})[commit] = files
        self.main[repo] = commit

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        """As for GET, without the content."""
        self.do_GET()

    def do_POST(self) -> None:
        """Facts about some paths of a repository."""
        length = int(self.headers["Content-Length"] or 0)
        paths = parse_qs(self.rfile.read(length).decode())["paths"]
        found = self._files(r"/api/(datasets|models)/(.+?)/paths-info/([^?/]+)")
        if found is not None:
            self.send(_json([entry(p, found[2][p]) for p in paths if p in found[2]]))

    def do_GET(self) -> None:
        """Repositories, their files, lists of both."""
        self.server.requests.append(f"{self.command} {self.path}")
        if found := re.fullmatch(r"/storage/(.+)/(\w{40})/([^?]+)", self.path):
            self.server.tokens_at_storage.append(self.headers["Authorization"])
            return self.send(self.server.commits[found[1]][found[2]][unquote(found[3])])
        if self.path.startswith(("/api/datasets?", "/api/models?")):
            return self.send(_json(self._of_author()))
        if found := re.fullmatch(r"/api/(datasets|models)/(.+?)/refs(\?.*)?", self.path):
            return self._refs(f"datasets/{found[2]}" if found[1] == "datasets" else found[2])
        if self.path.startswith("/api/"):
            return self._api()
        about = self._files(r"(/datasets)?/(.+?)/resolve/([^/]+)/.+")
        if about is not None:
            name = _path(self).partition("/resolve/")[2].partition("/")[2]
            self.resolve(*about, unquote(name))
        return None

    def _api(self) -> None:
        pattern = r"/api/(datasets|models)/(.+?)/(?:revision|tree)/([^/]+)(?:/(.*))?"
        found = self._files(pattern)
        if found is None:
            return
        repo, commit, files = found
        if "/revision/" in self.path:
            name = repo.removeprefix("datasets/")
            listed = [{"rfilename": f} for f in files]
            self.send(_json({"id": name, "sha": commit, "siblings": listed}))
            return
        query = parse_qs(urlsplit(self.path).query)
        under = re.fullmatch(pattern, _path(self))
        self._tree(files, unquote((under and under[4]) or ""), _is_true(query.get("recursive")))

    def _tree(self, files: Files, under: str, recursive: bool) -> None:
        """The files of a folder, or of all folders in it; a folder that isn't there is a 404."""
        inside = {n: c for n, c in files.items() if not under or n.startswith(f"{under}/")}
        if not inside:
            return self.refuse(404, "EntryNotFound")
        start = len(under) + 1 if under else 0
        listed = [entry(n, c) for n, c in inside.items() if recursive or "/" not in n[start:]]
        folders = {n[: n.index("/", start)] for n in inside if "/" in n[start:]}
        made = [{"type": "directory", "path": f, "oid": "0" * 40, "size": 0} for f in folders]
        return self.send(_json([*made, *listed]))

    def _of_author(self) -> list[dict[str, Any]]:
        """The repositories of an owner."""
        kind = "datasets/" if self.path.startswith("/api/datasets") else ""
        author = parse_qs(urlsplit(self.path).query).get("author", [""])[0]
        return [
            {"id": repo.removeprefix(kind), "sha": commit}
            for repo, commit in self.server.main.items()
            if repo.startswith(f"{kind}{author}/") and repo not in self.server.gated
        ]

    def _refs(self, repo: str) -> None:
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": self.server.main[repo]}
        v1 = {"name": "v1.0", "ref": "refs/tags/v1.0", "targetCommit": self.server.main[repo]}
        self.send(_json({"branches": [main], "converts": [], "tags": [v1]}))

    def _files(self, pattern: str) -> tuple[str, str, Files] | None:
        """(repository, commit, files) that a request is about; None after refusing it."""
        found = re.fullmatch(pattern, _path(self))
        repo = found[2] if found else ""
        if found and found[1] and "datasets" in found[1]:
            repo = f"datasets/{repo}"
        if not found or repo not in self.server.commits:
            self.refuse(401, "RepoNotFound")
            return None
        if repo in self.server.broken:
            self.refuse(503, "")
            return None
        if repo in self.server.gated and repo.startswith("datasets/") and not self._may_read():
            return None
        revision = unquote(found[3])
        commit = self.server.main[repo] if revision == "main" else revision
        files = self.server.commits[repo].get(commit)
        if files is None:
            self.refuse(404, "RevisionNotFound")
            return None
        return repo, commit, files

    def _may_read(self) -> bool:
        """Whether the request opens a gated repository; else it is refused."""
        token = self.headers["Authorization"]
        if token == f"Bearer {TOKEN}" or "/revision/" in self.path:
            return True
        self.refuse(403 if token else 401, "GatedRepo")
        return False

    def resolve(self, repo: str, commit: str, files: Files, name: str) -> None:
        """As the hub does: small files from itself, large ones by a redirect to another host."""
        if repo in self.server.gated and not self._may_read():
            return None
        if name not in files:
            return self.refuse(404, "EntryNotFound")
        about = {"X-Repo-Commit": commit, "ETag": f'"{etag(name, files[name])}"'}
        if not is_large(name):
            return self.send(files[name], **about)
        linked = {"X-Linked-Etag": about["ETag"], "X-Linked-Size": str(len(files[name]))}
        host = f"http://localhost:{self.server.server_port}"
        self.send_response(302)
        where = {"Location": f"{host}/storage/{repo}/{commit}/{quote(name)}", "Content-Length": "0"}
        return self.finish_headers({**about, **linked, **where})

    def send(self, content: bytes, **headers: str) -> None:
        """Answer with some content, or with the part of it that was asked for."""
        start, end = 0, len(content)
        if asked := self.headers["Range"]:
            self.server.ranges.append(asked)
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1, end) if last else end
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        name = urlsplit(self.path).path.rpartition("/")[2]
        if name in self.server.endless and self.command != "HEAD":
            return self._send_on(headers)
        self.send_response(206 if asked else 200)
        self.finish_headers({"Content-Length": str(end - start), **headers})
        if self.command != "HEAD":
            if name in self.server.cut:
                self.server.cut.remove(name)
                end, self.close_connection = len(content) // 2, True
            if name in self.server.slow:
                return self._drip()
            self.server.sent[name] = self.server.sent.get(name, 0) + end - start
            self.wfile.write(content[start:end])
        return None

    def _send_on(self, headers: dict[str, str]) -> None:
        """Send without an end."""
        self.close_connection = True
        self.send_response(200)
        self.finish_headers({"Connection": "close", **headers})
        for _ in range(1000):
            self.wfile.write(b"x" * 2**20)

    def _drip(self) -> None:
        """Send a byte now and then, for half a minute."""
        for _ in range(150):
            self.wfile.write(b"x")
            time.sleep(0.2)

    def refuse(self, status: int, code: str) -> None:
        """Answer with an error of the hub's."""
        self.send_response(status)
        self.finish_headers({"X-Error-Code": code, "Content-Length": "0"})

    def finish_headers(self, headers: dict[str, str]) -> None:
        """Send the headers."""
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def _path(handler: BaseHTTPRequestHandler) -> str:
    return urlsplit(handler.path).path


def _is_true(values: list[str] | None) -> bool:
    return values is not None and values[0].lower() == "true"


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def is_large(name: str) -> bool:
    """Whether the hub keeps a file of that name on another host."""
    return name.endswith(LARGE)


def etag(name: str, content: bytes) -> str:
    """As the hub does: git's hash of a small file, SHA-256 of a large one."""
    if is_large(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entry(name: str, content: bytes) -> dict[str, Any]:
    """One line of the hub's listing of a repository."""
    made: dict[str, Any] = {"type": "file", "path": name, "size": len(content)}
    made["oid"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if is_large(name):
        made["lfs"] = {"oid": etag(name, content), "size": len(content), "pointerSize": 134}
    return made


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that listens."""
    with listening(Hub()) as server:
        yield server


@contextmanager
def listening(server: H) -> Iterator[H]:
    """The server, while it listens."""
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


CALL = """
import importlib, json, sys
from pathlib import Path
import msgspec
from finery import Dataset, FineryError, Model
import finery_hub.client
from finery.testing import TestJob

call = json.load(sys.stdin)
finery_hub.client.SECONDS = call["patience"]
module, _, name = call["step"].partition(":")
step = msgspec.convert(call["settings"], getattr(importlib.import_module(module), name))
if call["base"]:
    step.base = Model(Path("base"), meta=call["base"])
try:
    if call["pinned"] is None:
        result = {"pin": step.pin_name(Path("kept"))}
    else:
        job = TestJob(pinned=call["pinned"], secrets=call["secrets"])
        made = step.sketch(job) if call["sketch"] else step.run(job)
        found = made.external if made else {}
        external = {name: str(path) for name, path in found.items()}
        files = sorted(p.name for p in job.out.iterdir())
        result = {"meta": made.meta if made else None, "external": external, "files": files,
                  "events": job.events, "rows": list(made) if isinstance(made, Dataset) else []}
except FineryError as error:
    result = error.to_dict()
print(json.dumps(result))
"""


class Caller:
    """Runs a step in a process of its own, with one cache for all its calls.

    step: `module:Class`. settings: those that every call has, unless it says otherwise. patience:
    seconds in which something has to come from the hub.
    """

    def __init__(self, hub: Hub, home: Path, step: str, **settings: Any) -> None:
        self.hub = hub
        self.home = home
        self.step = step
        self.settings = settings
        self.patience = 60.0
        self.env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home)}

    def __call__(
        self,
        pinned: str | None = None,
        *,
        base: dict[str, Any] | None = None,
        secrets: dict[str, str] | None = None,
        sketch: bool = False,
        **settings: Any,
    ) -> dict[str, Any]:
        """What a run leaves, or the pin where there is none yet, or the error."""
        call = {
            "step": self.step, "settings": {**self.settings, **settings}, "pinned": pinned,
            "base": base, "secrets": secrets or {}, "sketch": sketch, "patience": self.patience,
        }  # fmt: skip
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        done = subprocess.run(
            [sys.executable, "-c", CALL],
            input=json.dumps(call),
            capture_output=True,
            text=True,
            env={**clean, **self.env},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        made: dict[str, Any] = json.loads(done.stdout)
        return made
