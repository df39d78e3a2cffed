"""The server of `demo`: whom it answers, what it refuses, and one photo at a time."""

import json
import logging
import socket
import threading
import time
from urllib.parse import quote

import pytest

from tests.helpers.pages import Page
from tests.helpers.served import served
from vpjax.core.errors import UserError
from vpjax.report import demo_page, demo_server


class Fake:
    """Looks at nothing, and notes how many photos it was given at once."""

    def __init__(self):
        self.seen, self.now, self.most = [], 0, 0

    def look(self, data):
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.02)
        self.now -= 1
        self.seen.append(data)
        if data == b"bad":
            raise UserError("This is not a picture that can be read: bad.")
        return {"size": len(data)}

    def list_examples(self, page):
        return [page]

    def look_at_example(self, number):
        if number > 3:
            raise UserError(f"there is no example {number}")
        return {"number": number}


@pytest.fixture(scope="module")
def fake():
    return Fake()


@pytest.fixture(scope="module")
def server(fake):
    with served(fake, limit=1000) as found:
        yield found


def test_what_it_serves(server):
    page = server.ask("GET", "/")
    assert page.status == 200 and page.content == b"<p>page</p>"
    assert page.headers["content-security-policy"] == demo_page.POLICY
    assert page.headers["x-frame-options"] == "DENY" and "server" not in page.headers
    assert page.headers["cache-control"] == "no-store"
    assert server.look(b"12345").json == {"size": 5}
    assert server.ask("GET", "/examples?page=7").json == {"examples": [7]}
    assert server.ask("POST", "/examples/3").json == {"number": 3}
    bad = server.look(b"bad")
    assert bad.status == 400 and bad.json["error"].startswith("This is not a picture")
    assert bad.headers["cross-origin-resource-policy"] == "same-origin"
    assert server.ask("POST", "/examples/4").status == 400
    for page in ("-1", "x", "٣", "9" * 30):
        assert server.ask("GET", f"/examples?page={quote(page)}").status == 400
    assert server.ask("GET", "/look").status == 405
    assert server.ask("GET", "/../etc/passwd").status == 404


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8780", "127.0.0.1.evil.example", "0.0.0.0", "[::1]", "", "a b"]
    + ["localhost.", "user@evil.example", "127.0.0.1@evil.example", "localhost:99999"],
)
def test_a_name_that_leads_here_is_not_enough(server, fake, host):
    before = len(fake.seen)
    for method, path in (("GET", "/"), ("POST", "/look"), ("GET", "/examples")):
        found = server.ask(method, path, b"x", Host=host, Content_Type="application/octet-stream")
        assert found.status in (400, 403) and b"page</p>" not in found.content
    assert len(fake.seen) == before


def test_this_machine_by_its_two_names(server):
    for host in (
        f"127.0.0.1:{server.port}",
        f"localhost:{server.port}",
        "LOCALHOST:1",
        "localhost",
    ):
        assert server.ask("GET", "/", Host=host).status == 200
        assert server.look(b"x", Host=host, Origin=f"http://{host}").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},  # another server of this machine
        {"Origin": "https://127.0.0.1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_other_sites_cannot_post_or_read(server, fake, headers):
    before = len(fake.seen)
    assert server.look(b"x", **headers).status == 403
    assert server.ask("GET", "/examples", **headers).status == 403
    assert server.ask("POST", "/examples/1", **headers).status == 403
    assert len(fake.seen) == before
    # A form of another site can send these kinds without being asked first.
    for kind in ("text/plain", "multipart/form-data; boundary=x", ""):
        assert server.look(b"x", Content_Type=kind).status == 415
    assert "access-control-allow-origin" not in server.ask("OPTIONS", "/look").headers


def test_no_more_than_the_limit_is_read(server, fake):
    assert server.look(b"x" * 1000).status == 200
    before = len(fake.seen)
    found = server.look(b"x" * 1001)
    assert found.status == 413 and "The file is too large: up to" in found.json["error"]
    pieces = (b"x" * 100 for _ in range(11))  # of a length that is not told before
    assert server.look(pieces).status == 413
    with socket.create_connection(("127.0.0.1", server.port)) as gone:  # and one that breaks off
        head = f"POST /look HTTP/1.1\r\nHost: localhost:{server.port}\r\n"
        head += "Content-Type: application/octet-stream\r\nContent-Length: 500\r\n\r\nabc"
        gone.sendall(head.encode())
    assert server.ask("GET", "/").status == 200
    assert len(fake.seen) == before


def test_one_photo_at_a_time(server, fake):
    threads = [threading.Thread(target=server.look, args=(b"x" * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fake.most == 1


def test_a_port_that_is_taken(caplog):
    caplog.set_level(logging.INFO, "vpjax")
    with demo_server.bind() as first, demo_server.bind() as second:
        ports = [s.getsockname()[1] for s in (first, second)]
        assert first.getsockname()[0] == "127.0.0.1"
        assert demo_server.PORT <= ports[0] < ports[1] < demo_server.PORT + demo_server.TRIES
        assert f"{demo_server.PORT} is taken; {ports[1]} is the next free one" in caplog.text
        with pytest.raises(UserError, match=f"port {ports[0]} is taken. Choose another --port"):
            demo_server.bind(ports[0])


def test_the_page_has_what_its_script_uses_and_nothing_of_the_data_can_act():
    hostile = '"><script>alert(1)</script>'
    text = demo_page.page(hostile, hostile, [hostile], hostile, hostile, limit=7)
    found = Page()
    found.feed(text.replace("<input", "<img").replace("<!DOCTYPE html>", ""))
    assert found.scripts == [demo_page.SCRIPT] and hostile in found.words
    ids = {value for _, key, value in found.attributes if key == "id"}
    used = set(demo_page.SCRIPT.split('$("')[1:])
    assert {word.partition('"')[0] for word in used} <= ids
    assert not [a for a in found.attributes if a[1] == "style" or a[1].startswith("on")]
    assert ("body", "data-limit", "7") in found.attributes
    assert 'id="more"' not in demo_page.page("a", "b", ["c"], "d")
    assert json.dumps(demo_page.POLICY).count("sha256-") == 2 and "unsafe" not in demo_page.POLICY
