"""The command `demo`: what is wrong with it, how it ends, and its page in a real browser."""

import importlib.util
import re
import signal
import subprocess
import sys
import threading
import time
import types
import urllib.request

import numpy as np
import pytest
from PIL import Image

from tests.helpers.browser import Browser
from tests.helpers.pages import BROWSER
from tests.helpers.runs import HOME, command, main
from tests.helpers.tried import tried
from vpjax.cli import demo as cli_demo
from vpjax.report import demo_server


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tried(tmp_path_factory.mktemp("cli"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workdir=nowhere"], "nowhere is no run of vpjax"),
        (["--workdir=nowhere", "--port=0"], "--port is 0; it must be 1 to 65535"),
        (["--workdir=nowhere", "--port=70000"], "--port is 70000"),
        (["--workdir=nowhere", "--neighbours=-1"], "--neighbours is -1; it must be 0 or more"),
        ([], "the following arguments are required: --workdir"),
    ],
)
def test_mistakes(words, message):
    done = command("demo", *words)
    assert done.returncode == 2 and message in done.stderr_text
    assert len(done.stderr_text.splitlines()) == 1


@pytest.mark.parametrize("absent", [["starlette"], ["uvicorn"], ["starlette", "uvicorn"]])
def test_without_the_extra(monkeypatch, absent):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        cli_demo.importlib.util, "find_spec", lambda n, *a: None if n in absent else find(n, *a)
    )
    done = command("demo", "--workdir=nowhere")
    assert done.returncode == 2
    expected = f"error: demo needs {' and '.join(absent)}: pip install 'vpjax[demo]'\n"
    assert done.stderr_text == expected


