"""``tame doctor FILE.py``: mistakes in tamed functions, found without running them.

Each check looks at one function.  It knows the language but not the rest of the program, and
reports only what is certain to be a mistake.  ``# tame: ignore[T001]`` on a line silences it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeGuard

from tame.analysis import MkeventCall, Plan, Source, analyse
from tame.names import FunctionNode, own_nodes
from tame.tools.plain import Scope, module_names, tamed_functions

IGNORE: Final = re.compile(r"#\s*tame:\s*ignore(?:\[([\w, ]*)\])?")

BLOCKING: Final = {
    "time.sleep": "timer(seconds, event)",
    "input": "wait_on_fd(0, READ, event)",
    "os.system": "fork(event, os.system, command)",
    "os.waitpid": "fork(event, os.waitpid, pid, 0)",
    "select.select": "wait_on_fd(fd, READ, event)",
    "urllib.request.urlopen": "fork(event, urlopen, url)",
    **{
        f"subprocess.{name}": f"fork(event, subprocess.{name}, command)"
        for name in ("run", "call", "check_call", "check_output")
    },
    **{
        f"requests.{name}": f"fork(event, requests.{name}, url)"
        for name in ("get", "post", "put", "delete", "head", "request")
    },
    "socket.create_connection": "fork(event, socket.create_connection, address)",
    "socket.getaddrinfo": "fork(event, socket.getaddrinfo, host, port)",
}
"""Calls that block the loop, and what to use instead."""


class Finding(NamedTuple):
    line: int
    column: int
    code: str
    text: str


class Function(NamedTuple):
    """A tamed function and what is known about it."""

    node: FunctionNode
    plan: Plan
    modules: dict[str, str]
    """What each imported name refers to: ``sleep`` may be ``time.sleep``."""


def examine(text: str, filename: str) -> list[Finding]:
    """The mistakes in a module, in the order of its lines.

    Raises `SyntaxError`, or its subclass `TranslationError` for code that cannot be translated.
    """
    tree = ast.parse(text, filename)
    lines = text.splitlines()
    source = Source(filename, lines)
    modules = imported(tree)
    found: set[Finding] = set()
    for tamed in tamed_functions(tree, Scope(module_names(tree)), source):
        plan = analyse(tamed.node, tamed.scope.variables, tamed.scope.lookup, source)
        function = Function(tamed.node, plan, modules)
        for check in CHECKS:
            found.update(check(function))
    return sorted(finding for finding in found if not is_ignored(finding, lines))


def is_ignored(finding: Finding, lines: list[str]) -> bool:
    comment = IGNORE.search(lines[finding.line - 1])
    return comment is not None and (comment[1] is None or finding.code in comment[1])


def at(node: ast.expr | ast.stmt | ast.arg, code: str, text: str) -> Finding:
    return Finding(node.lineno, node.col_offset + 1, code, text)


# -- events that nothing can trigger ---------------------------------------------------------------


def made_and_lost(function: Function) -> Iterator[Finding]:
    """T001: an event is made and nothing is done with it."""
    calls = {made.call for made in function.plan.mkevents}
    for node in own_nodes(function.node):
        if isinstance(node, ast.Expr) and node.value in calls:
            yield at(
                node.value,
                "T001",
                "this event is dropped at once, so nothing can trigger it: pass it to a function",
            )


def bound_and_lost(function: Function) -> Iterator[Finding]:
    """T002: an event is bound to a variable that is never read."""
    read = {name.id for name in names_read(function.node)}
    shared = function.plan.global_names | {
        name
        for node in own_nodes(function.node)
        if isinstance(node, ast.Nonlocal)
        for name in node.names
    }
    calls = {made.call for made in function.plan.mkevents}
    for node in own_nodes(function.node):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value in calls:
            for target in targets_of(node):
                if isinstance(target, ast.Name) and target.id not in read | shared:
                    yield at(
                        target,
                        "T002",
                        f"nothing is done with the event {target.id}: nothing will trigger it",
                    )


def targets_of(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def never_handed_on(function: Function) -> Iterator[Finding]:
    """T003: on some path through the function, no event among its parameters is used.

    One of several is enough, because one event may replace another.
    """
    parameters = list(event_parameters(function.node))
    if not parameters:
        return
    names = [parameter.arg for parameter in parameters]
    paths = Paths(set(names))
    exits: list[tuple[ast.stmt | ast.arg, str]] = []
    if paths.falls_through(function.node.body):
        exits.append((parameters[0], "at its end"))
    exits += [(statement, "here") for statement in paths.returns]
    for place, where in exits:
        yield at(
            place,
            "T003",
            f"the function may return {where} without having triggered, failed or passed on"
            f" {' or '.join(names)}: its waiter would get EventDroppedError",
        )


def event_parameters(node: FunctionNode) -> Iterator[ast.arg]:
    arguments = node.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        annotation = argument.annotation
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            try:
                annotation = ast.parse(annotation.value, mode="eval").body
            except SyntaxError:
                continue
        if isinstance(annotation, ast.Subscript):
            annotation = annotation.value
        name = getattr(annotation, "id", None) or getattr(annotation, "attr", None)
        if name == "Event":
            yield argument


class Paths:
    """The paths through a function on which none of `names` is used."""

    def __init__(self, names: set[str]) -> None:
        self.names = names
        self.returns: list[ast.Return] = []
        """The return statements that such a path ends at."""

    def uses(self, *nodes: ast.AST) -> bool:
        return any(
            isinstance(part, ast.Name) and part.id in self.names
            for node in nodes
            for part in ast.walk(node)
        )

    def falls_through(self, body: list[ast.stmt]) -> bool:
        """Whether such a path reaches the end of `body`."""
        return all(self.passes(statement) for statement in body)

    def passes(self, statement: ast.stmt) -> bool:
        """Whether such a path continues after `statement`."""
        if isinstance(statement, ast.Return):
            if not self.uses(statement):
                self.returns.append(statement)
            return False
        if isinstance(statement, ast.Raise | ast.Continue | ast.Break):
            return False  # an exception reaches the waiter by itself; `passes_loop` sees to loops
        if isinstance(statement, ast.While | ast.For):
            return self.passes_loop(statement)
        if isinstance(statement, ast.If):
            return not self.uses(statement.test) and self.any_path(statement.body, statement.orelse)
        if isinstance(statement, ast.With):
            return not self.uses(*statement.items) and self.falls_through(statement.body)
        if isinstance(statement, ast.Try):
            return not self.uses(*statement.finalbody) and self.passes_try(statement)
        if isinstance(statement, ast.Match):
            return not self.uses(statement.subject) and self.passes_match(statement)
        return not self.uses(statement)

    def any_path(self, *bodies: list[ast.stmt]) -> bool:
        return True in [self.falls_through(body) for body in bodies]  # look into every one

    def passes_loop(self, loop: ast.While | ast.For) -> bool:
        if self.uses(loop.test if isinstance(loop, ast.While) else loop.iter):
            return False
        self.falls_through(loop.body)
        if isinstance(loop, ast.For) or not is_true(loop.test):
            return self.falls_through(loop.orelse)
        has_break = any(isinstance(part, ast.Break) for part in ast.walk(loop))
        return has_break and not self.uses(loop)

    def passes_try(self, statement: ast.Try) -> bool:
        succeeds = self.falls_through(statement.body) and self.falls_through(statement.orelse)
        is_caught = self.any_path(*(handler.body for handler in statement.handlers))
        return (succeeds or is_caught) and self.falls_through(statement.finalbody)

    def passes_match(self, statement: ast.Match) -> bool:
        passes_case = self.any_path(*(case.body for case in statement.cases))
        return passes_case or not any(is_default(case) for case in statement.cases)


def is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and bool(node.value)


def is_default(case: ast.match_case) -> bool:
    return isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None


# -- waits -----------------------------------------------------------------------------------------


def read_too_early(function: Function) -> Iterator[Finding]:
    """T004: a slot is read in the block that waits for its value."""
    for block in function.plan.blocks:
        slots: dict[str, ast.Call] = {}  # those of the statements above
        for statement in block.body:
            for name in names_read(statement):
                if name.id in slots and not is_within(name, slots[name.id]):
                    text = f"{name.id} has its value only after the block: read it there"
                    yield at(name, "T004", text)
            for made in mkevents_of(function.plan, block):
                if is_within(made.call, statement):
                    slots |= {slot.id: made.call for slot in made.slots if is_name(slot)}


def names_read(node: ast.AST) -> Iterator[ast.Name]:
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
            yield part


def is_name(node: ast.expr) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name)


def mkevents_of(plan: Plan, block: ast.With) -> Iterator[MkeventCall]:
    return (made for made in plan.mkevents if made.block is block and not made.rendezvous)


def is_within(node: ast.AST, outer: ast.AST) -> bool:
    return any(part is node for part in ast.walk(outer))


def waits_for_nothing(function: Function) -> Iterator[Finding]:
    """T005: a wait for a rendezvous that can never have an event."""
    own = {
        target.id
        for node in own_nodes(function.node)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in targets_of(node)
        if isinstance(target, ast.Name)
    }
    for wait in function.plan.waits:
        argument = wait.args[0] if wait.args else None
        if not isinstance(argument, ast.Name) or argument.id not in own:
            continue
        waits = {id(other.args[0]) for other in function.plan.waits if other.args}
        others = [
            node
            for node in names_read(function.node)
            if node.id == argument.id
            and id(node) not in waits
            and not is_cancelled(node, function.node)
        ]
        if not others:
            yield at(
                wait,
                "T005",
                f"no event of {argument.id} is ever made, so this waits for ever:"
                f" mkevent({argument.id}, id)",
            )


def is_cancelled(name: ast.Name, function: FunctionNode) -> bool:
    """Whether `name` is used as ``r.cancel()``."""
    return any(
        isinstance(node, ast.Attribute) and node.value is name and node.attr == "cancel"
        for node in ast.walk(function)
    )


def holds_the_loop(function: Function) -> Iterator[Finding]:
    """T006: a call that blocks the whole loop."""
    for node in own_nodes(function.node):
        if isinstance(node, ast.Call):
            name = full_name(node.func, function.modules)
            if name in BLOCKING:
                yield at(node, "T006", f"{name}() blocks the whole loop: use {BLOCKING[name]}")


def full_name(node: ast.expr, modules: dict[str, str]) -> str:
    """The name of what is called, as ``time.sleep``, however it was imported."""
    if isinstance(node, ast.Name):
        return modules.get(node.id, "input" if node.id == "input" else "")
    if isinstance(node, ast.Attribute):
        owner = full_name(node.value, modules)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def imported(tree: ast.Module) -> dict[str, str]:
    """What each imported name of the module refers to."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                found[alias.asname or whole] = whole
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


CHECKS: Final[tuple[Callable[[Function], Iterator[Finding]], ...]] = (
    made_and_lost,
    bound_and_lost,
    never_handed_on,
    read_too_early,
    waits_for_nothing,
    holds_the_loop,
)
