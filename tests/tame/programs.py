"""Small programs to which both translators must give the meaning that Python gives them.

`test_translate.py` runs each twice: as it stands, and as ``tame translate`` rewrites this file.
A program is a function that says what it sees; above it stands what it must say.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import tame as t
from tame import (
    Event,
    Rendezvous,
    mkevent,
    run,
    tamed,
    timer,
    tvars,
    twait,
)
from tame import mkevent as m
from tame import twait as w

Say = Callable[[Any], None]
Program = Callable[[Say], None]
T = TypeVar("T")

PROGRAMS: dict[str, tuple[Program, list[Any]]] = {}

KEY = "key"
count = 0
outcome = None


def says(*expected: Any) -> Callable[[Program], Program]:
    """Enter the program below, which says this."""

    def enter(program: Program) -> Program:
        PROGRAMS[program.__name__] = (program, list(expected))
        return program

    return enter


class Box:
    """Something with attributes."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


@tamed
def later(value: Any, done: Event[Any]) -> None:
    """Hand `value` to `done` after a wait that blocks."""
    with twait:
        timer(0, mkevent())
    done.trigger(value)


def now(value: Any, done: Event[Any]) -> None:
    """The same without a wait."""
    done.trigger(value)


# -- functions of every kind -------------------------------------------------------------------


@says("method 1", "class Sum 2", "static 3", "property")
def methods_of_every_kind_may_be_tamed(say: Say) -> None:
    class Sum:
        @tamed
        def method(self, done: Event[()]) -> None:
            with twait:
                later(1, mkevent(x))
            say(f"method {x}")
            done.trigger()

        @classmethod
        @tamed
        def of_class(cls, done: Event[()]) -> None:
            with twait:
                later(2, mkevent(x))
            say(f"class {cls.__name__} {x}")
            done.trigger()

        @staticmethod
        @tamed
        def static(done: Event[()]) -> None:
            with twait:
                later(3, mkevent(x))
            say(f"static {x}")
            done.trigger()

        @property
        @tamed
        def value(self) -> None:
            with twait:
                now("property", mkevent(x))
            say(x)

    @tamed
    def main() -> None:
        with twait:
            Sum().method(mkevent())
        with twait:
            Sum.of_class(mkevent())
        with twait:
            Sum().static(mkevent())
        assert Sum().value is None

    run(main)


@says({"_Safe__x": 1, "_Safe__y": [2]}, 3, "free 4")
def names_private_to_a_class_stay_private(say: Say) -> None:
    class Safe:
        def __init__(self) -> None:
            self.__y = [0]

        @tamed
        def fill(self, __value: int) -> None:
            with twait:
                later(1, mkevent(self.__x))
                later(2, mkevent(self.__y[0]))
            say(vars(self))
            with twait:
                later(__value, mkevent(__local))
            say(__local)
            __free = 0

            @tamed
            def inner(done: Event[()]) -> None:
                nonlocal __free
                with twait:
                    later(4, mkevent(__free))
                done.trigger()

            with twait:
                inner(mkevent())
            say(f"free {__free}")

    run(Safe().fill, 3)


@says("base 1", "derived 1")
def super_without_arguments_finds_the_base(say: Say) -> None:
    class Base:
        @tamed
        def go(self, x: int, done: Event[()]) -> None:
            with twait:
                timer(0, mkevent())
            say(f"base {x}")
            done.trigger()

    class Derived(Base):
        @tamed
        def go(self, x: int, done: Event[()]) -> None:
            assert __class__ is Derived  # type: ignore[name-defined]
            with twait:
                super().go(x, mkevent())
            say(f"derived {x}")
            done.trigger()

    @tamed
    def main() -> None:
        with twait:
            Derived().go(1, mkevent())

    run(main)


@says(7, 8, 9)
def a_closure_shares_the_variables_around_it(say: Say) -> None:
    total = 0

    @tamed
    def add() -> None:
        nonlocal total
        total += 3
        with twait:
            timer(0, mkevent())
        total += 4

    @tamed
    def assign() -> None:
        nonlocal total
        with twait:
            later(8, mkevent(total))

    @tamed
    def read() -> None:
        with twait:
            timer(0, mkevent())
        say(total + 1)

    run(add)
    say(total)
    run(assign)
    say(total)
    run(read)


