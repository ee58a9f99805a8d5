"""``tame translate``: the text it writes, and the command."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
import tokenize
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tame.__main__ import main
from tame.tools.plain import translate_module

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

IMPORT = "from tame import mkevent, tamed, timer, tvars, twait"
WITH = "with _tame.block() as _block:"
WAIT = "_block.finish(_block.pending and (yield _block))"

# Name, what stands in a tamed function below `IMPORT`, and what becomes of it.
REWRITTEN = [
    (
        "a simple statement at the end of a block",
        """
        with twait:  # waits
            timer(0, mkevent())  # makes

        print()
        """,
        f"""
        {WITH}  # waits
            timer(0, _block.event()); {WAIT}  # makes

        print()
        """,
    ),
    (
        "a block in one line",
        "with twait: timer(0, mkevent()); x = 1  # both",
        f"{WITH} timer(0, _block.event()); x = 1; {WAIT}  # both",
    ),
    (
        "a semicolon at the end",
        "with twait: x = 1;",
        f"{WITH} x = 1; {WAIT};",
    ),
    (
        "a loop at the end of a block, and a blank line",
        """
        with twait:
            for i in range(3):
                timer(0, mkevent())

        print()

        print()
        """,
        f"""
        {WITH}
            for i in range(3):
                timer(0, _block.event())
            {WAIT}
        print()

        print()
        """,
    ),
    (
        "a loop at the end of a block, and a comment",
        """
        with twait:
            if True:
                timer(0, mkevent())
        # a comment
        print()

        print()
        """,
        f"""
        {WITH}
            if True:
                timer(0, _block.event())
            {WAIT}  # a comment
        print()

        print()
        """,
    ),
    (
        "a loop at the end of a block, and code",
        """
        with twait:
            for i in range(3):
                timer(0, mkevent())  # stays
        print()

        print()
        """,
        f"""
        {WITH}
            for i in range(3):
                timer(0, _block.event())
            {WAIT}  # stays
        print()
        print()
        """,
    ),
    (
        "a loop at the end of a block in a loop",
        """
        for j in range(3):
            with twait:
                for i in range(3): timer(0, mkevent())
            if j:
                break
        """,
        f"""
        for j in range(3):
            {WITH}
                for i in range(3): timer(0, _block.event())
                {WAIT}
            if j:
                break
        """,
    ),
    (
        "nested functions that end together",
        """
        with twait:
            @tamed
            def inner():
                with twait:
                    if True:
                        timer(0, mkevent())
        print()

        """,
        f"""
        {WITH}
            @_tame.closure
            def inner():
                {WITH}
                    if True:
                        timer(0, _block.event())
                    {WAIT}
            {WAIT}
        print()
        """,
    ),
    (
        "slots",
        """
        global g
        x = a = b = None
        with twait:
            mkevent(x, a[0], a[1, 2], b . f, b.c.d["e"][0].f)
            mkevent(new, g)
        """,
        f"""
        global g
        x = a = b = None
        {WITH}
            _block.event(_tame.local(lambda: x), _tame.item(a, 0), _tame.item(a, (1, 2)),\
 _tame.attribute(b , "f"), _tame.attribute(b.c.d["e"][0], "f"))
            _block.event(_tame.local((lambda: new) if True else (new := None)),\
 _tame.item(globals(), "g")); {WAIT}
        """,
    ),
    (
        "waits",
        """
        from tame import Rendezvous
        r = Rendezvous()
        x = twait(r)
        x = [twait(r), twait(x.r)]
        x = twait(
            x.r,  # which
        )
        mkevent(r)
        mkevent(r, 1, x)
        """,
        """
        from tame import Rendezvous
        r = Rendezvous()
        x = r.take(r.ready or (yield r))
        x = [r.take(r.ready or (yield r)),\
 (_wait := x.r).take(_wait.ready or (yield _wait))]
        x = (_wait := 
            x.r  # which
        ).take(_wait.ready or (yield _wait))
        _tame.event(r)
        _tame.event(r, 1, _tame.local(lambda: x))
        """,  # noqa: W291
    ),
    (
        "what the run decides",
        """
        with twait:
            mkevent(argument)
        mkevent(argument, 1)
        """,
        f"""
        {WITH}
            _tame.choose(_block, _tame.local(lambda: argument)); {WAIT}
        _tame.event(argument, 1)
        """,
    ),
    (
        "what the source tells",
        """
        x = 0
        x += 1
        y = [i for i in (1, 2)]
        with twait: mkevent(x), mkevent(y), mkevent(i)
        try: pass
        except KeyError as error:
            with twait: mkevent(error)
        """,
        f"""
        x = 0
        x += 1
        y = [i for i in (1, 2)]
        {WITH} _block.event(_tame.local(lambda: x)), _block.event(_tame.local(lambda: y)),\
 _block.event(_tame.local((lambda: i) if True else (i := None))); {WAIT}
        try: pass
        except KeyError as error:
            {WITH} _tame.choose(_block, _tame.local(lambda: error)); {WAIT}
        """,
    ),
    (
        "declarations",
        """
        with tvars:  # of two
            x: int
            y = 0
        with tvars: z: int
        """,
        """
        if True:  # of two
            x: int
            y = 0
        if True: z: int
        """,
    ),
    (
        "characters of several bytes",
        """
        with twait: print("äöü", mkevent()), print("漢字")  # 漢字
        """,
        f"""
        {WITH} print("äöü", _block.event()), print("漢字"); {WAIT}  # 漢字
        """,
    ),
]


def module(body: str, first: str = IMPORT, decorator: str = "@tamed") -> str:
    inside = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
    return f"{first}\n\n{decorator}\ndef f(argument):\n{inside}\n"


@pytest.mark.parametrize(
    ("before", "after"), [pytest.param(b, a, id=name) for name, b, a in REWRITTEN]
)
def test_the_words_are_rewritten_in_place(before: str, after: str) -> None:
    expected = module(after, f"{IMPORT}; from tame import runtime as _tame", "@_tame.closure")
    assert translate_module(module(before), "file.py") == expected


def test_names_private_to_a_class_are_written_out() -> None:
    text = textwrap.dedent(
        """
        from tame import mkevent, tamed, twait
        class _C:
            @tamed
            def f(self):
                global __g
                with twait:
                    mkevent(__y, self.__x, __g, self.__z__)
        """
    )
    line = translate_module(text, "file.py").splitlines()[-1]
    assert line.strip() == (
        "_block.event(_tame.local((lambda: __y) if True else (__y := None)),"
        ' _tame.attribute(self, "_C__x"),'
        ' _tame.item(globals(), "_C__g"), _tame.attribute(self, "__z__"));'
        f" {WAIT}"
    )


def test_what_is_waited_for_is_a_rendezvous_wherever_it_comes_from() -> None:
    text = textwrap.dedent(
        f"""
        {IMPORT}
        from elsewhere import r, x
        @tamed
        def f():
            with twait: mkevent(r).trigger(), mkevent(x).trigger(1)
            twait(r)
        """
    )
    assert translate_module(text, "file.py").splitlines()[-2].strip() == (
        f"{WITH} _tame.event(r).trigger(),"
        f" _block.event(_tame.local((lambda: x) if True else (x := None))).trigger(1); {WAIT}"
    )


def test_the_last_line_of_a_file_needs_no_end() -> None:
    text = f"{IMPORT}\n@tamed\ndef f():\n    with twait:\n        for i in (): mkevent()"
    assert translate_module(text, "file.py").splitlines()[-2:] == [
        "        for i in (): _block.event()",
        f"        {WAIT}",
    ]


def test_generated_names_avoid_those_of_the_file() -> None:
    text = f"{IMPORT}\n_block_ = 1\n@tamed\ndef f(_tame):\n    with twait: mkevent()\n"
    assert translate_module(text, "file.py").splitlines()[-1] == (
        "    with _tame__.block() as _block__: _block__.event();"
        " _block__.finish(_block__.pending and (yield _block__))"
    )


def test_a_file_without_tamed_functions_stays_as_it_is() -> None:
    text = '"""Doc."""\nimport tame\n\nx = 1  # one\n\ndef twait(): ...\n'
    assert translate_module(text, "file.py") == text


LOCAL = """\
def main():
    from tame import mkevent, tamed, twait

    @tamed
    def f():
        with twait: mkevent()
