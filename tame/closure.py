"""Closures: calls of tamed functions, and the queue of those that can be resumed.

Theory of operation.  A tamed function is translated into a generator function that yields what
it waits on whenever it must block.  A call starts the generator at once, in the caller's stack.
If the generator finishes without a yield, the call is over; most calls in a busy server end like
this and cost no more than a generator.  At the first yield the call becomes a `Closure`, which from
then on is in one of two places: in the `waiter` of what it waits on, or in `runnable`, where a
trigger puts it.  `drain` takes closures from there, first in first out, and resumes each up to its
next wait.  A trigger never resumes a closure, so resumes never nest.

This file knows neither descriptors nor timers; the loop calls `drain` after it has triggered its
events, and provides the clock.
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
"""How many tamed calls may be nested on one stack; a deeper one is queued instead, because Python's
own limit is 1,000 frames and each tamed call takes at least two."""

MAX_RESUMES = 1_000
"""The most closures that one turn of the loop resumes, so that closures that wake each other cannot
starve descriptors and timers."""

RESUMES = range(MAX_RESUMES)  # made once: saves 70 ns a drain; most drains resume one closure

GENERATORS = 0x20 | 0x80 | 0x200
"""The flags of code that can be suspended, from `inspect`."""

MAX_CALLERS = 12
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
        self.chain = chain  # code and offset of each tamed caller, nearest first
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
        """The line of the wait."""
        frame = self.frame
        return frame.f_lineno if frame is not None else self.code.co_firstlineno

    @property
    def place(self) -> str:
        return f"{self.code.co_filename}:{self.line}"

    @property
    def statement(self) -> str:
        """The source line of the wait; for a block, the first line inside it."""
        import linecache  # only loaded when a program is inspected

        file, line = self.code.co_filename, self.line
        text = linecache.getline(file, line).strip()
        return linecache.getline(file, line + 1).strip() if text == "with twait:" else text

    def callers(self) -> list[str]:
        """The tamed calls that led here, nearest first, as ``file.py:12 in name``."""
        codes, offsets = self.chain[::2], self.chain[1::2]
        return [
            f"{code.co_filename}:{line_of(code, offset)} in {code.co_qualname}"
            for code, offset in zip(codes, offsets, strict=True)
        ]


class Ready:
    """What a closure waits on that was queued before it started."""

    waiter: Closure | None = None


runnable: deque[Closure] = deque()
alive: dict[Closure, None] = {}  # every closure that has blocked and not ended, oldest first
depth = 0  # tamed calls on the stack
asleep = True  # whether `drain` will only be called after a `wake_loop`
closing = False  # whether `run` is closing what is left, and nothing may block any more
running: Closure | None = None  # the closure that `drain` is resuming
started: list[Closure] | None = None  # where `run` collects the closures that it must wait for
bodies: dict[int, CodeType] = {}  # the code of every tamed function by id, to recognize its frames


def no_loop() -> None:
    """Without a loop the closures stay queued until `run`."""


wake_loop: Callable[[], None] = no_loop
"""Called when `runnable` is no longer empty; the loop puts its own function here."""


clock: Callable[[], float] = monotonic  # the clock of the loop's driver


def make_runnable(closure: Closure) -> None:
    runnable.append(closure)
    if asleep:
        wake_loop()


def tamed_call(body: Callable[..., Body]) -> Callable[..., None]:
    """The function that users call; it starts `body` in the caller's stack."""
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
    """Like `tamed_call`, for a tamed function without any wait, which needs no generator."""
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
    """Make a closure of a call that has reached its first wait."""
    if closing:
        generator.close()
        raise LoopError("run() is closing the blocked closures: nothing can wait any more")
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
    """The tamed calls on the stack from `frame` outwards, then the callers of the closure that is
    being resumed, as a flat tuple of code and offset."""
    chain: list[Any] = []
    while frame is not None and len(chain) < 2 * MAX_CALLERS:
        code = frame.f_code
        if id(code) in bodies:
            chain += (code, frame.f_lasti)
        elif code is drain.__code__:
            break
        frame = frame.f_back
    if running is not None:
        chain += running.chain
    return tuple(chain[: 2 * MAX_CALLERS])


last_chain: tuple[Any, ...] = (None, 0)  # what `chain_under` made last
last_tail: tuple[Any, ...] = ()


def chain_under(caller: Closure, frame: FrameType) -> tuple[Any, ...]:
    """The chain of a call made directly by `caller`, the closure that is being resumed.

    It needs no walk, and all calls from one place share a tuple: saves 400 ns and 96 bytes a call.
    """
    global last_chain, last_tail
    code, offset = frame.f_code, frame.f_lasti
    if last_tail is not caller.chain or last_chain[1] != offset or last_chain[0] is not code:
        last_tail = caller.chain
        last_chain = (code, offset, *last_tail)[: 2 * MAX_CALLERS]
    return last_chain


