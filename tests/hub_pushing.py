"""The part of the stand-in for the hub that takes pushes: repositories, large files, commits."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from hub_server import TOKEN, Files, Handler, Hub, etag, is_large, listening

PART = 1 << 20
"""Bytes of a part of a large file."""
ROUTES = {
    "whoami": r"/api/whoami-v2",
    "info": r"/api/models/([^/]+/[^/]+)",
    "create": r"/api/repos/create",
    "validate": r"/api/validate-yaml",
    "preupload": r"/api/models/(.+)/preupload/(.+)",
    "batch": r"/(.+)\.git/info/lfs/objects/batch",
    "upload": r"/lfs/([0-9a-f]{64})(?:/(\d+))?",
    "complete": r"/lfs/([0-9a-f]{64})/complete",
    "verify": r"/lfs/([0-9a-f]{64})/verify",
    "commit": r"/api/models/(.+)/commit/(.+)",
}
"""What a request is for → its path."""


class Fault(NamedTuple):
    """An answer in place of the right one."""

    status: int
    message: str = ""
    headers: dict[str, str] = {}


class PushHub(Hub):
    """A hub with an account: `ada`, who writes to the organization `acme`."""

    def __init__(self) -> None:
        super().__init__(PushHandler)
        self.private: dict[str, bool] = {}
        self.blobs: dict[str, bytes] = {}  # SHA-256 → a large file that arrived
        self.parts: dict[str, dict[int, bytes]] = {}
        self.uploads: list[str] = []  # digests of large files, each time that one arrives
        self.messages: list[str] = []  # of commits
        self.operations: list[list[str]] = []  # of each commit
        self.faults: dict[str, list[Fault]] = {}  # route → the next answers
        self.before: dict[str, Callable[[str], None]] = {}  # route → called with the path
        self.role = "write"
        self.orgs: list[dict[str, Any]] = [{"name": "acme", "roleInOrg": "write"}]
        self.ignored: set[str] = set()  # files that a .gitignore names
        self.garbled: set[str] = set()  # files that are kept with another content
        self.card_errors: list[str] = []

    def files(self, repo: str) -> Files:
        """The files of the branch main."""
        return self.commits[repo][self.main[repo]]

    def create(self, repo: str, *, private: bool, files: Files | None = None) -> None:
        """Add a repository."""
        self.private[repo] = private
        self.push(repo, hashlib.sha1(repo.encode()).hexdigest(), files or {".gitattributes": b""})


class PushHandler(Handler):
    """Answers requests for pushes, and all others as the base class does."""

    server: PushHub

    def do_GET(self) -> None:
        """Account and repository."""
        if not self._answered("GET"):
            super().do_GET()

    def do_POST(self) -> None:
        """New repositories, and everything of a commit."""
        if not self._answered("POST"):
            super().do_POST()

    def do_PUT(self) -> None:
        """Large files."""
        self._answered("PUT")

    def _answered(self, method: str) -> bool:
        path = urlsplit(self.path).path
        for route, pattern in ROUTES.items():
            match = re.fullmatch(pattern, path)
            if match is None:
                continue
            self.server.requests.append(f"{method} {self.path}")
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if "chunked" in (self.headers["Transfer-Encoding"] or ""):
                body = self._chunks()
            if before := self.server.before.get(route):
                before(path)
            faults = self.server.faults.get(route)
            if faults:
                self._fail(faults.pop(0))
            elif route not in ("upload", "complete") and not self._is_known():
                self._fail(Fault(401, "Invalid credentials in Authorization header"))
            else:
                names = [unquote(text) if text else "" for text in match.groups()]
                getattr(self, f"_{route}")(body, *names)
            return True
        return False

    def _chunks(self) -> bytes:
        """A body in chunks."""
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _is_known(self) -> bool:
        return self.headers["Authorization"] == f"Bearer {TOKEN}"

    def _fail(self, fault: Fault) -> None:
        self.close_connection = True
        content = json.dumps({"error": fault.message}).encode()
        self.send_response(fault.status)
        message = {"X-Error-Message": fault.message} if fault.message else {}
        self.finish_headers({
            "Content-Type": "application/json", "Content-Length": str(len(content)),
            "Connection": "close", **message, **fault.headers,
        })  # fmt: skip
        self.wfile.write(content)

    def _json(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.finish_headers(
            {"Content-Type": "application/json", "Content-Length": str(len(content))}
        )
        self.wfile.write(content)

    def _whoami(self, body: bytes) -> None:
        token = {"displayName": "laptop", "role": self.server.role}
        self._json({
            "type": "user", "name": "ada", "orgs": self.server.orgs, "auth": {"accessToken": token},
        })  # fmt: skip

    def _info(self, body: bytes, repo: str) -> None:
        if repo not in self.server.commits:
            self._fail(Fault(404, "Repository not found", {"X-Error-Code": "RepoNotFound"}))
            return
        listed = [{"rfilename": name} for name in self.server.files(repo)]
        private = self.server.private.get(repo, False)
        sha = self.server.main[repo]
        self._json({"id": repo, "sha": sha, "private": private, "siblings": listed})

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        owner = asked["organization"] or "ada"
        repo = f"{owner}/{asked['name']}"
        if owner not in ("ada", "acme"):
            self._fail(Fault(403, f"You don't have the rights to create a model under {owner}"))
        elif repo in self.server.commits:
            self._fail(Fault(409, "You already created this model repo"))
        else:
            self.server.create(repo, private=asked.get("visibility") == "private")
            self._json({"url": f"{self.server.url}/{repo}", "name": repo})

    def _validate(self, body: bytes) -> None:
        assert json.loads(body)["content"].startswith("---")
        errors = [{"message": message} for message in self.server.card_errors]
        if not errors:
            self._json({"errors": [], "warnings": []})
            return
        content = json.dumps({"errors": errors, "warnings": []}).encode()
        self.send_response(400)
        self.finish_headers({"Content-Length": str(len(content))})
        self.wfile.write(content)

    def _preupload(self, body: bytes, repo: str, revision: str) -> None:
        there = self.server.files(repo)
        answer = []
        for file in json.loads(body)["files"]:
            path = file["path"]
            large = is_large(path)
            known = {"oid": etag(path, there[path])} if path in there else {}
            answer.append({
                "path": path, "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": path in self.server.ignored, **known,
            })  # fmt: skip
        self._json({"files": answer})

    def _batch(self, body: bytes, repo: str) -> None:
        objects = [self._actions(each) for each in json.loads(body)["objects"]]
        self._json({"transfer": "multipart", "objects": objects})

    def _actions(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in self.server.blobs:
            return wanted
        url = f"{self.server.url}/lfs/{wanted['oid']}"
        upload: dict[str, Any] = {"href": url}
        if wanted["size"] > PART:
            parts = range(1, -(-wanted["size"] // PART) + 1)
            header = {f"{number:05}": f"{url}/{number}" for number in parts}
            upload = {"href": f"{url}/complete", "header": {"chunk_size": str(PART), **header}}
        return {**wanted, "actions": {"upload": upload, "verify": {"href": f"{url}/verify"}}}

    def _upload(self, body: bytes, digest: str, part: str) -> None:
        if part:
            self.server.parts.setdefault(digest, {})[int(part)] = body
        else:
            self._keep(digest, body)
        self.send_response(200)
        self.finish_headers({"ETag": f'"{part}"', "Content-Length": "0"})

    def _complete(self, body: bytes, digest: str) -> None:
        asked = json.loads(body)
        parts = self.server.parts.pop(digest)
        assert [p["partNumber"] for p in asked["parts"]] == sorted(parts)
        self._keep(digest, b"".join(parts[number] for number in sorted(parts)))
        self._json({})

    def _keep(self, digest: str, content: bytes) -> None:
        assert hashlib.sha256(content).hexdigest() == digest
        self.server.blobs[digest] = content
        self.server.uploads.append(digest)

    def _verify(self, body: bytes, digest: str) -> None:
        asked = json.loads(body)
        assert len(self.server.blobs[asked["oid"]]) == asked["size"]
        self._json({})

    def _commit(self, body: bytes, repo: str, revision: str) -> None:
        header, *operations = [json.loads(line) for line in body.splitlines()]
        parent = header["value"].get("parentCommit")
        if parent not in (None, self.server.main[repo]):
            self._fail(Fault(412, "A commit has happened since. Please refresh and try again."))
            return
        files = dict(self.server.files(repo))
        for operation in operations:
            self._apply(files, operation["key"], operation["value"])
        commit = hashlib.sha1(body + self.server.main[repo].encode()).hexdigest()
        self.server.push(repo, commit, files)
        self.server.messages.append(header["value"]["summary"])
        self.server.operations.append([f"{o['key']} {o['value']['path']}" for o in operations])
        url = f"{self.server.url}/{repo}/commit/{commit}"
        self._json({"commitUrl": url, "commitOid": commit, "success": True})

    def _apply(self, files: Files, kind: str, value: dict[str, Any]) -> None:
        if kind == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif kind == "lfsFile":
            files[value["path"]] = self.server.blobs[value["oid"]]
        else:
            assert kind == "deletedFile", kind
            del files[value["path"]]
        if value["path"] in self.server.garbled:
            files[value["path"]] = b"[]"


@contextmanager
def taking_pushes() -> Iterator[PushHub]:
    """A hub that listens and takes pushes."""
    with listening(PushHub()) as server:
        yield server
