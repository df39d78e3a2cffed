"""A real browser that a test drives as a person would: over DevTools, by a pipe.

    with Browser(tmp_path) as browser:
        browser.open("http://127.0.0.1:8780/")
        browser.choose("#file", path)
        browser.wait("!document.getElementById('answer').hidden")

Messages are JSON, each ended by a zero byte (https://chromedevtools.github.io/devtools-protocol/).
"""

import base64
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers.pages import BROWSER

# The browser reads from file 3 and writes to 4; a process of its own puts the pipes there.
START = "import fcntl, os, sys; r, w, *words = sys.argv[1:]"
START += "; a, b = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in (r, w))"
START += "; os.dup2(a, 3); os.dup2(b, 4); os.execv(words[0], words)"
SECONDS = 60


class Browser:
    """A window of a headless browser; `said` is what its console and its errors said.

    Args:
        place: an empty folder for the browser's files.
        width: of the window, pixels.
        dark: whether the person likes dark pages.
    """

    def __init__(self, place: Path, width: int = 1280, dark: bool = False):
        self.place, self.width, self.dark = place, width, dark
        self.said: list[str] = []
        self._count, self._rest, self._session = 0, b"", None

    def __enter__(self):
        theirs, self._to = os.pipe()
        self._from, others = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        flags += ["--disable-background-networking", f"--user-data-dir={self.place}"]
        words = [sys.executable, "-c", START, str(theirs), str(others), BROWSER, *flags]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(words, pass_fds=(theirs, others), **quiet)
        os.close(theirs)
        os.close(others)
        try:
            self._begin()
        except BaseException:
            self._end()
            raise
        return self

    def _begin(self):
        tab = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=tab, flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")
        shape = {"width": self.width, "height": 900, "deviceScaleFactor": 1}
        self.call("Emulation.setDeviceMetricsOverride", mobile=self.width < 600, **shape)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self.dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def __exit__(self, *exception):
        self._session = None
        try:
            self.call("Browser.close")
            self._process.wait(20)
        finally:
            self._end()

    def _end(self):
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **parameters) -> dict:
        """Return what a command of DevTools answers."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._count:
            self._note(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _read(self) -> dict:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser says nothing"
            piece = os.read(self._from, 1 << 16)
            assert piece, "the browser has ended"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict) -> None:
        if event.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.said.append(json.dumps(event["params"]))
        if event.get("method") == "Log.entryAdded":
            self.said.append(event["params"]["entry"]["text"])

    def open(self, address: str) -> None:
        """Go to a page and wait until it is loaded."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def get(self, script: str):
        """Return the value of an expression of the page."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str) -> None:
        """Wait until an expression of the page is true."""
        end = time.monotonic() + SECONDS
        while not self.get(script):
            assert time.monotonic() < end, f"never: {script}"
            time.sleep(0.05)

    def choose(self, selector: str, *files: Path) -> None:
        """Choose files in an <input type=file>."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(f) for f in files])

    def drop(self, x: int, y: int, *files: Path) -> None:
        """Drag files of this machine over the page and let go of them."""
        data = {"items": [], "files": [str(f) for f in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def click(self, selector: str) -> None:
        """Click the middle of an element, after scrolling to it."""
        place = f"document.querySelector({json.dumps(selector)})"
        self.get(f"{place}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        x, y = self.get(
            f"(() => {{ const b = {place}.getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            at = {"x": x, "y": y, "button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, **at)

    def picture(self, path: Path) -> None:
        """Write the whole page as a picture."""
        height = self.get("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": self.width, "height": height, "scale": 1}
        found = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))
