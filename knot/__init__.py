"""Knot: a static-file web server written in Tame.

    from knot import Responder, Site
    from knot.models.events import Server, listen, serve
    from tame import run

    run(serve, listen("127.0.0.1", 8000), Server(Responder(Site("./www"))))

The command line, ``knot serve ./www``, does the same.
"""

TYPE_CHECKING = False  # the one of `typing` takes as long to import as all else that a start needs

if TYPE_CHECKING:
    from knot.files.site import Site
    from knot.http.responder import FieldRules, Responder
    from knot.limits import Limits
    from knot.monitor.access_log import AccessLog

__all__ = ["AccessLog", "FieldRules", "Limits", "Responder", "Site"]

MODULES = {
    "AccessLog": "monitor.access_log",
    "FieldRules": "http.responder",
    "Limits": "limits",
    "Responder": "http.responder",
    "Site": "files.site",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: a process that starts handles signals first."""
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"knot.{MODULES[name]}"), name)
    globals()[name] = value
    return value
