"""Knot: a static-file web server written in Tame.

    from knot import serve
    from tame import run

    run(serve, listen("127.0.0.1", 8000), Site("./www"))

The command line, ``knot serve ./www``, does the same.
"""

from knot.models.events import listen, serve
from knot.site import Site

__all__ = ["Site", "listen", "serve"]
