"""Local server on loopback with the part of the Hugging Face Hub's API that downloads and uploads need."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.serving import serve

_COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories by name: {name: {file name: content}}; and a log of the requests, as method and path."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    private: list[str] = field(default_factory=list)
    endpoint: str = ""

    def add(self, name: str, folder: Path) -> None:
        """Add a repository with the files of a folder."""
        self.repositories[name] = {path.name: path.read_bytes() for path in folder.iterdir()}

    @contextmanager
    def running(self) -> Iterator["Hub"]:
        with serve(_handler(self)) as port:
            self.endpoint = f"http://127.0.0.1:{port}"
            yield self


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._file(unquote(urlsplit(self.path).path), is_head=True)

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"GET {path}")
            if not path.startswith("/api/models/"):
                self._file(path)
                return
            parts = path.removeprefix("/api/models/").split("/")
            name, kind = "/".join(parts[:2]), parts[2] if len(parts) > 2 else ""
            files = hub.repositories.get(name)
            if files is None:
                self._error(name)
            elif kind == "tree":
                self._json([_entry(file, content) for file, content in files.items()])
            else:
                self._json({"id": name, "sha": _COMMIT, "siblings": [{"rfilename": file} for file in files]})

        def do_POST(self) -> None:
            path = urlsplit(self.path).path
            hub.requests.append(f"POST {path}")
            body = self._body()
            if path == "/api/repos/create":
                values = json.loads(body)
                name = f"{values['organization']}/{values['name']}"
                hub.repositories.setdefault(name, {})
                hub.private += [name] if values.get("private") or values.get("visibility") == "private" else []
                self._json({"url": f"{hub.endpoint}/{name}", "name": name})
            elif "/preupload/" in path:
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                self._json({"files": files})
            elif "/commit/" in path:
                name = "/".join(path.removeprefix("/api/models/").split("/")[:2])
                for line in body.splitlines():
                    row = json.loads(line)
                    if row["key"] == "file":
                        content = base64.b64decode(row["value"]["content"])
                        hub.repositories[name][row["value"]["path"]] = content
                url = f"{hub.endpoint}/{name}/commit/{_COMMIT}"
                self._json({"success": True, "commitUrl": url, "commitOid": _COMMIT, "hookOutput": ""})
            else:  # the check of the card's header
                self._json({"errors": [], "warnings": []})

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while length := int(self.rfile.readline(), 16):
                body += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _file(self, path: str, is_head: bool = False) -> None:
            user, model, _, _, file = path.lstrip("/").split("/", 4)
            content = hub.repositories.get(f"{user}/{model}", {}).get(file)
            if content is None:
                self._error(path)
                return
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", _COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if not is_head:
                self.wfile.write(content)

        def _json(self, content: object, status: int = 200) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _error(self, name: str) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("X-Error-Message", f"Repository {name} not found")
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler


def _entry(file: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
