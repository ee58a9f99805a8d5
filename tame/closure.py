"""Closures: calls of tamed functions, and the queue of those that can go on.

Theory of operation.  A tamed function is translated into a generator function that yields what
it waits on whenever it must block.  A call starts the generator at once, in the caller's stack.
If it finishes without a yield, that was all; most calls in a busy server end so, and cost a
generator and nothing else.  At the first yield the call becomes a `Closure`, which from then on
lives in one of two places: in the `waiter` of what it waits on, or in `runnable`, where a trigger
puts it.  `drain` takes closures from there, first in first out, and resumes each up to its next
wait.  A trigger never resumes anybody, so resumes never nest.

This file knows neither descriptors nor time; the loop calls `drain` after it fired its events, and
says which clock it goes by.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter, deque
from collections.abc import Callable, Generator
from contextlib import suppress
from time import monotonic
from types import CodeType, FrameType
from typing import Any, NamedTuple, Protocol

from tame.errors import LoopError, RendezvousBusyError
from tame.event import Event, line_of

MAX_DEPTH = 50
"""How many tamed calls may stand eagerly on one stack; a deeper one is queued instead, because
Python's own limit is 1,000 frames and each tamed call takes at least two."""

TURN = 1_000
"""How many closures one turn of the loop resumes at most, so that closures that wake each other
cannot starve descriptors and timers."""

TURNS = range(TURN)  # made once: 70 ns a drain, and most drains resume one closure

GENERATORS = 0x20 | 0x80 | 0x200
"""The flags of code that can be suspended, as `inspect` has them."""

CHAIN = 12
"""How many callers a closure remembers."""


class Wait(Protocol):
    """What a closure can wait on: a block or a rendezvous."""

    waiter: Closure | None


Body = Generator[Wait, None, None]


class Closure:
    """One call of a tamed function that has blocked at least once."""

    __slots__ = ("__weakref__", "body", "chain", "root", "since", "wait")

    def __init__(self, body: Body, wait: Wait, chain: tuple[Any, ...]) -> None:
        self.body = body
        self.wait = wait
        self.chain = chain  # code and offset of each tamed caller, the nearest first
        self.since = clock()
        self.root = False  # whether `run` waits for its end

    @property
    def code(self) -> CodeType:
        return self.body.gi_code  # type: ignore[attr-defined,no-any-return]

    @property
    def frame(self) -> FrameType | None:
        """Where its variables are; None once it has ended."""
        return self.body.gi_frame  # type: ignore[attr-defined,no-any-return]

    @property
    def line(self) -> int:
        """The line that the closure waits at."""
        frame = self.frame
        return frame.f_lineno if frame is not None else self.code.co_firstlineno

    @property
    def place(self) -> str:
        return f"{self.code.co_filename}:{self.line}"

    @property
    def statement(self) -> str:
        """What stands in the file at the wait; of a block the first line in it."""
        import linecache  # programs that nobody looks at do without

        file, line = self.code.co_filename, self.line
        text = linecache.getline(file, line).strip()
        return linecache.getline(file, line + 1).strip() if text == "with twait:" else text

    def callers(self) -> list[str]:
        """The tamed calls that led here, the nearest first, as ``file.py:12 in name``."""
        codes, offsets = self.chain[::2], self.chain[1::2]
        return [
            f"{code.co_filename}:{line_of(code, offset)} in {code.co_qualname}"
            for code, offset in zip(codes, offsets, strict=True)
        ]


class Ready:
    """What a closure waits on that was queued before its first step."""

    waiter: Closure | None = None


runnable: deque[Closure] = deque()
alive: dict[Closure, None] = {}  # every closure that has blocked and not ended, in that order
depth = 0  # tamed calls on the stack
asleep = True  # whether nobody is going to call `drain` unless `wake_loop` is called
closing = False  # whether `run` closes what is left, and nothing may block any more
running: Closure | None = None  # the closure that `drain` is resuming
started: list[Closure] | None = None  # where `run` collects the closures that it must wait for
bodies: dict[int, CodeType] = {}  # the code of every tamed function by id, to know its frames


def no_loop() -> None:
    """Without a loop the closures stay queued until `run`."""


wake_loop: Callable[[], None] = no_loop
"""Tells the loop that `runnable` is no longer empty; the loop puts its own function here."""


clock: Callable[[], float] = monotonic  # that of the loop's driver


