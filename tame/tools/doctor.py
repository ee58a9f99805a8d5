"""``tame doctor FILE.py``: what is wrong with tamed functions, found without running them.

Each check looks at one function and knows the language, not the program: what is not sure to be
a mistake is passed over.  A finding is silenced by ``# tame: ignore[T001]`` on its line.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from tame.analysis import Making, Plan, Source, analyse
from tame.names import FunctionNode, own_nodes
from tame.tools.plain import Surroundings, module_names, tamed_functions

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
"""Calls that hold the loop, and what to do instead."""


class Finding(NamedTuple):
    line: int
    column: int
    code: str
    text: str


class Function(NamedTuple):
    """A tamed function, and what is known of it."""

    node: FunctionNode
    plan: Plan
    modules: dict[str, str]
    """What the imports of the module bind, by name: ``sleep`` is ``time.sleep``."""


def examine(text: str, filename: str) -> list[Finding]:
    """What is found in a module, in the order of its lines.

    Raises `SyntaxError`, of which `TranslationError` is one for what has no meaning in Tame.
    """
    tree = ast.parse(text, filename)
    lines = text.splitlines()
    source = Source(filename, lines)
    modules = imported(tree)
    found: set[Finding] = set()
    for tamed in tamed_functions(tree, Surroundings(module_names(tree)), source):
        plan = analyse(tamed.node, tamed.around.variables, tamed.around.lookup, source)
        function = Function(tamed.node, plan, modules)
        for check in CHECKS:
            found.update(check(function))
    return sorted(finding for finding in found if not is_ignored(finding, lines))


def is_ignored(finding: Finding, lines: list[str]) -> bool:
    comment = IGNORE.search(lines[finding.line - 1])
    return comment is not None and (comment[1] is None or finding.code in comment[1])


def at(node: ast.expr | ast.stmt | ast.arg, code: str, text: str) -> Finding:
    return Finding(node.lineno, node.col_offset + 1, code, text)


# -- events that nobody can trigger ----------------------------------------------------------------


def made_and_lost(function: Function) -> Iterator[Finding]:
    """T001: an event is made and nothing is done with it."""
    calls = {making.call for making in function.plan.makings}
    for node in own_nodes(function.node):
        if isinstance(node, ast.Expr) and node.value in calls:
            yield at(
                node.value,
                "T001",
                "this event is dropped at once, so nobody can trigger it: hand it to somebody",
            )


def bound_and_lost(function: Function) -> Iterator[Finding]:
    """T002: an event is bound to a variable that is never looked at."""
    read = {
        node.id
        for node in ast.walk(function.node)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    shared = function.plan.global_names | {
        name
        for node in own_nodes(function.node)
        if isinstance(node, ast.Nonlocal)
        for name in node.names
    }
    for making in function.plan.makings:
        for node in own_nodes(function.node):
            if isinstance(node, ast.Assign) and node.value is making.call:
                targets = node.targets
            elif isinstance(node, ast.AnnAssign) and node.value is making.call:
                targets = [node.target]
            else:
                continue
            for target in targets:
                if isinstance(target, ast.Name) and target.id not in read | shared:
                    yield at(
                        target,
                        "T002",
                        f"nothing is done with the event {target.id}: nobody will trigger it",
                    )


def never_handed_on(function: Function) -> Iterator[Finding]:
    """T003: an event that the caller has given is not triggered, failed or handed on, on some way
    through the function; of several events none is, for one may be there in place of another."""
    parameters = list(event_parameters(function.node))
    if not parameters:
        return
    names = [parameter.arg for parameter in parameters]
    for way in unused_ways(function.node, set(names)):
        where = "here" if way is not function.node else "at its end"
        yield at(
            parameters[0] if way is function.node else way,
            "T003",
            f"the function may return {where} without having triggered, failed or handed on"
            f" {' or '.join(names)}: whoever waits for that gets EventDroppedError",
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


def unused_ways(node: FunctionNode, names: set[str]) -> list[ast.stmt]:
    """The returns, or the function itself for its end, that are reached without a use of any of
    `names`."""
    ways: list[ast.stmt] = []

    def uses(part: ast.AST) -> bool:
        return any(isinstance(found, ast.Name) and found.id in names for found in ast.walk(part))

    def walk(body: list[ast.stmt]) -> bool:
        """Whether the end of `body` may be reached without a use."""
        for statement in body:
            if isinstance(statement, ast.Return):
                if not uses(statement):
                    ways.append(statement)
                return False
            if isinstance(statement, ast.Raise | ast.Continue | ast.Break):
                return False  # an exception is told to who waits; a loop is gone on with below
            if not goes_on(statement):
                return False
        return True

    def goes_on(statement: ast.stmt) -> bool:
        if isinstance(statement, ast.If):
            if uses(statement.test):
                return False
            return any([walk(statement.body), walk(statement.orelse)])
        if isinstance(statement, ast.While | ast.For):
            head = statement.test if isinstance(statement, ast.While) else statement.iter
            if uses(head):
                return False
            walk(statement.body)
            endless = isinstance(statement, ast.While) and is_true(statement.test)
            if endless and not any(isinstance(n, ast.Break) for n in ast.walk(statement)):
                return False
            return walk(statement.orelse) if not endless else not uses(statement)
        if isinstance(statement, ast.With):
            if any(uses(item) for item in statement.items):
                return False
            return walk(statement.body)
        if isinstance(statement, ast.Try):
            if any(uses(part) for part in statement.finalbody):
                return False
            ends = [walk(statement.body) and walk(statement.orelse)]
            ends += [walk(handler.body) for handler in statement.handlers]
            return any(ends) and walk(statement.finalbody)
        if isinstance(statement, ast.Match):
            if uses(statement.subject):
                return False
            ends = [walk(case.body) for case in statement.cases]
            return any(ends) or not any(is_default(case) for case in statement.cases)
        return not uses(statement)

    if walk(node.body):
        ways.append(node)
    return ways


def is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and bool(node.value)


def is_default(case: ast.match_case) -> bool:
    return isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None


# -- waits -----------------------------------------------------------------------------------------


def read_too_early(function: Function) -> Iterator[Finding]:
    """T004: a slot is looked at in the block that waits for its value."""
    for block in function.plan.blocks:
        made: dict[str, ast.Call] = {}
        for statement in block.body:
            for node in ast.walk(statement):
                if (
                    isinstance(node, ast.Name)
                    and isinstance(node.ctx, ast.Load)
                    and node.id in made
                    and not is_within(node, made[node.id])
                ):
                    yield at(
                        node,
                        "T004",
                        f"{node.id} has its value only when the block has ended: look at it then",
                    )
            for making in makings_in(function.plan, block):
                if is_within(making.call, statement):
                    for slot in making.slots:
                        if isinstance(slot, ast.Name):
                            made[slot.id] = making.call


def makings_in(plan: Plan, block: ast.With) -> Iterator[Making]:
    return (making for making in plan.makings if making.block is block and not making.rendezvous)


def is_within(node: ast.AST, outer: ast.AST) -> bool:
    return any(part is node for part in ast.walk(outer))


def waits_for_nothing(function: Function) -> Iterator[Finding]:
    """T005: a rendezvous is waited for, of which no event can ever be made."""
    own = {
        target.id
        for node in own_nodes(function.node)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    for wait in function.plan.waits:
        argument = wait.args[0] if wait.args else None
        if not isinstance(argument, ast.Name) or argument.id not in own:
            continue
        waits = {id(other.args[0]) for other in function.plan.waits if other.args}
        others = [
            node
            for node in ast.walk(function.node)
            if isinstance(node, ast.Name)
            and node.id == argument.id
            and isinstance(node.ctx, ast.Load)
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
    """Whether it stands there as ``r.cancel()``."""
    return any(
        isinstance(node, ast.Attribute) and node.value is name and node.attr == "cancel"
        for node in ast.walk(function)
    )


def holds_the_loop(function: Function) -> Iterator[Finding]:
    """T006: a call blocks, and with it everything else."""
    for node in own_nodes(function.node):
        if isinstance(node, ast.Call):
            name = full_name(node.func, function.modules)
            if name in BLOCKING:
                yield at(node, "T006", f"{name}() holds up everything else: use {BLOCKING[name]}")


def full_name(node: ast.expr, modules: dict[str, str]) -> str:
    """``time.sleep``, however it was imported."""
    if isinstance(node, ast.Name):
        return modules.get(node.id, "input" if node.id == "input" else "")
    if isinstance(node, ast.Attribute):
        owner = full_name(node.value, modules)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def imported(tree: ast.Module) -> dict[str, str]:
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