@says(5, [0, 1])
def a_slot_may_be_a_global_variable(say: Say) -> None:
    @tamed
    def main() -> None:
        global count, outcome
        with twait:
            later(5, mkevent(count))
            events = [mkevent(outcome) for _ in range(1)]
            now([0, 1], events[0])

    run(main)
    say(globals()["count"])
    say(outcome)


@says((1, 2, 3, 4), (1, 5, 6, 7), 6)
def defaults_and_keyword_only_arguments_stay(say: Say) -> None:
    @tamed
    def f(a: int, b: int = 2, /, c: int = 3, *, d: int = 4) -> None:
        with twait:
            timer(0, mkevent())
        say((a, b, c, d))

    calls: list[int] = []

    @tamed
    def g(first: int = len(calls) + 6) -> None:
        say(first)

    run(f, 1)
    run(functools.partial(f, 1, 5, c=6, d=7))
    calls.append(0)
    g()


@says((1, (2, 3), {"a": 4}))
def any_arguments_are_passed_on(say: Say) -> None:
    @tamed
    def f(first: int, *args: int, **kwargs: int) -> None:
        with twait:
            later((first, args, kwargs), mkevent(x))
        say(x)

    run(functools.partial(f, 1, 2, 3, a=4))


@says("before", "body", "after")
def decorators_above_see_the_tamed_function(say: Say) -> None:
    def loud(f: Callable[[], None]) -> Callable[[], None]:
        @functools.wraps(f)
        def call() -> None:
            say("before")
            f()
            say("after")

        return call

    @loud
    @tamed
    def f() -> None:
        with twait:
            mkevent().trigger()
        say("body")

    f()


@says(0, 1, 2, "outer")
def tamed_functions_nest(say: Say) -> None:
    @tamed
    def outer() -> None:
        for i in range(3):

            @tamed
            def inner(done: Event[()], i: int = i) -> None:
                with twait:
                    timer(0, mkevent())
                say(i)
                done.trigger()

            with twait:
                inner(mkevent())
        say("outer")

    run(outer)


@says("inner Method.go.<locals>.Local.go")
def a_class_in_a_tamed_method_has_tamed_methods(say: Say) -> None:
    class Method:
        @tamed
        def go(self) -> None:
            class Local:
                @tamed
                def go(self, done: Event[()]) -> None:
                    self.__slot = None
                    with twait:
                        later("inner", mkevent(self.__slot))
                    say(f"{self._Local__slot} {name_of(Local.go)}")  # type: ignore[attr-defined]
                    done.trigger()

            with twait:
                Local().go(mkevent())

    run(Method().go)


def name_of(thing: Any) -> str:
    """Its qualified name, within the program."""
    name: str = thing.__qualname__
    return name.partition(".<locals>.")[2]


@says(
    "f.<locals>.Local",
    "f.<locals>.Local.method",
    "f.<locals>.inner",
    "declared_global",
    {"return": "None"},
)
def what_is_defined_inside_has_its_qualified_name(say: Say) -> None:
    @tamed
    def f() -> None:
        global declared_global

        class Local:
            def method(self) -> None: ...

        def inner() -> None: ...

        def declared_global() -> None: ...

        say(name_of(Local))
        say(name_of(Local.method))
        say(name_of(inner))
        say(declared_global.__qualname__)
        say(Local.method.__annotations__)  # a string, because of the import from __future__

    f()


@says(120)
def recursion_works(say: Say) -> None:
    @tamed
    def factorial(n: int, done: Event[int]) -> None:
        if n == 0:
            done.trigger(1)
            return
        with twait:
            factorial(n - 1, mkevent(x))
        with twait:
            timer(0, mkevent())
        done.trigger(n * x)

    @tamed
    def main() -> None:
        with twait:
            factorial(5, mkevent(x))
        say(x)

    run(main)


@tamed
def fall(n: int, done: Event[int]) -> None:
    """Calls itself by its global name."""
    if n > 0:
        with twait:
            fall(n - 1, mkevent(x))
        done.trigger(x + 1)
    else:
        done.trigger(Tower.height)


class Tower:
    """Its methods use its global name."""

    height = 5

    @tamed
    def climb(self, done: Event[int]) -> None:
        with twait:
            fall(Tower.height, mkevent(x))
        done.trigger(x)


