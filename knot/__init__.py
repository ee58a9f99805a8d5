"""Knot: a static-file web server written in Tame.

    from knot import Responder, Site
    from knot.models.events import Server, listen, serve
    from tame import run

    run(serve, listen("127.0.0.1", 8000), Server(Responder(Site("./www"))))

The command line, ``knot serve ./www``, does the same.
"""

from knot.limits import Limits
from knot.log import AccessLog
from knot.respond import FieldRules, Responder
from knot.site import Site

__all__ = ["AccessLog", "FieldRules", "Limits", "Responder", "Site"]
