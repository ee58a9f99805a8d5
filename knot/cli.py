"""The command line: its commands, their options, and their help."""

from __future__ import annotations

if __name__ == "__main__":
    from knot.__main__ import main as start

    start()  # which imports this file by its name, once signals are handled, and exits

import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import click

from knot.config import effective, load_config, read_settings
from knot.limits import Limits
from knot.models import MODELS
from knot.monitor.access_log import FORMATS
from knot.options import (
    Address,
    Command,
    File,
    Host,
    Network,
    Option,
    Pair,
    Rate,
    Seconds,
    Size,
    Text,
    Workers,
    doubts,
)
from knot.process import spawn
from knot.process.worker import WorkerHandoff
from knot.settings import Listening, Process, Settings, validate

MAX_FD: Final = 2**31 - 1

MIN_INTERVAL: Final = 0.1
"""Seconds."""

GROUPS: Final[Mapping[str, Sequence[Option]]] = {
    "Serving": [
        Option(
            "--host",
            multiple=True,
            default=Listening.host,
            type=Host(),
            help="Address or name to listen on; can be repeated.",
        ),
        Option(
            "--port",
            default=Listening.port,
            type=click.IntRange(0, 65535),
            metavar="N",
            help="Port to listen on; 0 takes any that is free.",
        ),
        Option("--share-port", is_flag=True, help="Share the port with other instances of Knot."),
        Option("--unix", type=File(), help="Listen on a Unix socket at this path instead."),
        Option(
            "--fd",
            type=click.IntRange(0, MAX_FD),
            metavar="N",
            help="Listen on this open descriptor (those of systemd need no option).",
        ),
        Option("--open", is_flag=True, help="Open the site in a browser."),
        Option(
            "--config",
            type=click.Path(),
            metavar="FILE",
            callback=load_config,
            is_eager=True,
            otherwise="knot.toml, if there is one",
            help="Read options from this file.",
        ),
    ],
    "Files": [
        Option(
            "--listing/--no-listing",
            default=None,
            otherwise="only on a tty",
            help="List directories without an index.html.",
        ),
        Option("--hidden", is_flag=True, help="Serve names that begin with a dot."),
        Option(
            "--follow-symlinks", is_flag=True, help="Follow symbolic links that lead out of DIR."
        ),
        Option(
            "--clean-urls",
            is_flag=True,
            help="Serve about.html as /about, and redirect /about.html there.",
        ),
        Option("--spa", is_flag=True, help="Serve /index.html for missing paths without a suffix."),
        Option(
            "--mime",
            multiple=True,
            type=Pair("SUFFIX", "TYPE"),
            help="Media type of a suffix or file name, such as ftl=text/plain.",
        ),
        Option(
            "--cache-control",
            multiple=True,
            type=Pair("GLOB", "VALUE"),
            help="Cache-Control of matching files; the first match wins.",
        ),
        Option(
            "--header", multiple=True, type=Text(), help="Add this header field to every response."
        ),
        Option("--cors", is_flag=True, help="Let scripts of any origin read the files."),
        Option(
            "--cache-size",
            default=Settings.cache_size,
            type=Size(),
            help="Memory for caching files.",
        ),
        Option(
            "--shared-tags",
            is_flag=True,
            help="Make ETags from size and time only, the same on all machines.",
        ),
    ],
    "HTTPS": [
        Option(
            "--cert",
            multiple=True,
            type=File(),
            help="Certificate chain (PEM) for HTTPS; can be repeated.",
        ),
        Option(
            "--key",
            multiple=True,
            type=File(),
            help="Private key, if it is not in the file of --cert.",
        ),
        Option("--tls-self-signed", is_flag=True, help="Make a certificate, for development."),
        Option(
            "--redirect-http",
            type=Address(),
            help="Listen for HTTP at this address, such as :80, and redirect to HTTPS.",
        ),
        Option(
            "--https-port",
            type=click.IntRange(1, 65535),
            metavar="N",
            otherwise="that of --port",
            help="Port to redirect HTTP clients to.",
        ),
        Option(
            "--hsts",
            type=Seconds(),
            help="Time for which browsers must use HTTPS, such as 31536000.",
        ),
    ],
    "Access": [
        Option("--auth", type=File(), help="Require a password from this file (htpasswd -B)."),
        Option(
            "--allow",
            multiple=True,
            type=Network(),
            help="Serve only clients from this network, such as 10.0.0.0/8.",
        ),
        Option(
            "--deny",
            multiple=True,
            type=Network(),
            help="Refuse clients from this network (checked before --allow).",
        ),
        Option(
            "--trust",
            multiple=True,
            type=Network(),
            help="Believe X-Forwarded-For from this network of proxies, or 'unix'.",
        ),
        Option(
            "--proxy-protocol",
            is_flag=True,
            help="Expect a PROXY header from those proxies on each connection.",
        ),
    ],
    "Processes": [
        Option(
            "--workers",
            type=Workers(),
            metavar="N",
            help="Number of worker processes, or 'auto' for one per CPU.",
        ),
        Option(
            "--worker-memory",
            type=Size(),
            help="Replace a worker whose memory exceeds this.",
        ),
        Option("--user", metavar="NAME", help="Become this user once the port is open."),
        Option(
            "--sandbox/--no-sandbox",
            default=Process.sandbox,
            otherwise="on",
            help="Drop all privileges that serving does not need (Landlock).",
        ),
        Option(
            "--model",
            default=Process.model,
            type=click.Choice(MODELS),
            metavar="MODEL",
            help=f"Concurrency model: {', '.join(MODELS)}.",
        ),
        Option(
            "--threads",
            type=click.IntRange(1),
            metavar="N",
            help="Size of a thread pool, with --model threads.",
        ),
        Option(
            "--grace",
            default=Process.grace,
            type=Seconds(),
            help="Time to finish requests before stopping.",
        ),
    ],
    "Logging and metrics": [
        Option(
            "--log",
            type=click.Choice(["off", *FORMATS]),
            metavar="FORMAT",
            otherwise="short on a tty",
            help=f"Access log: off, {', '.join(FORMATS)}.",
        ),
        Option(
            "--log-file",
            type=File(),
            otherwise="standard output",
            help="Append the access log to this file.",
        ),
        Option(
            "--admin",
            type=Address(),
            help="Serve /metrics, /blocked, /health and /ready at this address.",
        ),
    ],
    "Limits": [
        Option(
            "--max-connections",
            default=Limits.connections,
            type=click.IntRange(1),
            metavar="N",
            help="Maximum number of open connections.",
        ),
        Option(
            "--max-connections-per-client",
            type=click.IntRange(1),
            metavar="N",
            help="Maximum number of connections of one client.",
        ),
        Option(
            "--max-requests",
            default=Limits.requests,
            type=click.IntRange(1),
            metavar="N",
            help="Maximum number of requests on one connection.",
        ),
        Option(
            "--max-rate",
            type=Rate(),
            metavar="N",
            help="Requests per second of one client, in bursts of up to 10 s.",
        ),
        Option(
            "--head-timeout",
            default=Limits.head,
            type=Seconds(),
            help="Time for a client to send a request.",
        ),
        Option(
            "--keep-alive",
            default=Limits.keep_alive,
            type=Seconds(),
            help="Time that may pass between two requests.",
        ),
        Option(
            "--send-timeout",
            default=Limits.send,
            type=Seconds(),
            help="Time for which a client may stall a response.",
        ),
    ],
}
"""The options of ``knot serve``, as its help has them."""