def make_runnable(closure: Closure) -> None:
    runnable.append(closure)
    if asleep:
        wake_loop()


def tamed_call(body: Callable[..., Body]) -> Callable[..., None]:
    """The function that users call: it starts `body` in the caller's stack."""
    bodies[id(body.__code__)] = body.__code__

    def call(*args: Any, **kwargs: Any) -> None:
        global depth
        generator = body(*args, **kwargs)
        if depth >= MAX_DEPTH:
            return defer(generator)
        depth += 1
        try:
            for wait in generator:  # noqa: B007  (`next` costs 20 ns more)
                break
            else:
                return
        finally:
            depth -= 1
        block(generator, wait)

    return call


def plain_call(function: Callable[..., None]) -> Callable[..., None]:
    """The same for a tamed function without any wait, which needs no generator."""
    bodies[id(function.__code__)] = function.__code__

    def deferred(args: Any, kwargs: Any) -> Body:
        function(*args, **kwargs)
        return
        yield  # a generator, because the queue holds nothing else

    def call(*args: Any, **kwargs: Any) -> None:
        global depth
        if depth >= MAX_DEPTH:
            return defer(deferred(args, kwargs))
        depth += 1
        try:
            function(*args, **kwargs)
        finally:
            depth -= 1

    return call


def block(generator: Body, wait: Wait) -> None:
    """A call has come to its first wait: from here on it is a closure."""
    if closing:
        generator.close()
        raise LoopError("run() is closing what was still blocked: nothing can wait any more")
    while wait.waiter is not None:
        try:
            wait = refuse(generator, wait)
        except StopIteration:
            return
    caller = None if depth else running
    frame = caller.frame if caller is not None else None
    if caller is None or frame is None:
        chain = chain_of(sys._getframe(2))
    else:
        chain = chain_under(caller, frame)
    closure = Closure(generator, wait, chain)
    wait.waiter = closure
    alive[closure] = None
    if started is not None and depth == 0:
        closure.root = True
        started.append(closure)


def defer(generator: Body) -> None:
    """Queue a call that is too deep to be started on the caller's stack."""
    closure = Closure(generator, Ready(), chain_of(sys._getframe(2)))
    alive[closure] = None
    if started is not None:
        closure.root = True
        started.append(closure)
    make_runnable(closure)


def chain_of(frame: FrameType | None) -> tuple[Any, ...]:
    """The tamed calls on the stack from `frame` outwards, then those that led to the closure
    that is being resumed, as a flat tuple of code and offset."""
    chain: list[Any] = []
    while frame is not None and len(chain) < 2 * CHAIN:
        code = frame.f_code
        if id(code) in bodies:
            chain += (code, frame.f_lasti)
        elif code is drain.__code__:
            break
        frame = frame.f_back
    if running is not None:
        chain += running.chain
    return tuple(chain[: 2 * CHAIN])


last_chain: tuple[Any, ...] = (None, 0)  # what `chain_under` made last
last_tail: tuple[Any, ...] = ()


def chain_under(caller: Closure, frame: FrameType) -> tuple[Any, ...]:
    """The chain of a call that `caller`, which is being resumed, makes itself.

    Without a walk, and with one tuple for all calls from one place: 400 ns and 96 bytes a call.
    """
    global last_chain, last_tail
    code, offset = frame.f_code, frame.f_lasti
    if last_tail is not caller.chain or last_chain[1] != offset or last_chain[0] is not code:
        last_tail = caller.chain
        last_chain = (code, offset, *last_tail)[: 2 * CHAIN]
    return last_chain


def drain() -> bool:
    """Resume runnable closures, at most `TURN` of them; whether some are left."""
    global asleep, running
    asleep = False
    next_closure = runnable.popleft
    now = clock()
    try:
        for _ in TURNS:
            if not runnable:
                break
            running = closure = next_closure()
            closure.wait.waiter = None
            try:
                wait = next(closure.body, None)
                while wait is not None and wait.waiter is not None:
                    wait = refuse(closure.body, wait)
            except StopIteration:
                wait = None
            except BaseException as error:
                died(closure, error)
                continue
            if wait is None:
                ended(closure)
            else:
                wait.waiter = closure
                closure.wait = wait
                closure.since = now
    finally:
        running = None
        asleep = True
    return bool(runnable)


def refuse(body: Body, wait: Wait) -> Wait:
    """Tell a closure at its wait point that somebody else waits there; its next wait."""
    assert wait.waiter is not None
    return body.throw(busy(wait.waiter))


