"""The parts of the Hub that loading and pushing models need, served from a folder on the loopback interface."""

import base64
import hashlib
import json
import re
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple


# Files that are uploaded separately, before the commit.
LARGE = (".safetensors", ".bin", ".pt", ".parquet")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Place(NamedTuple):
    """What a request is about: repository, its folder (`None` if there is none), action, and path."""

    path: str
    repository: str
    folder: Path | None
    action: str
    rest: str


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise a body waits 40 ms until its headers are acknowledged.
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self.respond(with_body=False)

    def do_GET(self) -> None:
        self.respond(with_body=True)

    def do_POST(self) -> None:
        """Create repositories and accept commits in the form that `huggingface_hub` sends."""
        place, body = self.place(), self.read_body()
        if place.path == "/api/repos/create":
            asked = json.loads(body)
            repository = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            if self.server.repository is None:
                (self.server.folder / repository).mkdir(parents=True, exist_ok=True)
            self.send({"name": repository, "url": f"{self.server.address}/{repository}"}, True)
        elif place.path == "/api/validate-yaml":
            self.send({"errors": [], "warnings": []}, True)
        elif place.folder is None:
            self.send({"error": f"Not served: {place.path}"}, True, 404)
        elif place.action == "preupload":
            modes = {True: "lfs", False: "regular"}
            files = [
                {"path": name, "uploadMode": modes[name.endswith(LARGE)], "shouldIgnore": False}
                for name in (file["path"] for file in json.loads(body)["files"])
            ]
            self.send({"files": files}, True)
        elif place.action == "info" and place.rest == "objects/batch":
            objects = [
                {**entry, "actions": {"upload": {"href": f"{self.server.address}/lfs/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]
            ]
            self.send({"transfer": "basic", "objects": objects}, True)
        elif place.action == "commit":
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] in ("file", "lfsFile"):
                    large = line["key"] == "lfsFile"
                    content = self.server.large[value["oid"]] if large else base64.b64decode(value["content"])
                    target = place.folder / value["path"]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)
            url = f"{self.server.address}/{place.repository}/commit/{COMMIT}"
            self.send({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""}, True)
        elif place.action == "paths-info":
            named = dict(urllib.parse.parse_qsl(body.decode())) if body[:1] != b"{" else json.loads(body)
            paths = named["paths"] if isinstance(named["paths"], list) else [named["paths"]]
            self.send([self.entry(place, place.folder / p) for p in paths if (place.folder / p).exists()], True)
        else:
            self.send({"error": f"Not served: {place.path}"}, True, 404)

    def place(self) -> "Place":
        """Parse what a request is about."""
        path = urllib.parse.unquote(self.path.split("?")[0])
        pattern = (
            r"/(?:api/)?(?:(?:models|datasets)/)?([\w.-]+?/[\w.-]+?)(?:\.git)?(?:/([\w-]+)(?:/[^/]+(?:/(.*))?)?)?"
        )
        match = re.fullmatch(pattern, path)
        if match is None:
            return Place(path, "", None, "", "")
        repository, action, rest = match[1], match[2] or "", match[3] or ""
        folder = self.server.folder
        if self.server.repository is None:
            folder = folder / repository if (folder / repository).is_dir() else None
        elif repository != self.server.repository:
            folder = None
        return Place(path, repository, folder, action, rest)

    @staticmethod
    def entry(place: "Place", file: Path) -> dict:
        """Describe a file or folder for a listing."""
        name = file.relative_to(place.folder).as_posix()
        if file.is_dir():
            return {"type": "directory", "path": name, "oid": "0", "size": 0}
        return {"type": "file", "path": name, "size": file.stat().st_size, "oid": "0"}

    def do_PUT(self) -> None:
        """Store a large file by its SHA-256."""
        content = self.read_body()
        self.server.large[hashlib.sha256(content).hexdigest()] = content
        self.send({}, True)

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while length := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def respond(self, with_body: bool) -> None:
        place = self.place()
        if place.folder is None:
            self.send({"error": "Repository not found"}, with_body, 404, {"X-Error-Code": "RepoNotFound"})
        elif place.action in ("", "revision"):
            files = sorted(file for file in place.folder.rglob("*") if file.is_file())
            details = {
                "id": place.repository,
                "modelId": place.repository,
                "sha": COMMIT,
                "private": False,
                "siblings": [{"rfilename": file.relative_to(place.folder).as_posix()} for file in files],
                "tags": [],
            }
            self.send(details, with_body)
        elif place.action == "tree":
            folder = place.folder / place.rest
            if not folder.is_dir():
                self.send({"error": "Entry not found"}, with_body, 404, {"X-Error-Code": "EntryNotFound"})
                return
            recursive = "recursive=true" in self.path.lower()
            files = folder.rglob("*") if recursive else folder.iterdir()
            self.send([self.entry(place, file) for file in sorted(files)], with_body)
        elif place.action == "resolve":
            self.send_file(place.folder / place.rest, with_body)
        else:
            self.send({"error": f"Not served: {place.path}"}, with_body, 404)

    def send_file(self, file: Path, with_body: bool) -> None:
        if not file.is_file():
            self.send({"error": "Entry not found"}, with_body, 404, {"X-Error-Code": "EntryNotFound"})
            return
        content = file.read_bytes()
        self.server.downloads[file.relative_to(self.server.folder).as_posix()] += with_body
        etag = hashlib.sha256(content).hexdigest()
        self.send(content, with_body, headers={"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def send(self, content, with_body: bool, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


@contextmanager
def serve_hub(folder: Path, repository: str | None = None) -> Iterator[tuple[str, Counter]]:
    """Serve a Hub; yield the address for `HF_ENDPOINT` and a counter of downloads by file in `folder`.

    Args:
        folder: folder with the files; without `repository`, each `user/name` in it is a repository.
        repository: name of the only repository, a model or a data set.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    server.folder, server.repository, server.downloads, server.large = folder, repository, Counter(), {}
    server.address = f"http://127.0.0.1:{server.server_port}"
    # It notices within a poll that it is to end.
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server.address, server.downloads
    finally:
        server.shutdown()
        server.server_close()
