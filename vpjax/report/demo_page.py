"""The page of `demo`: a place for a photo, and for what a run says of it.

It is one document that fetches nothing but the answers of the server it came from, and a policy
lets a browser run nothing but the script of `vpjax.report.demo_style`.
"""

import base64
import hashlib
from collections.abc import Sequence

from vpjax.core import escape
from vpjax.data.order import few
from vpjax.report import answer_style
from vpjax.report.demo_style import SCRIPT, STYLE
from vpjax.report.html import ICON

WHOLE = answer_style.STYLE + STYLE


def _sha(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; img-src data:; style-src {_sha(WHOLE)}; script-src {_sha(SCRIPT)}; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(
    title: str,
    about: str,
    classes: Sequence[str],
    near: str,
    examples: str = "",
    several: bool = False,
    limit: int = 0,
) -> str:
    """Return the page as HTML.

    Args:
        title: of the page.
        about: a line on the run.
        classes: that it tells apart.
        near: a line on the training pictures: which are searched, or why none are.
        examples: name of the split whose pictures can be tried; "": there is none.
        several: whether an image may have several classes.
        limit: bytes of a photo, at most.
    """
    known = few(classes)
    more = '<button type="button" id="more">Examples</button> <span class="note">'
    more = f"{more}of {escape.html(examples)}</span>" if examples else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{ICON}
<title>{escape.html(title)}</title>
<style>{WHOLE}</style>
</head>
<body data-limit="{limit}" data-several="{"yes" if several else ""}">
<header><h1>{escape.html(title)}</h1><p class="about">{escape.html(about)}</p>
<p class="about">It knows {escape.html(known)}.</p></header>
<main id="main">
<label class="drop"><input type="file" id="file" accept="image/*">
<b>Drop a photo here</b><span>or <u>choose one</u>, or paste it. It stays on this machine: nothing
is uploaded elsewhere or kept.</span></label>
{more}
<div id="examples" hidden></div>
<p id="message" role="status"></p>
<div id="answer" hidden>
<div class="two">
<figure class="photo">
<div class="stack">
<img id="picture" alt="the photo as the model gets it"><img id="heat" alt="">
</div>
<div id="maps">
<div class="choose" id="choose" role="group" aria-label="Map"></div>
<div class="scale">low <i></i> high <input type="range" id="strength" min="0" max="1" step="0.05"
value="0.55" aria-label="Strength of the map"></div>
<figcaption id="text"></figcaption>
</div>
<p class="note">The photo as the model gets it: <span id="size"></span> pixels.</p>
</figure>
<section class="classes">
<h2>Classes</h2>
<ol id="top"></ol>
<p class="note" id="several"{"" if several else " hidden"}></p>
<p class="note" id="true"></p>
</section>
<section class="near">
<h2>Nearest training pictures</h2>
<p class="note">{escape.html(near)}</p>
<div class="cards" id="near"></div>
</section>
</div>
</div>
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""
