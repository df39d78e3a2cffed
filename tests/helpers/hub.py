"""A hub on this machine, which answers huggingface_hub's client as the real one does.

It takes uploads too, of small files.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from huggingface_hub import constants

COMMIT = "c0ffee0" * 5 + "c0ffe"


@contextlib.contextmanager
def serve(models: Path, gated: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a hub, and the names of the files that it was asked for, as they come.

    Args:
        models: a folder with a folder OWNER/NAME for each model.
        gated: a model whose owner asks for consent.
    """
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.partition("?")[0]
            if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", path):
                self.api(m[1], m[2] or "")
            elif m := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
                self.file(models / m[1] / m[2])
            else:
                self.refuse("EntryNotFound")

        def do_POST(self):
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b"".join(iter(self.chunk, b""))
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            if path == "/api/validate-yaml":
                return self.answer(json.dumps({"errors": [], "warnings": []}).encode())
            if path == "/api/repos/create":
                asking = json.loads(body)
                name = "/".join(filter(None, (asking.get("organization"), asking["name"])))
                if name == gated:
                    return self.refuse("GatedRepo", 403)
                (models / name).mkdir(parents=True, exist_ok=True)
                return self.answer(
                    json.dumps({"url": f"http://{self.headers['Host']}/{name}"}).encode()
                )
            m = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
            if m[2] == "preupload":
                files = [f["path"] for f in json.loads(body)["files"]]
                whole = {"uploadMode": "regular", "shouldIgnore": False}
                return self.answer(
                    json.dumps({"files": [{"path": f} | whole for f in files]}).encode()
                )
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    (models / m[1] / line["value"]["path"]).write_bytes(content)
            url = f"http://{self.headers['Host']}/{m[1]}/commit/{COMMIT}"
            return self.answer(json.dumps({"commitUrl": url, "commitOid": COMMIT}).encode())

        def chunk(self):
            found = self.rfile.read(int(self.rfile.readline(), 16))
            self.rfile.readline()
            return found

        def api(self, name, rest):
            if name == gated:
                return self.refuse("GatedRepo", 403)
            if not (models / name).is_dir():
                return self.refuse("RepoNotFound")
            if rest.startswith("/revision/") and rest.endswith("/v9"):
                return self.refuse("RevisionNotFound")
            files = sorted(f for f in (models / name).rglob("*") if f.is_file())
            listed = [
                {"type": "file", "path": str(f.relative_to(models / name))}
                | {"size": f.stat().st_size, "oid": digest(f)}
                for f in files
            ]
            info = {"id": name, "modelId": name, "sha": COMMIT, "siblings": []}
            return self.answer(json.dumps(listed if "/tree/" in rest else info).encode())

        def file(self, path):
            if not path.is_file():
                return self.refuse("EntryNotFound")
            if self.command == "GET":
                asked.append(path.name)
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest(path)}"'}
            return self.answer(path.read_bytes(), **headers)

        def answer(self, body, **headers):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def refuse(self, code, status=404):
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(monkeypatch, address: str, cache: Path) -> None:
    """Let the hub's client use another address and another cache."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


def digest(path: Path) -> str:
    """Return what git calls a file."""
    return hashlib.sha1(path.read_bytes()).hexdigest()