MOST_USED: Final = (
    "--host", "--port", "--listing", "--cert", "--key", "--workers", "--log", "--config",
)  # fmt: skip

CONTEXT: Final = {"auto_envvar_prefix": "KNOT", "max_content_width": 100}


def directory() -> click.Argument:
    return click.Argument(
        ["directory"], metavar="[DIR]", default=".", envvar="KNOT_DIRECTORY", type=File()
    )


class Serve(Command):
    """A command that can read its options again."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[__name__] = list(args)
        return super().parse_args(ctx, args)

    def read_again(self, ctx: click.Context) -> Settings:
        """The settings as a start would find them now.  Raises `click.ClickException`."""
        again = self.make_context(ctx.info_name, list(ctx.meta[__name__]), ctx.parent)
        return read_settings(again.params)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="knot-httpd")
def main() -> None:
    """Knot: a static-file web server written in Tame."""
    spawn.clean_import_path()


@main.command(
    cls=Serve,
    params=[directory()],
    groups=GROUPS,
    most_used=MOST_USED,
    context_settings=CONTEXT,
)
@click.pass_context
def serve(context: click.Context, /, **values: Any) -> None:
    """Serve the files in DIR, by default the current directory.

    Every option can also be set in knot.toml, as port = 8080, or in the environment, as
    KNOT_PORT=8080.
    """
    spawn.set_right()
    settings = settings_from(values)
    handoff = WorkerHandoff.from_environment()
    if handoff is None:
        report_doubts(context)
    from knot import run

    assert isinstance(context.command, Serve)
    run.start(settings, partial(context.command.read_again, context), handoff)


@main.command(
    cls=Command,
    params=[directory()],
    groups=GROUPS,
    most_used=MOST_USED,
    context_settings=CONTEXT,
)
@click.pass_context
def check(context: click.Context, /, **values: Any) -> None:
    """Check the configuration of "knot serve" without serving.

    Takes the same options. Prints each setting with where it comes from, as TOML; or says what is
    wrong, and exits with status 2.
    """
    settings = settings_from(values)
    report_doubts(context)
    from knot.check import problems

    found = problems(settings)
    for problem in found:
        click.echo(f"knot: {problem}", err=True)
    if found:
        sys.exit(2)
    click.echo("# The configuration is valid. Each setting, and where it comes from:")
    for line in effective(context, GROUPS):
        click.echo(os.fsencode(line))  # a path of any bytes


@main.command()
def schema() -> None:
    """Print a JSON schema of knot.toml, for editors."""
    from knot.schema import schema_of

    click.echo(json.dumps(schema_of(serve.params), indent=2))


@main.command(
    params=[
        click.Argument(["address"], metavar="[URL or HOST:PORT]", default="127.0.0.1:9090"),
        Option("--interval", default=1, type=Seconds(), help="Time between two updates."),
        Option("--once", is_flag=True, help="Print one page, for scripts."),
    ],
    context_settings={"auto_envvar_prefix": "KNOT_TOP", "max_content_width": 100},
)
def top(address: str, interval: float, once: bool) -> None:
    """Show live figures of the server with this --admin address.

    q or Ctrl-C ends it.
    """
    try:
        from knot.monitor import top as screen
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] == "knot":
            raise
        sys.exit("knot: top needs rich and prometheus-client: pip install 'knot-httpd[top]'")
    try:
        url = screen.parse_address(address)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if interval < MIN_INTERVAL:
        raise click.UsageError(f"--interval must be at least {MIN_INTERVAL:g}")
    try:
        (screen.once if once else screen.run)(url, interval)
    except screen.UnreachableError as error:
        sys.exit(f"knot: {error}")


def settings_from(values: Mapping[str, Any]) -> Settings:
    """The settings, once nothing is imported from a served directory any more.

    Raises `click.UsageError` if they do not go together.
    """
    settings = read_settings(values)
    served = [site.directory for site in (settings.site, *settings.hosts.values())]
    spawn.clean_import_path(*served)
    try:
        validate(settings)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return settings


def report_doubts(context: click.Context) -> None:
    """Say which variables look like options and are none."""
    names = [param.name for param in context.command.params if param.name is not None]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("KNOT_TOP_")
    }
    for text in doubts(f"{context.auto_envvar_prefix}_", names, environment):
        click.echo(f"knot: {text}", err=True)
