"""Try a run on your own photos, on a page of this machine."""

import argparse
import contextlib
import importlib.util
import logging
import os
import sys
import threading

from vpjax.cli import flags
from vpjax.core.errors import UserError

log = logging.getLogger(__name__)

POSITIONALS = ()
EXAMPLE = "demo --workdir runs/pets"
NEEDS = ("starlette", "uvicorn")  # the extra `demo`


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    add = parser.add_argument
    flags.add_run(parser, "data.dir, backbone.weights, data.background ...")
    add("--top_k", type=int, metavar="K", help="classes of a photo, best first; default: 5")
    text = "training pictures to search for the nearest; default: 2000, 0: none"
    add("--neighbours", type=int, metavar="N", help=text)
    text = "of 127.0.0.1; default: 8780, or the next free one"
    add("--port", type=int, metavar="N", help=text)
    add("--no_browser", action="store_true", help="print the address, open no browser")


def run(arguments: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C; see `vpjax.report.demo`."""
    if absent := [name for name in NEEDS if not importlib.util.find_spec(name)]:
        raise UserError(f"demo needs {' and '.join(absent)}: pip install 'vpjax[demo]'")
    from vpjax.cli import process
    from vpjax.cli.predict import about
    from vpjax.core.progress import waiting
    from vpjax.report import demo_page, demo_server
    from vpjax.report.demo import TOP_K, Demo
    from vpjax.runs.nearest import MOST, nearest_of, open_run_split
    from vpjax.runs.run import restored_run

    process.start()
    a = arguments
    most = MOST if a.neighbours is None else a.neighbours
    if most < 0:
        raise UserError(f"--neighbours is {most}; it must be 0 or more")
    if a.port is not None and not 1 <= a.port <= 65535:
        raise UserError(f"--port is {a.port}; it must be 1 to 65535")
    trained = restored_run(a.workdir, flags.run_config(a), checkpoint=a.checkpoint)
    count = len(trained.classes)
    if a.top_k is not None and not 1 <= a.top_k <= count:
        raise UserError(f"--top_k is {a.top_k}; the run has {count} classes")
    listening = demo_server.bind(a.port)  # before all that takes long
    with listening:
        log.info("run       %s: %s", a.workdir, about(trained))
        examples = _examples(trained, open_run_split)
        nearest, near = _nearest(trained, most, nearest_of)
        log.info("nearest   %s", near)
        demo = Demo(trained, a.top_k or TOP_K, nearest, examples)
        with waiting("compiling, mostly 5 to 60 s, minutes for large models", sys.stderr):
            demo.warm_up()
        html = demo_page.page(
            f"Try {a.workdir.absolute().name}",
            about(trained),
            trained.classes,
            near,
            examples=examples.name if examples else "",
            several=trained.multilabel,
            limit=demo_server.LIMIT,
        )
        address = "http://{}:{}/".format(*listening.getsockname())
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            log.info("page      %s  (Ctrl-C ends it)", address)
            if not a.no_browser:
                open_browser(address)
            demo_server.serve(demo_server.make_app(demo, html), listening)
    log.info("ended")


def _examples(trained, open_run_split):
    """Return the pictures of test, or else val; None if they are not there."""
    split = "test" if trained.config.data.test else "val"
    try:
        return open_run_split(trained, split)
    except UserError as error:
        log.info("examples  none: %s", error)
        return None


def _nearest(trained, most, nearest_of):
    """Return the training pictures, and a line on them; None where they are not there."""
    if not most:
        return None, "None are searched (--neighbours=0)."
    try:
        found = nearest_of(trained, most)
    except UserError as error:
        return None, f"None, as the training pictures are not there: {error}"
    whole, name = len(found.source), found.source.name
    some = (
        f"{len(found):,} of the {whole:,} pictures" if len(found) < whole else f"{whole:,} pictures"
    )
    return found, f"Searched: {some} of {name}; the number is the cosine of the features."


def open_browser(address: str) -> None:
    """Open the system's browser where there is a screen; a browser in the terminal would take it.

    Args:
        address: of the page.
    """
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