@says(10)
def the_own_name_of_a_function_or_its_class_is_the_global_one(say: Say) -> None:
    @tamed
    def main() -> None:
        with twait:
            Tower().climb(mkevent(x))
        say(x)

    run(main)


@says("ran")
def a_tamed_function_need_not_wait(say: Say) -> None:
    @tamed
    def f() -> None:
        """It may have nothing but this, too."""
        say("ran")

    @tamed
    def nothing() -> None:
        """Nothing."""

    f()
    assert nothing() is None


@says("alive")
def a_tamed_function_may_stand_where_nothing_runs(say: Say) -> None:
    if 0:

        @tamed
        def dead() -> None:
            with twait:
                mkevent().trigger()

    say("alive")


@says([(0, "a"), (1, "b")])
def generic_classes_and_type_variables_stay(say: Say) -> None:
    class Numbered(Generic[T]):
        def __init__(self, items: list[T]) -> None:
            self.items = items

        @tamed
        def go(self, done: Event[list[tuple[int, T]]]) -> None:
            result: list[tuple[int, T]] = []
            for i, item in enumerate(self.items):
                with twait:
                    later(item, mkevent(x))
                result.append((i, x))
            done.trigger(result)

    @tamed
    def main() -> None:
        with twait:
            Numbered[str](["a", "b"]).go(mkevent(x))
        say(x)

    run(main)


# -- statements around waits -------------------------------------------------------------------


@says("else", "finally 0", "except 1", "finally 1", "outer 2", "finally 2", "inner finally", "end")
def try_works_around_waits(say: Say) -> None:
    @tamed
    def main() -> None:
        for i in range(3):
            try:
                try:
                    with twait:
                        event = mkevent(x)
                        timer(0, mkevent())
                        if i == 0:
                            event.trigger(1)
                        else:
                            event.fail(KeyError(i) if i == 1 else ValueError(i))
                except KeyError:
                    say(f"except {i}")
                else:
                    say("else")
                finally:
                    with twait:
                        timer(0, mkevent())
                    if i < 2:
                        say(f"finally {i}")
            except ValueError:
                say(f"outer {i}")
                say(f"finally {i}")
        try:
            with twait:
                mkevent().trigger()
            return
        finally:
            with twait:
                timer(0, mkevent())
            say("inner finally")
            say("end")

    run(main)


@says(0, 1, "for else", 0, "while else")
def loops_keep_their_else(say: Say) -> None:
    @tamed
    def main() -> None:
        for i in range(2):
            with twait:
                later(i, mkevent(x))
            say(x)
        else:
            with twait:
                later("for else", mkevent(x))
            say(x)
        i = 0
        while i < 1:
            with twait:
                later(i, mkevent(x))
            say(x)
            i += 1
        else:
            say("while else")
        for i in range(2):
            with twait:
                event = mkevent()
                if i == 0:
                    break
                event.trigger()
        else:
            say("not reached")

    run(main)


@says("made 0", "after 0", "made 1", "made 2", "made 3", "old")
def leaving_a_block_early_does_not_wait(say: Say) -> None:
    held: list[Event[Any]] = []

    @tamed
    def main() -> None:
        x = "old"
        for i in range(9):
            with twait:
                event = mkevent(x)
                say(f"made {i}")
                held.append(event)
                if i == 1:
                    continue
                if i == 2:
                    break
                event.trigger("old")
            say(f"after {i}")
        with twait:
            held.append(mkevent(x))
            say("made 3")
            for event in held:
                if event.live and event is not held[-1]:
                    event.trigger("new")
            say(x)
            return
        say("not reached")

    main()
    held.clear()


@says("left 0", "left 1", "blocked", "new", "waited")
def an_event_of_a_round_that_was_left_does_not_count_in_the_next(say: Say) -> None:
    held: list[Event[Any]] = []

    @tamed
    def rounds(done: Event[()]) -> None:
        for i in range(3):
            try:
                with twait:
                    held.append(mkevent(x))
                    if i == 0:
                        continue
                    if i == 1:
                        raise KeyError
            except KeyError:
                say("left 1")
            finally:
                if i == 0:
                    say("left 0")
        say(x)
        done.trigger()

    @tamed
    def main() -> None:
        with twait:
            rounds(mkevent())
            held[0].trigger("old")
            held[1].trigger("older")
            say("blocked")
            timer(0, mkevent())
            held[2].trigger("new")
        say("waited")

    run(main)


