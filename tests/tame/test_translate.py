"""`@tamed`: what a tamed function means and how it looks (docs/language.md, section 3).

What the programs mean stands in `programs.py`; they run here as written and as ``tame translate``
rewrites them.
"""

from __future__ import annotations

import ast
import bdb
import importlib.util
import inspect
import json
import linecache
import os
import subprocess
import sys
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tame import (
    Event,
    OutsideTamedError,
    Rendezvous,
    TranslationError,
    blocked,
    mkevent,
    run,
    tamed,
    timer,
    tvars,
    twait,
)
from tame.tools.plain import translate_module

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BACKENDS = ["decorated", "translated"]


def load(path: Path, backend: str, name: str = "program") -> ModuleType:
    """The module in the file at `path`, translated by one of the two translators."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    text = path.read_text()
    if backend == "translated":
        text = translate_module(text, str(path))
    exec(compile(text, str(path), "exec", dont_inherit=True), vars(module))
    return module


PROGRAMS = {backend: load(HERE / "programs.py", backend).PROGRAMS for backend in BACKENDS}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PROGRAMS["decorated"])
def test_programs_mean_what_they_say(name: str, backend: str) -> None:
    program, expected = PROGRAMS[backend][name]
    said: list[Any] = []
    program(said.append)
    assert said == expected


# -- what depends on the Python version ---------------------------------------------------------

TYPE_PARAMETERS = '''
from tame import Event, mkevent, run, tamed, timer, twait

class Cell[T]:
    def __init__(self, value: T) -> None:
        self.value = value

    @tamed
    def get[U](self, other: U, done: Event[T, U]) -> None:
        """Doc."""
        type Pair = tuple[T, U]
        with twait:
            timer(0, mkevent())
        said.append((T.__name__, U.__name__, Pair.__name__))
        done.trigger(self.value, other)

@tamed
def main[V](value: V) -> None:
    with twait:
        Cell(value).get("other", mkevent(x, y))
    said.append((x, y, V.__name__, main.__type_params__[0] is V))

said = []
run(main, 1)
'''


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type parameters came with Python 3.12")
@pytest.mark.parametrize("backend", BACKENDS)
def test_type_parameters_stay(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "generic.py"
    path.write_text(TYPE_PARAMETERS)
    assert load(path, backend).said == [("T", "U", "Pair"), (1, "other", "V", True)]


# -- both translators agree with Python itself ----------------------------------------------------

# A random program is rendered twice: in Tame, and as the Python that it must be equal to.  There
# `now` assigns at once, and `later`, which stands directly in its block, at the end of the block.

SLOTS = st.sampled_from(["x", "y", "a[0]", "a[i % 2]", "a[x % 2]", "box.f"])
VALUES = st.sampled_from(["x + 1", "y + i", "a[1] - x", "box.f + a[0]", "7"])
CONDITIONS = st.sampled_from(["x % 2", "y > i", "i == 1", "a[0] <= a[1]"])
Statement = tuple[Any, ...]


def program(children: st.SearchStrategy[Statement]) -> st.SearchStrategy[list[Statement]]:
    return st.lists(children, min_size=1, max_size=3)


SIMPLE = (
    st.tuples(st.just("now"), SLOTS, VALUES)
    | st.tuples(st.just("say"), VALUES)
    | st.tuples(st.sampled_from(["break", "continue", "return"]), CONDITIONS)
)
IN_BLOCK = (
    SIMPLE
    | st.tuples(st.just("later"), SLOTS, VALUES)
    | st.tuples(st.just("for"), program(SIMPLE))
    | st.tuples(st.just("if"), CONDITIONS, program(SIMPLE), program(SIMPLE))
)
BLOCK = st.tuples(st.just("block"), program(IN_BLOCK))
STATEMENTS = st.recursive(
    st.tuples(st.just("say"), VALUES) | BLOCK,
    lambda children: (
        st.tuples(st.just("for"), program(children))
        | st.tuples(st.just("if"), CONDITIONS, program(children), program(children))
        | st.tuples(st.just("try"), program(children), program(children))
    ),
    max_leaves=8,
)


def render(statements: list[Statement], tame: bool, loops: int = 0, inside: bool = False) -> str:
    """The statements as source, in Tame or in plain Python."""
    lines: list[str] = []
    put_off: list[str] = []

    def body(part: list[Statement], loops: int = loops, inside: bool = inside) -> list[str]:
        return ["    " + line for line in render(part, tame, loops, inside).splitlines()]

    for number, statement in enumerate(statements):
        kind, *rest = statement
        if kind == "say":
            lines += [f"say({rest[0]})"]
        elif kind in ("now", "later") and tame:
            lines += [f"{kind}({rest[1]}, mkevent({rest[0]}))"]
        elif kind == "now":
            lines += [f"{rest[0]} = {rest[1]}"]
        elif kind == "later":
            owner, _, index = rest[0].rstrip("]").partition("[")
            index_name, value_name = f"index{number}", f"value{number}"
            lines += [f"{index_name} = {index or 0}", f"{value_name} = {rest[1]}"]
            target = f"{owner}[{index_name}]" if index else rest[0]
            put_off += [f"{target} = {value_name}"]
        elif kind in ("break", "continue", "return"):
            if loops or kind == "return":
                lines += [f"if {rest[0]}:", f"    {kind}"]
        elif kind == "for":
            # Its variable has a name of its own where an outer loop must not go on for ever.
            lines += ["for i in range(3):", *body(rest[0], loops + 1)]
            lines += ["else:", "    say('else')"]
        elif kind == "if":
            lines += [f"if {rest[0]}:", *body(rest[1]), "else:", *body(rest[2])]
        elif kind == "try":
            lines += ["try:", *body(rest[0]), "finally:", *body(rest[1], 0)]
        elif kind == "block":
            lines += ["with twait:" if tame else "if True:", *body(rest[0], loops, True)]
    if inside and not tame:
        lines += put_off
    return "\n".join(lines) or "pass"


WHOLE = """
from types import SimpleNamespace
from tame import mkevent, run, tamed, timer, twait

