"""The other static-file servers of Python, as benchmarks and the experiment start them.

``python -m loadtest.peers NAME DIR PORT`` serves DIR with the peer of that name.  They come
with ``pip install '.[peers]'``, so each is imported only when it runs.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Final

BACKLOG: Final = 4096


def aiohttp(directory: str, port: int) -> None:
    """aiohttp's static route, which answers with `FileResponse`, on uvloop."""
    web: Any = import_module("aiohttp.web")
    app = web.Application()
    app.router.add_static("/", directory)
    loop = import_module("uvloop").new_event_loop()
    web.run_app(
        app, host="127.0.0.1", port=port, loop=loop, access_log=None, print=None, backlog=BACKLOG
    )


def starlette(directory: str, port: int) -> None:
    """Starlette's `StaticFiles` as the whole application, on uvicorn with uvloop and httptools."""
    app = import_module("starlette.staticfiles").StaticFiles(directory=directory)
    import_module("uvicorn").run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_level="warning",
        access_log=False,
        backlog=BACKLOG,
    )


def granian_application(*_: Any) -> None:
    """Granian needs an application but never calls it: the static files come first."""


if __name__ == "__main__":
    name, directory, port = sys.argv[1:]
    {"aiohttp": aiohttp, "starlette": starlette}[name](directory, int(port))