@says(["A", "B"], {"a": "A", "b": "B"}, ["a0", "b1"])
def comprehensions_stand_around_and_inside_of_blocks(say: Say) -> None:
    @tamed
    def main() -> None:
        names = ["a", "b"]
        found: dict[str, str] = {}
        with twait:
            _ = [later(name.upper(), mkevent(found[name])) for name in names]
        say([found[name] for name in names])
        say(found)
        slots = [""] * 2
        with twait:
            events = {name: mkevent(slots[i]) for i, name in enumerate(names) if name}
            any(now(f"{name}{i}", events[name]) for i, name in enumerate(events))
        say(slots)

    run(main)


@says(("pair", 1, 2), ("list", [2, 3]), ("box", 4), ("other", None))
def match_statements_may_wait(say: Say) -> None:
    @tamed
    def main() -> None:
        for subject in ((1, 2), [1, 2, 3], Box(value=4), None):
            with twait:
                later(subject, mkevent(x))
            match x:
                case (a, b):
                    with twait:
                        later(b, mkevent(b))
                    say(("pair", a, b))
                case [_, *rest]:
                    say(("list", rest))
                case Box(value=value):
                    say(("box", value))
                case other:
                    say(("other", other))

    run(main)


@says(["value"], ["key 1", "key 2"], "both")
def except_star_takes_the_failures_of_a_block_apart(say: Say) -> None:
    @tamed
    def main() -> None:
        try:
            with twait:
                timer(0, mkevent())
                mkevent().fail(KeyError("key 1"))
                mkevent().fail(ValueError("value"))
                mkevent().fail(KeyError("key 2"))
        except* ValueError as group:
            with twait:
                timer(0, mkevent())
            say([error.args[0] for error in group.exceptions])
        except* KeyError as group:
            say([error.args[0] for error in group.exceptions])
        say("both")

    run(main)


@says(0, 1, "end", "last")
def a_wait_is_an_expression(say: Say) -> None:
    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        for i in range(3):
            timer(0, mkevent(r, i))
        while (i := twait(r)) != 2:
            say(i)
        say("end" if (last := i) == 2 else "")
        timer(0, mkevent(r, 2))
        say({last: "last"}[twait(r)])

    run(main)


@says("waited", "closed", "closed", "goes on")
def other_with_statements_stay_what_they_are(say: Say) -> None:
    class Closing:
        def __enter__(self) -> Closing:
            return self

        def __exit__(self, *error: object) -> None:
            say("closed")

    @tamed
    def main() -> None:
        with Closing() as a, Closing() as b:
            with twait:
                later("waited", mkevent(x))
            say(x)
            assert a is not b
        say("goes on")

    run(main)


@says([1, 2], 3)
def nested_functions_may_yield_and_return(say: Say) -> None:
    @tamed
    def main() -> None:
        def numbers() -> Iterator[int]:
            yield 1
            yield from [2]

        async def unused() -> int:
            return 1

        def three() -> int:
            return 3

        with twait:
            later(list(numbers()), mkevent(x))
        say(x)
        say(three())
        if x:
            return None  # noqa: RET501
        say("not reached")

    run(main)


# -- the words by other names ------------------------------------------------------------------


@says(1, 2, 3, 4)
def the_words_may_have_other_names(say: Say) -> None:
    @t.tamed
    def main() -> None:
        r = t.Rendezvous[int]()
        with t.twait:
            later(1, t.mkevent(x))
        say(x)
        with w:
            later(2, m(x))
        say(x)
        timer(0, m(r, 3))
        say(w(r))
        timer(0, t.mkevent(r, 4))
        say(t.twait(r))

    run(main)


@says("local", "local", 1)
def the_words_may_be_imported_in_the_function(say: Say) -> None:
    @tamed
    def main() -> None:
        import tame as here
        from tame import mkevent as make
        from tame import twait as wait

        with here.twait:
            later("local", make(x))
        say(x)
        with wait:
            later("local", here.mkevent(x))
        say(x)
        r = here.Rendezvous[int]()
        make(r, 1).trigger()
        say(wait(r))

    run(main)


