"""A server of one file on this machine, with the faults that real servers and lines have."""

import http.server
import io
import re

import numpy as np


def npz(seed=0, size=20_000):
    buffer = io.BytesIO()
    np.savez(buffer, kernel=np.random.default_rng(seed).normal(size=size))
    return buffer.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` under every path; the attributes choose the faults."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = npz()
        self.etag = '"v1"'
        self.ranges = True
        self.cut_after = None  # bytes of body sent before the connection closes
        self.cuts = 0  # how many answers are still to be cut
        self.status = 200
        self.kind = "application/octet-stream"
        self.md5 = None
        self.length = True
        self.asked = []  # (Range header or None, status) of every request

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/folder/weights.npz"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, content = self.server, self.server.content
        asked = self.headers.get("Range")
        start, status = 0, server.status
        match = asked and re.fullmatch(r"bytes=(\d+)-", asked)
        if match and server.ranges and self.headers.get("If-Range") == server.etag:
            start = int(match[1])
            status = 206 if start < len(content) else 416
        server.asked.append((asked, status))
        self.send_response(status)
        self.send_header("Content-Type", server.kind)
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.length:
            self.send_header("Content-Length", str(len(content) - start))
        if status == 206:
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        if server.md5:
            self.send_header("x-goog-hash", "crc32c=AAAAAA==")
            self.send_header("x-goog-hash", f"md5={server.md5}")
        self.end_headers()
        body = content[start:]
        if server.cut_after is not None and server.cuts > 0:
            server.cuts -= 1
            body = body[: server.cut_after]
        self.wfile.write(body)

    def log_message(self, *args):
        pass