@tamed
def later(value, done):
    with twait:
        timer(0, mkevent())
    done.trigger(value)

def now(value, done):
    done.trigger(value)

{decorator}
def main(say):
    x = y = i = 0
    a = [0, 1]
    box = SimpleNamespace(f=0)
    try:
{body}
    finally:
        say((x, y, a, box.f))
{rest}
"""
WAIT_FOR_THE_OTHERS = """
        with twait:
            timer(0, mkevent())
"""


def whole(statements: list[Statement], tame: bool) -> str:
    body = "\n".join("        " + line for line in render(statements, tame).splitlines())
    decorator, rest = ("@tamed", WAIT_FOR_THE_OTHERS) if tame else ("", "")
    return WHOLE.format(decorator=decorator, body=body, rest=rest)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(program(STATEMENTS))
def test_both_translators_agree_with_python_itself(statements: list[Statement]) -> None:
    text = whole(statements, tame=True)
    said: dict[str, list[Any]] = {}
    for backend, source in {
        "python": whole(statements, tame=False),
        "decorated": text,
        "translated": translate_module(text, "random.py"),
    }.items():
        name = f"<{backend} random program>"
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        namespace: dict[str, Any] = {"__name__": "random_program"}
        exec(compile(source, name, "exec", dont_inherit=True), namespace)
        said[backend] = []
        run(namespace["main"], said[backend].append)
    assert said["decorated"] == said["python"]
    assert said["translated"] == said["python"]


# -- what a tamed function shows of itself ------------------------------------------------------


def plain_example(a: int, /, b: str = "b", *args: Any, c: float = 1.5, **kwargs: Any) -> None:
    """What it does."""


@tamed
def example(a: int, /, b: str = "b", *args: Any, c: float = 1.5, **kwargs: Any) -> None:
    """What it does."""
    with twait:
        timer(0, mkevent())


def test_a_tamed_function_looks_like_the_function_that_was_written() -> None:
    assert example.__doc__ == "What it does."
    assert example.__name__ == example.__qualname__ == "example"
    assert example.__module__ == __name__
    assert example.__annotations__ == plain_example.__annotations__
    assert inspect.signature(example) == inspect.signature(plain_example)
    original = inspect.unwrap(example)
    assert original.__defaults__ == ("b",)
    assert original.__kwdefaults__ == {"c": 1.5}


def test_getsource_gives_what_the_user_wrote() -> None:
    assert inspect.getsource(example).splitlines()[0] == "@tamed"
    assert inspect.getsource(example).splitlines()[3] == "    with twait:"
    assert inspect.getsourcefile(inspect.unwrap(example)) == __file__


def test_a_nested_function_has_its_whole_qualified_name() -> None:
    @tamed
    def nested() -> None: ...

    assert nested.__qualname__ == (
        "test_a_nested_function_has_its_whole_qualified_name.<locals>.nested"
    )


def test_a_blocked_closure_has_the_name_and_line_of_the_source() -> None:
    seen: list[Any] = []

    @tamed
    def waiter(done: Event[()]) -> None:
        with twait:  # here
            timer(0, mkevent())  # made here
        done.trigger()

    @tamed
    def main() -> None:
        with twait:
            waiter(mkevent())
            seen.extend(blocked())

    run(main)
    assert seen[0].function.endswith("<locals>.waiter")
    assert (seen[0].file, seen[0].line) == (__file__, line_with("# here"))
    assert seen[0].events == (f"{__file__}:{line_with('# made here')}",)


def line_with(text: str) -> int:
    """The number of the one line of this file that ends in `text`."""
    lines = Path(__file__).read_text().splitlines()
    (number,) = [n for n, line in enumerate(lines, 1) if line.endswith(text)]
    return number


# -- where an error points ------------------------------------------------------------------------


def pointed_at(error: BaseException) -> list[tuple[int, str]]:
    """Line and underlined text of each frame of the traceback that is in this file."""
    found = []
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == __file__:
            assert frame.lineno is not None
            line = linecache.getline(__file__, frame.lineno)
            found.append((frame.lineno, line[frame.colno : frame.end_colno]))
    return found


def test_an_error_points_at_its_expression() -> None:
    zero = 0

    @tamed
    def main() -> None:
        with twait:
            timer(0, mkevent())
        say = [1 + (2 / zero)]  # division
        say.clear()

    with pytest.raises(ZeroDivisionError) as caught:
        run(main)
    assert pointed_at(caught.value)[-1] == (line_with("# division"), "2 / zero")


def test_an_error_inside_of_a_block_points_at_its_expression() -> None:
    @tamed
    def main() -> None:
        held = []
        with twait:
            held.append(mkevent(held[5]))
            held[0].trigger(undefined)  # type: ignore[name-defined]  # undefined

    with pytest.raises(NameError) as caught:
        main()
    assert pointed_at(caught.value)[-1] == (line_with("# undefined"), "undefined")


def test_an_error_in_a_slot_points_at_the_slot() -> None:
    @tamed
    def main() -> None:
        with twait:
            mkevent(main.nothing.more)  # type: ignore[attr-defined]  # slot

    with pytest.raises(AttributeError) as caught:
        main()
    assert pointed_at(caught.value)[-1] == (line_with("# slot"), "main.nothing")


def test_an_error_of_an_event_points_at_the_word_that_waits() -> None:
    @tamed
    def block() -> None:
        with twait:  # block waits
            timer(0, mkevent())
            mkevent().fail(KeyError("block"))

    @tamed
    def rendezvous() -> None:
        r = Rendezvous[int]()
        event = mkevent(r, 1)
        event.fail(KeyError("rendezvous"))
        assert [0, twait(r)]  # rendezvous waits

    with pytest.raises(KeyError) as caught:
        run(block)
    assert pointed_at(caught.value)[-1] == (line_with("# block waits"), "twait")
    with pytest.raises(KeyError) as caught:
        run(rendezvous)
    assert pointed_at(caught.value)[-1] == (line_with("# rendezvous waits"), "twait(r)")


def test_an_error_in_a_nested_function_points_there() -> None:
    @tamed
    def main() -> None:
        def nested(x: int) -> float:
            return 1 / x  # nested

        with twait:
            timer(0, mkevent())
        [nested(x) for x in (1, 0)]  # comprehended

    with pytest.raises(ZeroDivisionError) as caught:
        run(main)
    assert pointed_at(caught.value)[-1] == (line_with("# nested"), "1 / x")
    assert (line_with("# comprehended"), "nested(x)") in pointed_at(caught.value)


def test_every_instruction_has_a_place_in_the_functions_own_lines() -> None:
    program = "a_wait_is_an_expression"
    tree = ast.parse((HERE / "programs.py").read_text())
    (node,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == program]
    (main,) = [n for n in node.body if isinstance(n, ast.FunctionDef)]
    module = load(HERE / "programs.py", "decorated")
    bodies: list[CodeType] = []

    def on_call(frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code.co_name == "main" and frame.f_code.co_filename.endswith("programs.py"):
            bodies.append(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(on_call)
    try:
        module.PROGRAMS[program][0](lambda said: None)
    finally:
        sys.setprofile(before)
    lines = range(main.decorator_list[0].lineno, (main.end_lineno or 0) + 1)
    positions = [position for position in bodies[0].co_positions() if position[0] is not None]
    assert {line for line, _, _, _ in positions} <= set(lines)
    # Whatever is underlined is an expression or a statement that stands there.
    places = {
        (part.lineno, part.end_lineno, part.col_offset, part.end_col_offset)
        for part in ast.walk(main)
        if isinstance(part, ast.expr | ast.stmt)
    }
    code = [p for p in positions if None not in p and p[0] != bodies[0].co_firstlineno]
    assert len(code) > 50
    whole = [p for p in code if p in places]
    assert len(whole) > 0.8 * len(code)  # a method call has instructions for the name alone


# -- debuggers and coverage ------------------------------------------------------------------------


class Debugger(bdb.Bdb):
    """Notes the user's variables wherever it stops."""

    def __init__(self) -> None:
        super().__init__()
        self.stops: list[tuple[int, dict[str, Any]]] = []

    def user_line(self, frame: FrameType) -> None:
        if self.break_here(frame):
            self.stops.append((frame.f_lineno, dict(frame.f_locals)))
        self.set_continue()


