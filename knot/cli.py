"""The command line: ``knot serve [DIR] [--host] [--port]``."""

from __future__ import annotations

import errno
import os
import signal
import sys
import warnings
from contextlib import closing
from socket import socket

import click

from knot.models import events
from knot.site import Site
from tame import READ, BlockedWarning, mkevent, run, tamed, twait, wait_on_fd


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="knot")
def main() -> None:
    """Knot: a static-file web server written in Tame."""


@main.command()
@click.argument("directory", metavar="[DIR]", default=".")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes one that is free.",
)
def serve(directory: str, host: str, port: int) -> None:
    """Serve the files in DIR, by default those in the current directory."""
    try:
        site = Site(directory)
    except OSError as error:
        sys.exit(f"knot: cannot serve {directory}: {error.strerror}; name a directory to serve")
    with closing(site), open_listener(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}"
        click.echo(f"Serving {directory} at {address} (Ctrl-C stops)")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BlockedWarning)  # the connections that are cut
            run(serve_until_a_signal, listener, site)


@tamed
def serve_until_a_signal(listener: socket, site: Site) -> None:
    """Serve until SIGINT or SIGTERM.

    Their handler only writes to a descriptor: an exception raised in it could come up inside a
    finalizer, where Python drops it, and the signal would be lost.
    """
    told = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os.eventfd_write(told, 1))
    events.serve(listener, site)
    with twait:
        wait_on_fd(told, READ, mkevent())
    os.close(told)


def open_listener(host: str, port: int) -> socket:
    try:
        return events.listen(host, port)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # create_server() says the address again
        sys.exit(f"knot: cannot listen on {host}:{port}: {reason}; {remedy(error, port)}")


def remedy(error: OSError, port: int) -> str:
    """What to do when a socket cannot listen."""
    if error.errno == errno.EADDRINUSE:
        return "stop the program that listens there, or choose another port with --port"
    if error.errno == errno.EACCES:
        return f"ports below 1024 need a privilege: choose another, as --port {8000 + port % 1000}"
    return "give --host an address of this machine, as 127.0.0.1, or 0.0.0.0 for all of them"


if __name__ == "__main__":
    main(prog_name="knot")
