"""Pages as a parser and as a browser see them."""

import html.parser
import shutil
import subprocess
from pathlib import Path

from vpjax.report.html import POLICY

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)


class Page(html.parser.HTMLParser):
    """Checks that elements nest; keeps texts, images, scripts, and what is referred to."""

    VOID = ("meta", "img", "br", "hr", "link")

    def __init__(self):
        super().__init__()
        self.open, self.images, self.text, self.links, self.tags = [], [], [], [], []
        self.scripts, self.attributes = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        attrs = dict(attrs)
        self.links += [attrs[key] for key in ("href", "src") if key in attrs]
        if tag == "img":
            self.images.append(attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        kept = self.scripts if self.open[-1:] == ["script"] else self.text
        kept.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def parsed(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert not page.open
    return page


def in_browser(path: Path, place: Path, script: str = "", width: int = 1280) -> tuple[str, str]:
    """Open a page; return what it is afterwards and what the console says.

    Args:
        place: an empty folder for the browser's files.
        script: run at the page's end, in a copy of it without its policy.
        width: of the window, pixels.
    """
    if script:
        text = path.read_text(encoding="utf-8")
        assert POLICY.replace("'", "&#x27;") in text
        text = text.replace(POLICY.replace("'", "&#x27;"), "")
        path = path.with_name("scripted.html")
        path.write_text(text.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
    words = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    words += ["--disable-background-networking", f"--user-data-dir={place}"]
    words += [f"--window-size={width},900", "--dump-dom", path.resolve().as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(said)