def test_a_debugger_stops_at_a_line_and_sees_the_variables() -> None:
    @tamed
    def main(argument: int) -> None:
        with tvars:
            a = [0]
        for i in range(2):
            with twait:
                timer(0, mkevent())
                mkevent(x).trigger(i)  # break here
            a.append(x)  # break there

    debugger = Debugger()
    for text in ("# break here", "# break there"):
        assert debugger.set_break(__file__, line_with(text)) is None
    before = sys.gettrace()
    try:
        debugger.runcall(run, main, 7)
    finally:
        debugger.clear_all_breaks()
        sys.settrace(before)
    here, there = line_with("# break here"), line_with("# break there")
    assert [line for line, _ in debugger.stops] == [here, there, here, there]
    variables = [variables for _, variables in debugger.stops]
    assert [(v["argument"], v["i"], v.get("x")) for v in variables] == [
        (7, 0, None),
        (7, 0, 0),
        (7, 1, 0),
        (7, 1, 1),
    ]
    assert variables[-1]["a"] == [0, 0, 1]  # the list goes on after the last stop


COVERED = '''
from tame import Rendezvous, mkevent, run, tamed, timer, tvars, twait

@tamed
def f(flag):
    """Doc."""
    with tvars:
        x = 0
    with twait:
        timer(0, mkevent())
        mkevent(x).trigger(1)
    if flag:
        return                                              # missed
    for i in range(3):
        with twait:
            mkevent(x).trigger(1)
            if i == 1:
                continue
            if i == 2:
                break
        x = i
    else:
        x = 5                                               # missed
    r = Rendezvous()
    while x < 3:
        timer(0, mkevent(r, x))
        x += twait(r) + 1
    try:
        with twait:
            mkevent().fail(KeyError())
        x = 6                                               # missed
    except KeyError:
        with tvars:
            y = 1
        if x:                                               # partial
            x = y
    finally:
        with twait:
            for i in range(2):
                timer(0, mkevent())
    with twait: timer(0, mkevent())
    with twait:
        if x:
            return
        x = 7                                               # missed
    x = 8                                                   # missed

@tamed
def unused():
    with twait:                                             # missed
        mkevent()                                           # missed

@tamed
def loop():
    for i in range(2):
        with twait:
            timer(0, mkevent()) if i > 5 else mkevent(a).trigger(i)

run(f, 0)
loop()
'''