def test_a_browser_is_opened_where_there_is_a_screen(monkeypatch):
    opened = threading.Event()
    fake = types.SimpleNamespace(open=lambda address: opened.set())
    monkeypatch.setitem(sys.modules, "webbrowser", fake)
    monkeypatch.setattr(cli_demo.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    cli_demo.open_browser("http://127.0.0.1:1/")
    assert not opened.wait(0.1)
    monkeypatch.setenv("DISPLAY", ":0")
    cli_demo.open_browser("http://127.0.0.1:1/")
    assert opened.wait(5)


def test_what_a_run_does_not_have(place):
    done = command("demo", f"--workdir={place.folder}", "--top_k=6")
    assert done.returncode == 2 and "--top_k is 6; the run has 5 classes" in done.stderr_text
    with demo_server.bind() as taken:
        port = taken.getsockname()[1]
        done = command("demo", f"--workdir={place.folder}", f"--port={port}")
    assert done.returncode == 2 and f"port {port} is taken" in done.stderr_text
    done = command("demo", f"--workdir={place.folder}", "--config.optim.lr=1")
    assert done.returncode == 2 and "config.optim.lr belongs to the training" in done.stderr_text


# What the clipboard of a screenshot holds.
PASTE = """(async () => {
  const canvas = document.createElement("canvas"), data = new DataTransfer();
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  data.items.add(new File([blob], "pasted.png", { type: "image/png" }));
  dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
})()"""


class Started:
    """The command in a process of its own; `line` is a line that it printed."""

    def __init__(self, *words):
        self.process = main("demo", "--no_browser", *words, wait=False)
        self.lines, self.address = [], ""
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if found := re.match(r"page +(http://127\.0\.0\.1:\d+/)", line):
                self.address = found[1]
                return

    def end(self):
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, "\n".join(self.lines) + out, err


def test_from_the_start_to_ctrl_c(place, tmp_path):
    moved = tmp_path / "elsewhere"
    place.photos.rename(moved)
    try:
        with demo_server.bind():  # the usual port, unless another has it
            started = Started(f"--workdir={place.folder}")
            with urllib.request.urlopen(started.address) as answer:
                page = answer.read().decode()
            code, out, err = started.end()
    finally:
        moved.rename(place.photos)
    assert code == 0 and "Traceback" not in out + err and out.rstrip().endswith("ended")
    assert f"{demo_server.PORT} is taken; " in out
    assert "None, as the training pictures are not there: config.data.name of the run" in page
    assert 'id="more"' not in page  # nor the test split
    begin = time.monotonic()
    started = Started(f"--workdir={place.folder}", "--neighbours=0")
    code, out, err = started.end()
    assert code == 0 and "None are searched (--neighbours=0)" in out
    assert time.monotonic() - begin < 120


# Sends a photo that takes seconds, then Ctrl-C, once or twice.
BUSY = """
import http.client, os, signal, sys, threading, time
from vpjax.report import demo_server
signal.signal(signal.SIGINT, signal.default_int_handler)
listening = demo_server.bind()
class Slow:
    def look(self, data):
        for delay in map(float, sys.argv[1:]):
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
        time.sleep(2.5)
        return {}
def ask():
    connection = http.client.HTTPConnection(*listening.getsockname())
    connection.request("POST", "/look", b"x", {"Content-Type": "application/octet-stream"})
    print("answered", connection.getresponse().status)
asking = threading.Thread(target=ask)
asking.start()
try:
    demo_server.serve(demo_server.make_app(Slow(), ""), listening)
except KeyboardInterrupt:
    asking.join()
    print("ended")
"""


@pytest.mark.parametrize(
    ("delays", "status"), [(["0.5"], 200), (["0.5", "1.0"], 503)], ids=["once", "twice"]
)
def test_ctrl_c_while_a_photo_is_computed(delays, status):
    words = [sys.executable, "-c", BUSY, *delays]
    done = subprocess.run(words, capture_output=True, text=True, cwd=HOME, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"answered {status}\nended\n"), done.stderr
    assert not done.stderr


@pytest.mark.skipif(not BROWSER, reason="there is no chromium")
def test_in_a_browser(place, tmp_path):
    started = Started(f"--workdir={place.folder}")
    try:
        for width, dark in ((1280, False), (390, True)):
            (tmp_path / str(width)).mkdir()
            with Browser(tmp_path / str(width), width, dark) as browser:
                browser.open(started.address)
                _try(browser, place, tmp_path, width)
        with Browser(tmp_path / "last") as browser:
            browser.open(started.address)
            assert started.end()[0] == 0
            browser.choose("#file", tmp_path / "photo.png")
            browser.wait("$('message').textContent.includes('does not answer any more')")
    finally:
        started.process.kill()
        started.process.communicate()


def _try(browser, place, folder, width):
    """Use the page as a person does."""
    files = sorted((place.photos / "train").rglob("*.png"))
    turned = Image.Exif()
    turned[0x0112] = 6
    with Image.open(files[0]) as image:
        Image.fromarray(np.rot90(np.asarray(image))).save(folder / "photo.png", exif=turned)
    (folder / "broken.png").write_bytes(files[0].read_bytes()[:60])
    with open(folder / "large.png", "wb") as file:
        file.truncate(demo_server.LIMIT + 1)

    def answered(name):
        browser.wait(f"!$('answer').hidden && $('message').textContent.startsWith('{name}: ')")
        expected = place.run.predict([path])
        order = np.argsort(-expected.probabilities[0], kind="stable")
        said = browser.get("[...document.querySelectorAll('#top li')].map(l => l.innerText)")
        rows = [f"{place.run.classes[k]}{100 * expected.probabilities[0, k]:.1f} %" for k in order]
        assert ["".join(row.split("\n")) for row in said] == rows
        bar = browser.get("document.querySelector('#top i').getBoundingClientRect().width")
        whole = browser.get("document.querySelector('#top li').getBoundingClientRect().width")
        assert bar / whole == pytest.approx(expected.probabilities.max(), abs=0.02)
        assert not browser.get("[...document.images].filter(i => i.src && !i.naturalWidth).length")
        assert browser.get("document.documentElement.scrollWidth") <= width

    path = folder / "photo.png"
    browser.choose("#file", path)
    answered("photo.png")
    assert "upright by its EXIF" in browser.get("$('message').textContent")
    assert browser.get("$('near').children.length") == 6
    first = browser.get("$('near').children[0].innerText")
    assert "1.000" in first and files[0].name in first and files[0].parent.name in first
    names = browser.get("[...$('choose').children].map(b => b.textContent)")
    assert names == ["Prompts", "Grad-CAM", "Class token"]
    before = browser.get("$('heat').src")
    browser.click("#choose button:nth-child(2)")
    assert "speaks for" in browser.get("$('text').textContent")
    assert browser.get("$('heat').src") != before
    path = files[-1]
    browser.drop(100, 200, path, files[0])
    answered(f"{path.name}, the first of 2 files")
    assert browser.get("$('choose').querySelector('[aria-pressed=true]').textContent") == "Grad-CAM"
    for bad, why in (("broken", "not a picture that can be read"), ("large", "up to 64 MiB")):
        browser.choose("#file", folder / f"{bad}.png")
        browser.wait(
            f"$('message').className === 'wrong' && $('message').textContent.includes('{why}')"
        )
        assert browser.get("$('answer').hidden")
    browser.get("dispatchEvent(new DragEvent('drop', {dataTransfer: new DataTransfer()})), 1")
    assert "That is no file" in browser.get("$('message').textContent")  # but a link
    browser.get(PASTE)
    browser.wait("!$('answer').hidden && $('message').textContent.startsWith('pasted.png: PNG')")
    browser.click("#more")
    browser.wait("!$('examples').hidden && $('examples').children.length === 8")
    browser.click("#examples button:nth-child(3)")
    true = browser.get("$('examples').children[2].innerText.trim()")
    browser.wait(f"$('true').textContent === 'It is {true}.'")
    refused = [line for line in browser.said if "400 (Bad Request)" not in line]
    assert not refused, refused
