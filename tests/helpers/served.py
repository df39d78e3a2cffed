"""A server of `demo` in this process, on a free port, and what it answers."""

import contextlib
import http.client
import json
import threading
from typing import NamedTuple

from vpjax.report import demo_server

FILE = {"Content-Type": "application/octet-stream"}


class Answer(NamedTuple):
    """Status, headers (names in lower case) and content of an answer."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self):
        return json.loads(self.content)


class Served:
    """A running server; `port` is its port."""

    def __init__(self, port: int):
        self.port = port

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def ask(self, method: str, path: str, body=None, **headers: str) -> Answer:
        """Send a request, with headers such as `Host="..."`, `Content_Type="..."`."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            found = connection.getresponse()
            names = {name.lower(): value for name, value in found.getheaders()}
            return Answer(found.status, names, found.read())
        finally:
            connection.close()

    def look(self, data: bytes, **headers: str) -> Answer:
        """Send a photo."""
        return self.ask("POST", "/look", data, **({"Content_Type": FILE["Content-Type"]} | headers))


@contextlib.contextmanager
def served(demo, html: str = "<p>page</p>", **options):
    """Serve `demo` while the block runs."""
    listening = demo_server.bind(0)
    server = demo_server.make_server(demo_server.make_app(demo, html, **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield Served(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive()