def test_coverage_sees_which_lines_and_branches_ran(tmp_path: Path) -> None:
    pytest.importorskip("coverage")
    file = tmp_path / "covered.py"
    file.write_text(COVERED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COVERAGE_FILE": str(tmp_path / "data")}
    environment.pop("COVERAGE_PROCESS_START", None)
    for command in (["run", "--branch", "--include=covered.py", "covered.py"], ["json", "-q"]):
        subprocess.run(
            [sys.executable, "-m", "coverage", *command],
            cwd=tmp_path,
            env=environment,
            check=True,
        )
    report = json.loads((tmp_path / "coverage.json").read_text())["files"]["covered.py"]
    lines = COVERED.splitlines()
    missed = [n for n, line in enumerate(lines, 1) if line.endswith("# missed")]
    assert report["missing_lines"] == missed
    sources = {abs(source) for source, _ in report["missing_branches"]}
    marked = {n for n, line in enumerate(lines, 1) if line.endswith("# partial")}
    by_missed_lines = {source for source, to in report["missing_branches"] if to in missed}
    assert sources - by_missed_lines == marked


# -- where no source is, or another one ------------------------------------------------------------

SOURCE = """
from tame import mkevent, run, tamed, timer, twait

@tamed
def main(say):
    with twait:
        timer(0, mkevent())
    say("ran")
"""


def test_without_a_source_the_error_names_tame_translate() -> None:
    with pytest.raises(TranslationError, match=r"main\(\).*`tame translate FILE.py`"):
        exec(compile(SOURCE, "<nowhere>", "exec"), {"__name__": "nowhere"})


def test_a_source_in_a_zip_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as file:
        file.writestr("zipped_program.py", SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path / "zipped.zip"))
    import zipped_program  # type: ignore[import-not-found]

    said: list[str] = []
    run(zipped_program.main, said.append)
    assert said == ["ran"]
    monkeypatch.delitem(sys.modules, "zipped_program")


