"""Where every process of Knot begins: ``knot``, ``python -m knot``, and a worker.

It imports next to nothing before signals are handled.  As process 1 of a container it would be deaf
to SIGTERM until then, and anywhere else it would be ended by it with a status that means failure.
"""

import sys

from knot.process import starting


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        starting.handle_signals()
        from knot.process import diagnostics

        diagnostics.install()
    from knot.cli import main as command

    command(prog_name="knot")


if __name__ == "__main__":
    main()
