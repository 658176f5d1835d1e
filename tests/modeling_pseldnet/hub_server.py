"""The part of the Hub that loading and pushing a model need, served from a folder on the loopback interface."""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


# What is sent by itself, before the commit.
LARGE = (".safetensors", ".bin", ".pt")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.respond(with_body=False)

    def do_GET(self) -> None:
        self.respond(with_body=True)

    def do_POST(self) -> None:
        """Creates a repository, and takes commits, as `huggingface_hub` makes them."""
        repository, folder, path = self.server.repository, self.server.folder, self.path.split("?")[0]
        lines = [json.loads(line) for line in self.read_body().splitlines()]
        if path == "/api/repos/create":
            self.send({"name": repository, "url": f"{self.server.address}/{repository}"}, True)
        elif path == "/api/validate-yaml":
            self.send({"errors": [], "warnings": []}, True)
        elif path == f"/api/models/{repository}/preupload/main":
            modes = {True: "lfs", False: "regular"}
            files = [
                {"path": name, "uploadMode": modes[name.endswith(LARGE)], "shouldIgnore": False}
                for name in (file["path"] for file in lines[0]["files"])
            ]
            self.send({"files": files}, True)
        elif path == f"/{repository}.git/info/lfs/objects/batch":
            objects = [
                {**entry, "actions": {"upload": {"href": f"{self.server.address}/lfs/{entry['oid']}"}}}
                for entry in lines[0]["objects"]
            ]
            self.send({"transfer": "basic", "objects": objects}, True)
        elif path == f"/api/models/{repository}/commit/main":
            for line in lines:
                value = line["value"]
                if line["key"] in ("file", "lfsFile"):
                    large = line["key"] == "lfsFile"
                    content = self.server.large[value["oid"]] if large else base64.b64decode(value["content"])
                    target = folder / value["path"]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)
            url = f"{self.server.address}/{repository}/commit/{COMMIT}"
            self.send({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""}, True)
        else:
            self.send({"error": f"Not served: {path}"}, True, 404)

    def do_PUT(self) -> None:
        """Takes a large file, by its SHA-256."""
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
        repository, folder = self.server.repository, self.server.folder
        path = self.path.split("?")[0]
        if re.fullmatch(rf"/api/models/{repository}(/revision/[^/]+)?", path):
            siblings = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
            self.send(
                {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings, "tags": []}, with_body
            )
        elif re.fullmatch(rf"/api/models/{repository}/tree/[^/]+", path):
            files = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0"}
                for file in folder.iterdir()
            ]
            self.send(files, with_body)
        elif match := re.fullmatch(rf"/{repository}/resolve/[^/]+/([^/]+)", path):
            self.send_file(folder / match[1], with_body)
        else:
            self.send({"error": "Repository not found"}, with_body, 404, {"X-Error-Code": "RepoNotFound"})

    def send_file(self, file: Path, with_body: bool) -> None:
        if not file.is_file():
            self.send({"error": "Entry not found"}, with_body, 404, {"X-Error-Code": "EntryNotFound"})
            return
        content = file.read_bytes()
        self.server.downloads[file.name] += with_body
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
def serve_hub(folder: Path, repository: str) -> Iterator[tuple[str, Counter]]:
    """The address to give as `HF_ENDPOINT`, and how often each file was downloaded."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    server.folder, server.repository, server.downloads, server.large = folder, repository, Counter(), {}
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.address, server.downloads
    finally:
        server.shutdown()
        server.server_close()