@pytest.mark.parametrize(
    "changed",
    [SOURCE.replace("@tamed", "\n@tamed"), SOURCE.replace("(say)", "(log)"), "x = 1\n"],
    ids=["moved", "other arguments", "gone"],
)
def test_a_file_that_has_changed_since_its_import_is_not_translated(
    changed: str, tmp_path: Path
) -> None:
    path = tmp_path / "changing.py"
    path.write_text(changed)
    with pytest.raises(TranslationError, match=r"changing\.py:4 any more: the file has changed"):
        exec(compile(SOURCE, str(path), "exec"), {"__name__": "changing"})


def written(f: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that keeps the function it decorates behind `__wrapped__`."""

    def call() -> None: ...

    call.__wrapped__ = f  # type: ignore[attr-defined]
    return call


class CallableObject:
    def __call__(self) -> None: ...


@pytest.mark.parametrize(
    "thing",
    [
        staticmethod(plain_example),
        classmethod(plain_example),
        property(plain_example),
        CallableObject,
        CallableObject(),
        CallableObject().__call__,
        print,
        lambda: None,
        written(plain_example),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_only_a_function_written_with_def_can_be_tamed(thing: Any) -> None:
    with pytest.raises(TranslationError, match="put @tamed below all other decorators"):
        tamed(thing)


# -- outside of tamed functions --------------------------------------------------------------------


def test_the_words_outside_of_a_tamed_function_say_where_they_belong() -> None:
    r = Rendezvous[int]()
    x = 0
    with pytest.raises(OutsideTamedError, match="`with twait:` is only possible"), twait:
        pass
    with pytest.raises(OutsideTamedError, match=r"`twait\(r\)` is only possible directly in"):
        twait(r)
    for arguments in ((), (x,), (x, x), (r, 1, x)):
        with pytest.raises(OutsideTamedError, match=r"a slot of mkevent\(\) is only possible"):
            mkevent(*arguments)


def test_tvars_and_an_event_of_a_rendezvous_are_possible_outside() -> None:
    with tvars:
        r = Rendezvous[int]()
    mkevent(r, 5).trigger()
    seen: list[int] = []

    @tamed
    def main() -> None:
        seen.append(twait(r))

    main()
    assert seen == [5]
