"""Serves the page of `demo` to the browser of this machine, and to nobody else.

    GET  /              the page
    POST /look          a photo, the content of its file -> what the run says of it, JSON
    GET  /examples      some pictures of the test split
    POST /examples/3    what the run says of one

It listens on 127.0.0.1. A page of another site cannot read it (no answer goes to a request whose
Host is not this machine's, so a name that was made to lead here is of no use), post to it (Origin)
or frame it. One photo is computed at a time; others wait.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from vpjax.core.errors import UserError
from vpjax.report.demo import Demo
from vpjax.report.demo_page import POLICY

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")  # what a browser may call it
PORT = 8780
TRIES = 100  # ports after it
LIMIT = 64 * 2**20  # bytes of a photo
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Refused(Exception):
    """A request that gets no answer: its status, and why."""

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status


def make_app(demo: Demo, html: str, limit: int = LIMIT) -> Callable:
    """Return the server's application.

    Args:
        demo: what looks at photos.
        html: the page.
        limit: bytes of a photo, at most.
    """
    lock = asyncio.Lock()

    async def alone(function, *arguments):
        async with lock:
            return await run_in_threadpool(function, *arguments)

    async def show(request: Request) -> Response:
        return HTMLResponse(html)

    async def look(request: Request) -> Response:
        return JSONResponse(await alone(demo.look, await _body(request, limit)))

    async def examples(request: Request) -> Response:
        page = request.query_params.get("page", "0")
        if not (page.isdecimal() and page.isascii() and len(page) < 10):
            raise UserError("page is no number")
        return JSONResponse({"examples": await alone(demo.list_examples, int(page))})

    async def example(request: Request) -> Response:
        number = request.path_params["number"]
        return JSONResponse(await alone(demo.look_at_example, number))

    routes = [
        Route("/", show),
        Route("/look", look, methods=["POST"]),
        Route("/examples", examples),
        Route("/examples/{number:int}", example, methods=["POST"]),
    ]
    handlers = {UserError: _refuse(400), Refused: _refuse(None), ClientDisconnect: _refuse(400)}
    return _guarded(Starlette(routes=routes, exception_handlers=handlers))


def _refuse(status: int | None) -> Callable:
    async def answer(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status or error.status)

    return answer


async def _body(request: Request, limit: int) -> bytes:
    """Return what was sent, which is kept in memory alone."""
    if request.headers.get("content-type", "") != "application/octet-stream":
        raise Refused(415, "Send the content of one file, as application/octet-stream.")
    too_large = Refused(413, f"The file is too large: up to {limit / 2**20:g} MiB are taken.")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limit:
        raise too_large
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > limit:
            raise too_large
    return bytes(data)


def _guarded(app: Callable) -> Callable:
    """Return an application that answers only this machine's browser, with strict headers."""

    async def guarded(scope, receive, send):
        async def sealed(message):
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        why = _foreign(Headers(scope=scope)) if scope["type"] == "http" else ""
        answering = JSONResponse({"error": why}, 403) if why else app
        try:
            await answering(scope, receive, sealed)
        except asyncio.CancelledError:  # by a second Ctrl-C
            await JSONResponse({"error": "The program is ending."}, 503)(scope, receive, send)

    return guarded


def _foreign(headers: Headers) -> str:
    """Return why a request is not of this machine's own page; "": it is."""
    host = headers.get("host", "")
    if _name(f"http://{host}") not in NAMES:
        return f"This server is for {' and '.join(NAMES)} only."
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return "This server answers its own page only."
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return "This server answers its own page only."
    return ""


def _name(address: str) -> str | None:
    try:
        parts = urlsplit(address)
        return parts.hostname if parts.port is None or parts.port else None
    except ValueError:
        return None


def bind(port: int | None = None) -> socket.socket:
    """Return a socket that listens on this machine.

    Args:
        port: which; None: `PORT`, or the next one that is free.

    Raises:
        UserError: if it is taken, or not allowed.
    """
    ports = range(PORT, PORT + TRIES) if port is None else [port]
    for number in ports:
        found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            # Or the port of a server that has just ended stays taken for a minute.
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((HOST, number))
            found.listen(128)
        except OSError as error:
            found.close()
            if error.errno == errno.EADDRINUSE and port is None:
                continue
            why = "taken" if error.errno == errno.EADDRINUSE else f"not to be had: {error.strerror}"
            raise UserError(
                f"port {number} is {why}. Choose another --port, or leave it out for the next free "
                f"one from {PORT} on."
            ) from error
        if port is None and number != PORT:
            log.info("port      %s is taken; %s is the next free one", PORT, number)
        return found
    raise UserError(f"ports {PORT} to {PORT + TRIES - 1} are taken. Choose another with --port.")


def make_server(app: Callable) -> uvicorn.Server:
    """Return the server of an application; `run(sockets=[...])` runs it until it is stopped."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
    )


def serve(app: Callable, listening: socket.socket) -> None:
    """Answer until Ctrl-C, which ends as a `KeyboardInterrupt` once a photo in work is answered.

    Args:
        app: see `make_app`.
        listening: see `bind`.
    """
    make_server(app).run(sockets=[listening])