@says(("mkevent", 1), "entered", ("twait", 2), [3, 3])
def a_function_of_the_users_own_with_such_a_name_is_left_alone(say: Say) -> None:
    class Manager:
        def __enter__(self) -> None:
            say("entered")

        def __exit__(self, *error: object) -> None: ...

        def __call__(self, x: int) -> tuple[str, int]:
            return ("twait", x)

    @tamed
    def main(mkevent: Callable[[int], tuple[str, int]], twait: Manager) -> None:
        say(mkevent(1))
        with twait:
            pass
        say(twait(2))

    main(lambda x: ("mkevent", x), Manager())

    @tamed
    def comprehended() -> None:
        say([twait for twait in [3, 3] if twait])

    comprehended()


@says(10, 11)
def names_like_the_generated_ones_do_not_collide(say: Say) -> None:
    @tamed
    def main() -> None:
        _tame = _block = _wait = block = closure = 10
        with twait:
            later(11, mkevent(x))
            assert (_tame, _block, _wait, block, closure) == (10,) * 5
        say(_block)
        say(x)

    run(main)


# -- slots -------------------------------------------------------------------------------------


@says((1, [0, 2], 3, {"k": 4}, [[5]]))
def slots_are_variables_items_and_attributes(say: Say) -> None:
    @tamed
    def main() -> None:
        with tvars:
            x: int
            a = [0, 0]
            box = Box(f=0)
            d: dict[str, int] = {}
            grid = Box(rows=[[0]])
        with twait:
            mkevent(x, a[-1], box.f, d["k"], grid.rows[0][0]).trigger(1, 2, 3, 4, 5)
        say((x, a, box.f, d, grid.rows))

    run(main)


@says(4)
def a_slot_may_be_a_global_variable_private_to_a_class(say: Say) -> None:
    class Safe:
        @tamed
        def main(self) -> None:
            global __hidden
            with twait:
                later(4, mkevent(__hidden))

    run(Safe().main)
    say(globals().pop("_Safe__hidden"))


@says([1, 0], 2, None, {(1, 2): 3})
def object_and_index_are_evaluated_when_the_event_is_made(say: Say) -> None:
    @tamed
    def main() -> None:
        a = first = [0, 0]
        box = old = Box(f=None)
        i = 0
        pairs: dict[tuple[int, int], int] = {}
        with twait:
            later(1, mkevent(a[i]))
            later(2, mkevent(box.f))
            later(3, mkevent(pairs[i + 1, i + 2]))
            i += 1
            a = []
            box = Box(f=None)
        say(first)
        say(old.f)
        say(box.f)
        say(pairs)

    run(main)


@says(1, 2, 3)
def a_variable_that_only_a_slot_binds_is_local(say: Say) -> None:
    @tamed
    def main() -> None:
        with twait:
            later(1, mkevent(alone))
        say(alone)
        r = Rendezvous[str]()
        later(2, mkevent(r, "id", another))
        twait(r)
        say(another)
        numbers = [number for number in range(9) if number]
        with twait:
            later(3, mkevent(number))
            del numbers
        say(number)

    run(main)


@says("unbound", 1)
def a_variable_is_unbound_until_the_trigger(say: Say) -> None:
    @tamed
    def main() -> None:
        with twait:
            later(1, mkevent(x))
            try:
                say(x)
            except NameError:
                say("unbound")
        say(x)

    run(main)


@says("b", 2, "a", 1, None)
def events_of_a_rendezvous_have_slots_too(say: Say) -> None:
    @tamed
    def main() -> None:
        r = Rendezvous[Any]()
        with twait:
            a = mkevent(r, "a", x)
            later(2, mkevent(r, "b", y))
            timer(0, mkevent())
        say(twait(r))
        say(y)
        a.trigger(1)
        say(twait(r))
        say(x)
        mkevent(r).trigger()
        say(twait(r))

    run(main)


@says("r None", "x 2", "attribute r 3", "attribute x 4")
def the_run_decides_what_the_source_leaves_open(say: Say) -> None:
    @tamed
    def either(first, done):  # type: ignore[no-untyped-def]
        with twait:
            event = mkevent(first)
            if isinstance(first, Rendezvous):
                event.trigger()
            else:
                event.trigger(2)
        say(f"r {twait(first)}" if isinstance(first, Rendezvous) else f"x {first}")
        done.trigger()

    @tamed
    def attribute(box, done):  # type: ignore[no-untyped-def]
        key = 3
        with twait:
            if isinstance(box.f, Rendezvous):
                mkevent(box.f, key).trigger()
            else:
                mkevent(box.f).trigger(4)
        if isinstance(box.f, Rendezvous):
            say(f"attribute r {twait(box.f)}")
        else:
            say(f"attribute x {box.f}")
        done.trigger()

    @tamed
    def main() -> None:
        with twait:
            either(Rendezvous[int](), mkevent())
        with twait:
            either(0, mkevent())
        with twait:
            attribute(Box(f=Rendezvous[int]()), mkevent())
        with twait:
            attribute(Box(f=0), mkevent())

    run(main)


