"""A Hub on loopback: the calls that huggingface_hub makes to download and to push, answered from a dictionary."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FakeHub:
    """What it has and what it was told.

    Attributes:
        address: of it.
        repositories: files by name of the repository; None for one that is gated.
        revisions: other names of the one commit that a repository has.
        asked: requests in their order, "GET /api/models/...".
        private: repositories that were made, and whether they are private.
        token: that pushing needs.
        status: answered to everything, for a Hub that is broken.
        large: files that are named by their SHA-256, as the Hub names those in LFS.
        swapped: what is sent in place of a file.
    """

    address: str = ""
    repositories: dict[str, dict[str, bytes] | None] = field(default_factory=dict)
    revisions: set[str] = field(default_factory=lambda: {"main"})
    asked: list[str] = field(default_factory=list)
    private: dict[str, bool] = field(default_factory=dict)
    token: str = "hf_right"
    status: int | None = None
    large: set[str] = field(default_factory=set)
    swapped: dict[str, bytes] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)  # LFS objects that no commit has yet

    def commit(self, name: str) -> str:
        """The commit that a repository is at: a digest of its files."""
        files = self.repositories[name] or {}
        return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


def serve(hub: FakeHub) -> ThreadingHTTPServer:
    """A server for it, not yet running."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self._answer()

        do_HEAD = do_POST = do_PUT = do_GET

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            if hub.status is not None:
                self._say({"error": "broken"}, hub.status)
            elif self.command in ("POST", "PUT"):
                self._write(path, body)
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+)|/tree/([^/]+))?", path):
                self._describe(found[1], found[2] or found[3], tree=found[3] is not None)
            elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._file(found[1], found[3])
            else:
                self._say({"error": "unknown"}, 404)

        def _describe(self, name: str, revision: str | None, *, tree: bool) -> None:
            if name not in hub.repositories:
                self._say({"error": "no such repository"}, 401, "RepoNotFound")  # the Hub does not tell strangers more
            elif hub.repositories[name] is None:
                self._say({"error": "gated"}, 403, "GatedRepo")
            elif revision not in {None, hub.commit(name), *hub.revisions}:
                self._say({"error": "no such revision"}, 404, "RevisionNotFound")
            elif tree:
                files = hub.repositories[name] or {}
                sizes = {path: len(content) for path, content in files.items()}
                blobs = {path: hashlib.sha1(content).hexdigest() for path, content in files.items()}
                self._say([{"type": "file", "path": p, "size": sizes[p], "oid": blobs[p]} for p in files])
            else:
                files = [{"rfilename": path} for path in hub.repositories[name] or {}]
                self._say({"id": name, "sha": hub.commit(name), "siblings": files})

        def _file(self, name: str, path: str) -> None:
            content = (hub.repositories[name] or {}).get(path)
            if content is None:
                self._say({"error": "no such file"}, 404, "EntryNotFound")
                return
            digest = (hashlib.sha256 if path in hub.large else hashlib.sha1)(content).hexdigest()
            headers = {"ETag": f'"{digest}"', "X-Repo-Commit": hub.commit(name)}
            if path in hub.large:
                headers |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            self._say(hub.swapped.get(path, content), headers=headers)

        def _write(self, path: str, body: bytes) -> None:
            if path.startswith("/lfs/"):  # where the batch below sends them, without the token
                hub.stored[path.removeprefix("/lfs/")] = body
                self._say({})
            elif self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._say({"error": "who are you?"}, 401 if "Authorization" not in self.headers else 403)
            elif path == "/api/validate-yaml":
                self._say({"errors": [], "warnings": []})
            elif path == "/api/repos/create":
                asked = json.loads(body)
                name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
                hub.private.setdefault(name, asked.get("private") or asked.get("visibility") == "private")
                hub.repositories.setdefault(name, {})
                self._say({"url": f"{hub.address}/{name}"})
            elif path.endswith("/info/lfs/objects/batch"):
                objects = [{**one, "actions": self._upload(one["oid"])} for one in json.loads(body)["objects"]]
                self._say({"transfer": "basic", "objects": objects})
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
                modes = [
                    {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular"}
                    for one in json.loads(body)["files"]
                ]
                self._say({"files": [{**mode, "shouldIgnore": False} for mode in modes]})
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
                self._commit(found[1], [json.loads(line) for line in body.splitlines()])
            else:
                self._say({"error": "unknown"}, 404)

        def _upload(self, oid: str) -> dict[str, Any]:
            return {"upload": {"href": f"{hub.address}/lfs/{oid}", "header": {}}}

        def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
            files = hub.repositories[name]
            assert files is not None
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.stored[value["oid"]]
            sha = hub.commit(name)
            self._say({"success": True, "commitOid": sha, "commitUrl": f"{hub.address}/{name}/commit/{sha}"})

        def _say(
            self, answer: Any, status: int = HTTPStatus.OK, code: str = "", headers: dict[str, str] | None = None
        ) -> None:
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    return server