def drain() -> bool:
    """Resume runnable closures, at most `MAX_RESUMES`; return whether some are left."""
    global asleep, running
    asleep = False
    next_closure = runnable.popleft
    now = clock()
    try:
        for _ in RESUMES:
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
    """Raise `RendezvousBusyError` at a wait for what has a waiter; return the next wait."""
    assert wait.waiter is not None
    return body.throw(busy(wait.waiter))


def busy(waiter: Closure) -> RendezvousBusyError:
    return RendezvousBusyError(
        f"the closure at {waiter.place} already waits on this rendezvous, which takes one waiter"
        " at a time: give each waiter its own rendezvous"
    )


def ended(closure: Closure) -> None:
    alive.pop(closure, None)
    if closure.root:
        root_ended(None)


def died(closure: Closure, error: BaseException) -> None:
    """An exception has ended the closure; its events are dropped, so their waiters learn of it."""
    global running
    running = None
    alive.pop(closure, None)
    # Without the frame of `drain`, which is of no use to the reader.
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
    if closure.root or not isinstance(error, Exception):
        root_ended(error)
    else:
        report(error, f"{closure.code.co_qualname} ended with an exception", closure.callers())
        clear_frames(error, closure.code)


def clear_frames(error: BaseException, own: CodeType) -> None:
    """Release what the dead closure held, even if `error` and its traceback are kept.

    Like `traceback.clear_frames`, but it leaves generators alone whose code is not `own`: they may
    be other closures, which are alive and waiting.
    """
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code is own or not frame.f_code.co_flags & GENERATORS:
            with suppress(RuntimeError):  # it is still running
                frame.clear()
        traceback = traceback.tb_next


def no_run(error: BaseException | None) -> None:
    """Outside `run` nothing waits for the end of a closure."""


root_ended: Callable[[BaseException | None], None] = no_run

ErrorHandler = Callable[[BaseException, str, list[str]], None]


def log_error(error: BaseException, what: str, callers: list[str]) -> None:
    """The default error handler: one record on the logger ``tame``, with the chain of callers."""
    import logging  # saves 1 MB of memory in a program without errors

    lines = [what, *(f"  called from {caller}" for caller in callers)]
    logging.getLogger("tame").error("\n".join(lines), exc_info=error)


error_handler: ErrorHandler = log_error


def on_error(handler: ErrorHandler) -> ErrorHandler:
    """Set the runtime's error handler and return the previous one.

    It gets the exception that ended a closure (or that no closure waited for), one line that says
    what happened, and the chain of tamed calls that led there, nearest first.
    """
    global error_handler
    previous, error_handler = error_handler, handler
    return previous


def report(error: BaseException, what: str, callers: list[str] | None = None) -> None:
    try:
        error_handler(error, what, callers or [])
    except Exception as failure:  # must not stop the other closures
        log_error(failure, "the error handler failed", [])
        log_error(error, what, callers or [])


class Blocked(NamedTuple):
    """A waiting closure, as listed by `blocked`."""

    function: str
    """Qualified name of the tamed function."""
    file: str
    line: int
    """The line of the wait."""
    seconds: float
    """How long it has been waiting."""
    events: tuple[str, ...]
    """Where the events that it waits for were made, as far as anything still holds them."""
    callers: tuple[str, ...]
    """The tamed calls that led to it, nearest first, as ``file.py:12 in name``."""

    def __str__(self) -> str:
        sites = [
            f"{site} ({count} events)" if count > 1 else site
            for site, count in Counter(self.events).items()
        ]
        shown = sites[:10] + (["…"] if len(sites) > 10 else [])
        events = ", ".join(shown) or "no event that anything holds"
        return (
            f"{self.function} at {self.file}:{self.line}, for {self.seconds:.3f} s, waits for"
            f" {events}"
        )


def blocked() -> list[Blocked]:
    """Every waiting closure, longest wait first.

    It walks the whole heap, because rendezvous keep no list of their events: a tool for finding
    hangs, not for the hot path.
    """
    resumable = {*runnable, running}
    waiting = {id(c.wait): c for c in alive if c not in resumable}
    events: dict[int, list[str]] = {key: [] for key in waiting}
    for found in gc.get_objects():
        # Not isinstance(): that reads `__class__`, which fails on a dead weak proxy.
        if issubclass(type(found), Event) and found.live and id(found._rendezvous) in events:
            events[id(found._rendezvous)].append(found.site)
    now = clock()
    entries = [
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
    return sorted(entries, key=lambda entry: -entry.seconds)