def busy(waiter: Closure) -> RendezvousBusyError:
    return RendezvousBusyError(
        f"the closure at {waiter.place} waits on this rendezvous already; one at a time may:"
        " give each waiter a rendezvous of its own"
    )


def ended(closure: Closure) -> None:
    alive.pop(closure, None)
    if closure.root:
        root_ended(None)


def died(closure: Closure, error: BaseException) -> None:
    """An exception has ended the closure; what its events were for learns of it by their drop."""
    global running
    running = None
    alive.pop(closure, None)
    # Without the frame of `drain`, which tells the reader nothing.
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
    if closure.root or not isinstance(error, Exception):
        root_ended(error)
    else:
        report(error, f"{closure.code.co_qualname} ended with an exception", closure.callers())
        clear_frames(error, closure.code)


def clear_frames(error: BaseException, own: CodeType) -> None:
    """Let go of what the dead closure held, though somebody may keep `error` and its traceback.

    Like `traceback.clear_frames`, but a generator other than that of the code `own` may be
    another closure that is alive and only waits.
    """
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code is own or not frame.f_code.co_flags & GENERATORS:
            with suppress(RuntimeError):  # it is still running
                frame.clear()
        traceback = traceback.tb_next


def no_run(error: BaseException | None) -> None:
    """Without a run nobody waits for a closure."""


root_ended: Callable[[BaseException | None], None] = no_run

ErrorHandler = Callable[[BaseException, str, list[str]], None]


def log_error(error: BaseException, what: str, callers: list[str]) -> None:
    """The default error handler: one record on the logger ``tame``, with the chain of callers."""
    import logging  # 1 MB of memory that a program without errors does not need

    lines = [what, *(f"  called from {caller}" for caller in callers)]
    logging.getLogger("tame").error("\n".join(lines), exc_info=error)


error_handler: ErrorHandler = log_error


def on_error(handler: ErrorHandler) -> ErrorHandler:
    """Set the runtime's error handler and return the one before.

    It gets the exception that ended a closure (or that nobody waited for), one line that says
    what happened, and the chain of tamed calls that led there, the nearest first.
    """
    global error_handler
    previous, error_handler = error_handler, handler
    return previous


def report(error: BaseException, what: str, callers: list[str] | None = None) -> None:
    try:
        error_handler(error, what, callers or [])
    except Exception as failure:  # it must not stop the other closures
        log_error(failure, "the error handler failed", [])
        log_error(error, what, callers or [])


class Blocked(NamedTuple):
    """A closure that waits, as `blocked` lists it."""

    function: str
    """Qualified name of the tamed function."""
    file: str
    line: int
    """The line that it waits at."""
    seconds: float
    """How long it has been waiting."""
    events: tuple[str, ...]
    """Where the events were made that it waits for and that somebody still holds."""
    callers: tuple[str, ...]
    """The tamed calls that led to it, the nearest first, as ``file.py:12 in name``."""

    def __str__(self) -> str:
        sites = [
            f"{site} ({count} events)" if count > 1 else site
            for site, count in Counter(self.events).items()
        ]
        shown = sites[:10] + (["…"] if len(sites) > 10 else [])
        events = ", ".join(shown) or "no event that anybody holds"
        return (
            f"{self.function} at {self.file}:{self.line}, for {self.seconds:.3f} s, waits for"
            f" {events}"
        )


def blocked() -> list[Blocked]:
    """Every closure that waits, the longest first.

    Costs a walk over the whole heap, because rendezvous keep no list of their events: a tool for
    finding hangs, not for the hot path.
    """
    can_go_on = {*runnable, running}
    waiting = {id(c.wait): c for c in alive if c not in can_go_on}
    events: dict[int, list[str]] = {key: [] for key in waiting}
    for thing in gc.get_objects():
        # Not isinstance(): it asks the thing for its class, which may be a dead weak proxy.
        if issubclass(type(thing), Event) and thing.live and id(thing._rendezvous) in events:
            events[id(thing._rendezvous)].append(thing.site)
    now = clock()
    found = [
        Blocked(
            function=closure.code.co_qualname,
            file=closure.code.co_filename,
            line=closure.line,
            seconds=max(0.0, now - closure.since),
            events=tuple(sorted(events[key])),
            callers=tuple(closure.callers()),
        )
        for key, closure in waiting.items()
    ]
    return sorted(found, key=lambda entry: -entry.seconds)