@says("key", 0, 1, 2, 6)
def an_id_may_be_a_variable_of_somebody_else(say: Say) -> None:
    outer = 2

    @tamed
    def main(box: Box) -> None:
        with twait:
            mkevent(box.r, KEY).trigger()
        say(twait(box.r))
        with twait:
            events = [mkevent(box.r, i) for i in range(2)]
        for event in events:
            event.trigger()
        for _ in events:
            say(twait(box.r))
        with twait:
            mkevent(box.r, outer, x).trigger(6)
        say(twait(box.r))
        say(x)

    run(main, Box(r=Rendezvous()))


@says(0, 1, 2)
def nested_functions_make_events_of_a_rendezvous(say: Say) -> None:
    @tamed
    def main(r: Rendezvous[int], unannotated) -> None:  # type: ignore[no-untyped-def]
        x = 0

        def helper(x: Rendezvous[int], i: int) -> None:
            mkevent(x, i).trigger()

        helper(r, x)
        say(twait(r))
        (lambda i: mkevent(r, i).trigger())(1)
        say(twait(r))
        (lambda i: mkevent(unannotated, i).trigger())(2)
        say(twait(unannotated))

    run(main, Rendezvous(), Rendezvous())


SHARED: Rendezvous[Any] = Rendezvous()
COMMON = Rendezvous[Any]()


@says("shared", "common", "quoted", ("from a call", 5), (0, 1, 10, 11), {"rest": 1})
def a_rendezvous_is_known_wherever_it_comes_from(say: Say) -> None:
    def shared() -> Rendezvous[Any]:
        return SHARED

    @tamed
    def main(quoted: "Rendezvous[str]") -> None:  # noqa: UP037
        with twait:
            mkevent(SHARED, "shared").trigger()
            mkevent(COMMON, "common").trigger()
            mkevent(quoted, "quoted").trigger()
            mkevent(shared(), "from a call", x).trigger(5)
        for r in (SHARED, COMMON, quoted):
            say(twait(r))
        say((twait(shared()), x))
        grid = [[0, 0], [0, 0]]
        with twait:
            events = [mkevent(grid[i][j]) for i in range(2) for j in range(len(grid[i]))]
            for i, event in enumerate(events):
                event.trigger(i % 2 + i // 2 * 10)

        class Sum(list[int]):
            total = (*grid[0], *grid[1])

        say(Sum.total)
        match {"k": 0, "rest": 1}:
            case {"k": _, **rest}:
                with twait:
                    mkevent(rest).trigger(rest)
        say(rest)

    run(main, Rendezvous())


@says("c", ["c", "a"], "b", "b and a")
def a_rendezvous_may_be_any_expression(say: Say) -> None:
    @tamed
    def main(box: Box) -> None:
        for id in "cab":
            mkevent(box.r, id).trigger()
        found = [
            twait(
                box.r,
            )
        ]
        say(found[0])
        found.append(twait(box.other if not box else box.r))
        say(found)
        say(f"{twait(box.r)}")
        r = Rendezvous[Any]()
        table = {"r": r}
        inner = Rendezvous[str]()
        mkevent(inner, "r").trigger()
        mkevent(r, "b").trigger()
        mkevent(r, "a").trigger()
        say(" and ".join([twait(table[twait(inner)]), twait(same := r)]))
        assert same is r

    run(main, Box(r=Rendezvous()))


@says(["a", "b"])
def a_slot_may_depend_on_a_wait(say: Say) -> None:
    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        a = ["", ""]
        mkevent(r, 1).trigger()
        mkevent(r, 0).trigger()
        with twait:
            now("b", mkevent(a[twait(r)]))
            now("a", mkevent(a[twait(r)]))
        say(a)

    run(main)
