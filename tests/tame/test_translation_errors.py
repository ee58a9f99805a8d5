"""What has no meaning in Tame is an error that points at its place, by either translator."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tame import TameError, TranslationError
from tame.tools.plain import translate_module

# What stands above each snippet, which is the rest of a tamed function's body.
FUNCTION = """\
import tame as t
from tame import Event, Rendezvous, mkevent, tamed, timer, tvars, twait

@tamed
def f(r: Rendezvous[int], a: list[int], unknown):
    \"\"\"Äh — the columns count characters.\"\"\"
    x = 0
"""

# Name, snippet with the place of the error between « and », and what the message says.
IN_A_FUNCTION = [
    # Blocks
    (
        "a block in a block",
        """
        with twait:
            with «twait»:
                timer(0, mkevent())
        """,
        "cannot be nested in another one, which begins in line 8",
    ),
    (
        "a block deep in a block",
        """
        with twait:
            for i in a:
                if i:
                    try:
                        with «t.twait»:
                            pass
                    finally:
                        pass
        """,
        "put the inner one into a tamed function of its own",
    ),
    (
        "a block with as",
        """
        with twait as «y»:
            pass
        """,
        "`with twait:` has no `as`",
    ),
    (
        "a block and something else",
        """
        with «twait», open("/dev/null"):
            pass
        """,
        "`with twait:` must be the only item of its `with`",
    ),
    (
        "something else and a block",
        """
        with open("/dev/null") as y, «twait»:
            pass
        """,
        "`with twait:` must be the only item of its `with`",
    ),
    (
        "declarations with as",
        """
        with tvars as «y»:
            pass
        """,
        "`with tvars:` has no `as`",
    ),
    (
        "declarations and something else",
        """
        with «tvars», open("/dev/null"):
            pass
        """,
        "`with tvars:` must be the only item of its `with`",
    ),
    # Waits in nested scopes
    (
        "a block in a nested function",
        """
        def nested():
            with «twait»:
                pass
        """,
        "`with twait:` in the function nested() cannot make the enclosing tamed function wait",
    ),
    (
        "a block in a nested coroutine",
        """
        async def nested():
            with «twait»:
                pass
        """,
        "`with twait:` in the function nested() cannot make",
    ),
    (
        "a block in a class body",
        """
        class C:
            with «twait»:
                pass
        """,
        "`with twait:` in the body of class C cannot make",
    ),
    (
        "a block in a method",
        """
        class C:
            def method(self):
                with «twait»:
                    pass
        """,
        "`with twait:` in the function method() cannot make",
    ),
    (
        "a wait in a nested function",
        """
        def nested():
            return «twait(r)»
        """,
        "twait(r) in the function nested() cannot make",
    ),
    ("a wait in a lambda", "y = lambda: «twait(r)»", "twait(r) in a lambda cannot make"),
    (
        "a wait in a class body",
        """
        class C:
            y = «twait(r)»
        """,
        "twait(r) in the body of class C cannot make",
    ),
    (
        "a wait in a comprehension",
        "y = [«twait(r)» for _ in a]",
        "twait(r) is not possible in a comprehension: write a loop",
    ),
    (
        "a wait in a comprehension's condition",
        "y = {i: i for i in a if i == «twait(r)»}",
        "twait(r) is not possible in a comprehension",
    ),
    (
        "a wait in a comprehension's source",
        "y = {i for i in «twait(unknown.r)»}",
        "twait(r) is not possible in a comprehension",
    ),
    (
        "a wait in a generator expression",
        "y = all(i == «twait(r)» for i in a)",
        "twait(r) is not possible in a comprehension",
    ),
    # Events in nested scopes
    (
        "an event of the block in a nested function",
        """
        with twait:
            def nested():
                «mkevent()».trigger()
        """,
        "mkevent() in the function nested() cannot belong to a `with twait:`",
    ),
    (
        "an event of the block in a lambda",
        """
        with twait:
            timer(0, mkevent())
            y = lambda: «mkevent(x)»
        """,
        "make the event outside and use it there",
    ),
    (
        "an event of the block in a class body",
        """
        with twait:
            class C:
                y = «mkevent()»
        """,
        "mkevent() in the body of class C cannot belong to a `with twait:`",
    ),
    (
        "a slot in a nested function",
        """
        def nested():
            «mkevent(r, 1, x)».trigger()
        """,
        "or have slots",
    ),
    # Slots
    (
        "a constant as slot",
        """
        with twait:
            mkevent(«1»)
        """,
        "a slot must be a variable, an item or an attribute, and `1` cannot be assigned to",
    ),
    (
        "a call as slot",
        """
        with twait:
            mkevent(x, «len(a)»)
        """,
        "`len(a)` cannot be assigned to",
    ),
    (
        "a sum as slot",
        """
        with twait:
            mkevent(«x + 1»)
        """,
        "`x + 1` cannot be assigned to",
    ),
    (
        "a sum as the slot of a rendezvous",
        "mkevent(r, 1, x, «x + 1»)",
        "`x + 1` cannot be assigned to",
    ),
    (
        "a tuple as slot",
        """
        with twait:
            mkevent(«(x, x)»)
        """,
        "`(x, x)` cannot be assigned to",
    ),
    (
        "a condition as slot",
        """
        with twait:
            mkevent(«x if a else unknown»)
        """,
        "cannot be assigned to",
    ),
    (
        "an assignment as slot",
        """
        with twait:
            mkevent(«y := 1»)
        """,
        "cannot be assigned to",
    ),
    (
        "several slots in one",
        """
        with twait:
            mkevent(«*a»)
        """,
        "mkevent() takes its slots one by one, not with `*`",
    ),
    (
        "a named slot",
        """
        with twait:
            mkevent(slot=«x»)
        """,
        "mkevent() takes no keyword arguments",
    ),
    (
        "slots from a dictionary",
        """
        with twait:
            mkevent(**«unknown»)
        """,
        "mkevent() takes no keyword arguments",
    ),
    (
        "a slice as slot",
        """
        with twait:
            mkevent(«a[1:2]»)
        """,
        "a slot must be a single item, not a slice",
    ),
    (
        "a slice in several dimensions as slot",
        """
        with twait:
            mkevent(«a[1:2, 0]»)
        """,
        "a slot must be a single item, not a slice",
    ),
    (
        "a comprehension's own variable as slot",
        """
        with twait:
            y = [mkevent(x, «i») for i in a]
        """,
        "the slot `i` is a variable of the comprehension",
    ),
    (
        "a comprehension's own variable as slot of a rendezvous",
        "y = {mkevent(r, i, «i») for i in a}",
        "the slot `i` is a variable of the comprehension",
    ),
    (
        "an event without a block or a rendezvous",
        "«mkevent()»",
        "mkevent() outside `with twait:` makes an event of a rendezvous: write mkevent(r, id, slot",
    ),
    (
        "a slot without a block or a rendezvous",
        "y = [«mkevent(x)»]",
        "move it into a `with twait:`",
    ),
    ("an item without a block or a rendezvous", "«mkevent(a[0])»", "move it into a `with twait:`"),
    # Misuse of the words
    ("a wait for nothing", "«twait()»", "twait(r) takes one rendezvous"),
    ("a wait for two things", "y = «twait(r, 1)»", "its value is the event's id"),
    ("a wait for any number of things", "«twait(*a)»", "twait(r) takes one rendezvous"),
    ("a wait with a keyword", "«twait(rendezvous=r)»", "twait(r) takes one rendezvous"),
    ("twait as a value", "y = «twait»", "twait is a keyword of Tame, not a value"),
    ("mkevent as a value", "print(«mkevent»)", "mkevent is a keyword of Tame"),
    ("tvars as a value", "print([«tvars»])", "tvars is a keyword of Tame"),
    ("an attribute as a value", "print(«t.mkevent»)", "mkevent is a keyword of Tame"),
    ("a word in a nested function", "y = lambda: «twait»", "twait is a keyword of Tame"),
    ("a word as a slot", "with twait: mkevent(x, «twait»)", "twait is a keyword of Tame"),
    # What a tamed function cannot do
    ("yield", "«yield»", "`yield` is not allowed in a tamed function: wait with twait"),
    ("a yield of a value", "y = [(«yield 1»)]", "`yield` is not allowed in a tamed function"),
    ("yield from", "«yield from a»", "`yield` is not allowed in a tamed function"),
    (
        "a value to return",
        "«return x»",
        "a tamed function cannot return a value",
    ),
    (
        "a value to return from a block",
        """
        with twait:
            if a:
                «return 1»
        """,
        "a tamed function cannot return a value",
    ),
    ("after other characters", "print('Ä', «twait»)", "twait is a keyword of Tame"),
    (
        "an error of several lines",
        """
        with twait:
            mkevent(«unknown(
                x,
            )»)
        """,
        "`unknown(x)` cannot be assigned to",
    ),
]

WHOLE_FILES = [
    (
        "a coroutine",
        """
        from tame import tamed, twait

        @tamed
        «async def» f(x):
            await x
        """,
        "a tamed function cannot be `async`",
    ),
    (
        "an error in a nested tamed function",
        """
        from tame import tamed, twait

        @tamed
        def f():
            @tamed
            def g():
                «return 1»

        f()
        """,
        "a tamed function cannot return a value",
    ),
    (
        "an error in a tamed method",
        """
        from tame import mkevent, tamed, twait

        class C:
            class D:
                @staticmethod
                @tamed
                def f():
                    with twait:
                        mkevent(«1»)
        """,
        "`1` cannot be assigned to",
    ),
]

# What only the translator of whole files can know, or must refuse.
ONLY_TEXT = [
    (
        "tamed as a function",
        """
        from tame import tamed

        def g(): ...
        f = «tamed»(g)
        """,
        "tamed can only be translated as `@tamed` above a `def`",
    ),
    (
        "tamed in a lambda",
        """
        import tame

        f = lambda g: «tame.tamed»(g)
        """,
        "tamed can only be translated as `@tamed` above a `def`",
    ),
    (
        "a tamed class",
        """
        from tame import tamed

        @«tamed»
        class C: ...
        """,
        "tamed can only be translated as `@tamed` above a `def`",
    ),
    (
        "tamed above another decorator",
        """
        from tame import tamed

        class C:
            @«tamed»
            @staticmethod
            def f(): ...
        """,
        "put it below all other decorators, nearest to the `def`",
    ),
    (
        "tamed twice",
        """
        from tame import tamed

        @«tamed»
        @tamed
        def f(): ...
        """,
        "put it below all other decorators, nearest to the `def`",
    ),
]


def unmarked(text: str) -> tuple[str, int, int, int | None]:
    """The text without its marks; the line and columns of the place between them, from 1.

    The last column is None if the place ends in another line.
    """
    before, place, after = text.replace("»", "«").split("«")
    line = before.count("\n") + 1
    column = len(before) - (before.rfind("\n") + 1) + 1
    return before + place + after, line, column, None if "\n" in place else column + len(place)


def in_function(snippet: str) -> str:
    return FUNCTION + textwrap.indent(textwrap.dedent(snippet).strip("\n"), "    ") + "\n"


def whole_file(snippet: str) -> str:
    return textwrap.dedent(snippet)


def cases(table: list[tuple[str, str, str]], place: object) -> list[object]:
    return [pytest.param(place(text), said, id=name) for name, text, said in table]  # type: ignore[operator]


def check(error: TranslationError, marked: str, path: Path, said: str) -> None:
    text, line, column, end = unmarked(marked)
    assert isinstance(error, TameError)
    assert error.msg.count(said) == 1, error.msg
    assert error.filename == str(path)
    assert (error.lineno, error.offset) == (line, column)
    assert error.text is not None
    assert error.text.rstrip("\n") == text.splitlines()[line - 1]
    if end is not None and "async def" not in marked:  # which goes on for lines
        assert (error.end_lineno, error.end_offset) == (line, end)


BOTH = cases(IN_A_FUNCTION, in_function) + cases(WHOLE_FILES, whole_file)


@pytest.mark.parametrize(("marked", "said"), BOTH)
def test_the_decorator_refuses(marked: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    text = unmarked(marked)[0]
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TranslationError) as caught:
        exec(compile(text, str(path), "exec", dont_inherit=True), {"__name__": "wrong"})
    check(caught.value, marked, path, said)


@pytest.mark.parametrize(("marked", "said"), BOTH + cases(ONLY_TEXT, whole_file))
def test_tame_translate_refuses(marked: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    with pytest.raises(TranslationError) as caught:
        translate_module(unmarked(marked)[0], str(path))
    check(caught.value, marked, path, said)


def test_an_error_in_one_function_leaves_the_next_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "half.py"
    text = textwrap.dedent(
        """
        from tame import TranslationError, mkevent, tamed, twait

        try:
            @tamed
            def wrong():
                return 1
        except TranslationError as error:
            said.append(error.lineno)

        @tamed
        def right():
            with twait:
                mkevent(x).trigger(1)
            said.append(x)

        right()
        """
    )
    path.write_text(text)
    said: list[int] = []
    exec(compile(text, str(path), "exec"), {"__name__": "half", "said": said})
    assert said == [7, 1]
