"""The command line: ``tame translate FILE.py [-o OUT.py]``, also as ``python -m tame``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tame.tools.plain import translate_module


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Tame: events that read like threads."""


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file instead of standard output.",
)
def translate(file: Path, output: Path | None) -> None:
    """Print FILE as plain Python that needs no translator.

    Comments are kept and lines stay in place.  The result needs only tame.runtime, and runs where
    no source can be read: frozen, zipped, or compiled.
    """
    try:
        result = translate_module(file.read_text(encoding="utf-8-sig"), str(file))
    except UnicodeDecodeError as error:
        sys.exit(f"{file} is not UTF-8: {error.reason} at byte {error.start}")
    except SyntaxError as error:
        place = f"{error.filename}:{error.lineno}:{error.offset}" if error.filename else str(file)
        line = f"\n    {error.text.strip()}" if error.text else ""
        sys.exit(f"{place}: {error.msg}{line}")
    if output is None:
        click.echo(result, nl=False)
        return
    try:
        output.write_text(result, encoding="utf-8")
    except OSError as error:
        sys.exit(f"cannot write {output}: {error.strerror}")


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def doctor(files: tuple[Path, ...]) -> None:
    """Find mistakes in the tamed functions of FILES.

    They are not run.  A directory means all modules below it.  The exit status is 1 if anything
    is found.
    """
    from tame.tools.doctor import examine

    number = 0
    for file in files:
        for module in sorted(file.rglob("*.py")) if file.is_dir() else [file]:
            try:
                findings = examine(module.read_text(encoding="utf-8-sig"), str(module))
            except (SyntaxError, UnicodeDecodeError) as error:
                click.echo(f"{module}: {error}")
                number += 1
                continue
            for line, column, code, text in findings:
                click.echo(f"{module}:{line}:{column}: {code} {text}")
            number += len(findings)
    if number:
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="tame")