"""
RUNTIME = "from tame import runtime as _tame"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f'"""Doc."""\n\n{LOCAL}', f'"""Doc."""; {RUNTIME}\n\ndef'),
        (
            f"#!/usr/bin/python\nfrom __future__ import annotations  # now\n{LOCAL}",
            f"#!/usr/bin/python\nfrom __future__ import annotations; {RUNTIME}  # now\ndef",
        ),
        (
            f"import os\nfrom tame import (\n    run,\n)\n{LOCAL}",
            f"import os\nfrom tame import (\n    run,\n); {RUNTIME}\ndef",
        ),
        (f"#!/usr/bin/python\n\n{LOCAL}", f"#!/usr/bin/python\n{RUNTIME}\ndef"),
        (f"# comment\nx = 1\n{LOCAL}", f"# comment\n{RUNTIME}; x = 1\ndef"),
        (f"# comment\n{LOCAL}", f"# comment\n{RUNTIME}\ndef"),
        (f"@print\n{LOCAL}", f"{RUNTIME}\n@print\ndef"),
    ],
    ids=["docstring", "future", "tame", "blank line", "statement", "nothing", "decorator"],
)
def test_the_runtime_is_imported_where_no_line_moves(before: str, after: str) -> None:
    result = translate_module(before, "file.py")
    assert result.startswith(after)
    assert len(result.splitlines()) == len(before.splitlines())
    assert "@_tame.closure" in result


def test_a_function_that_hides_an_imported_word_is_left_alone() -> None:
    text = textwrap.dedent(
        """
        from tame import *

        def mkevent(x): ...

        twait = print

        @tamed
        def f(r):
            mkevent(1)
            twait(r)
        """
    )
    result = translate_module(text, "file.py")
    assert result.splitlines()[2:7] == text.splitlines()[2:7]
    assert result.splitlines()[-2:] == text.splitlines()[-2:]


def test_a_word_in_parentheses_that_cannot_be_replaced_is_refused_with_its_line() -> None:
    text = f"{IMPORT}\n@tamed\ndef f():\n    with twait:\n        (mkevent)()\n"
    with pytest.raises(SyntaxError, match="cannot be translated in place") as caught:
        translate_module(text, "file.py")
    assert (caught.value.filename, caught.value.lineno) == ("file.py", 5)


# -- a whole file ---------------------------------------------------------------------------------

PROGRAMS = (HERE / "programs.py").read_text()


def tokens(text: str) -> list[tokenize.TokenInfo]:
    return list(tokenize.generate_tokens(io.StringIO(text).readline))


def test_comments_stay_and_every_definition_stays_in_its_line() -> None:
    result = translate_module(PROGRAMS, "programs.py")
    comments, definitions = [], []
    for text in (PROGRAMS, result):
        found = tokenize.generate_tokens(io.StringIO(text).readline)
        comments.append([token.string for token in found if token.type == tokenize.COMMENT])
        definitions.append(
            [
                (number, line)
                for number, line in enumerate(text.splitlines(), 1)
                if line.lstrip().startswith(("def ", "class "))
            ]
        )
    assert comments[0] == comments[1]
    assert definitions[0] == definitions[1]
    assert len(result.splitlines()) == len(PROGRAMS.splitlines())


def test_the_output_runs_without_the_translator(tmp_path: Path) -> None:
    (tmp_path / "programs.py").write_text(translate_module(PROGRAMS, "programs.py"))
    check = textwrap.dedent(
        """
        import sys
        from programs import PROGRAMS

        for name, (program, expected) in PROGRAMS.items():
            said = []
            program(said.append)
            assert said == expected, name
        parts = ("translate", "names", "analysis", "tools.plain")
        assert not {f"tame.{part}" for part in parts} & set(sys.modules)
        print(len(PROGRAMS))
        """
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", check],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert int(done.stdout) > 30


def test_the_output_is_a_module_that_is_translated_already() -> None:
    once = translate_module(PROGRAMS, "programs.py")
    assert translate_module(once, "programs.py") == once


# -- the command ----------------------------------------------------------------------------------

GOOD = f"{IMPORT}\n@tamed\ndef f():\n    with twait: mkevent()  # Ä\n"


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["translate", *map(str, arguments)])


def test_the_command_prints_the_translation(tmp_path: Path) -> None:
    file = tmp_path / "good.py"
    file.write_text(GOOD, encoding="utf-8")
    result = invoke(file)
    assert result.exit_code == 0
    assert result.stdout == translate_module(GOOD, "good.py")


def test_the_command_writes_the_translation_to_a_file(tmp_path: Path) -> None:
    file, output = tmp_path / "good.py", tmp_path / "out.py"
    file.write_text("\ufeff" + GOOD, encoding="utf-8")  # with the mark that Windows likes
    result = invoke(file, "-o", output)
    assert (result.exit_code, result.output) == (0, "")
    assert output.read_text(encoding="utf-8") == translate_module(GOOD, "good.py")


def refusal(*arguments: str | Path) -> object:
    """What the command says as it exits; a text there means status 1."""
    with pytest.raises(SystemExit) as caught:
        main(["translate", *map(str, arguments)], prog_name="tame")
    return caught.value.code


def test_a_wrong_output_file_is_one_sentence(tmp_path: Path) -> None:
    file, output = tmp_path / "good.py", tmp_path / "no" / "out.py"
    file.write_text(GOOD, encoding="utf-8")
    assert refusal(file, "-o", output) == f"cannot write {output}: No such file or directory"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            f"{IMPORT}\n@tamed\ndef f():\n    print('Ä', twait)\n".encode(),
            "{file}:4:16: twait is a keyword of Tame, not a value: it cannot be stored or passed\n"
            "    print('Ä', twait)",
        ),
        (b"x = 1\ny = (2\n", "{file}:2:5: '(' was never closed\n    y = (2"),
        (b"def f():\n    return\nreturn\n", "{file}:3:1: 'return' outside function\n    return"),
        (b"x = '\xe4'\n", "{file} is not UTF-8: invalid continuation byte at byte 5"),
        (b"x = 1\0\n", "{file}: source code string cannot contain null bytes"),
    ],
    ids=["of Tame", "of Python", "of the compiler", "not UTF-8", "null bytes"],
)
def test_an_error_says_file_line_and_column_and_that_is_all(
    content: bytes, message: str, tmp_path: Path
) -> None:
    file, output = tmp_path / "wrong.py", tmp_path / "out.py"
    file.write_bytes(content)
    assert refusal(file, "-o", output) == message.format(file=file)
    assert not output.exists()


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    result = invoke(tmp_path / "nothing.py")
    assert result.exit_code == 2
    assert "does not exist" in result.output


def test_python_m_tame_is_the_command(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(f"{IMPORT}\n@tamed\ndef f():\n    yield\n")
    done = subprocess.run(
        [sys.executable, "-m", "tame", "translate", str(file)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"{file}:4:5: `yield` is not allowed in a tamed function: wait with twait\n    yield\n"
    )
