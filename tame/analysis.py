"""The blocks, waits and events of a tamed function, found in its syntax tree.

Both translators work from the `Plan` made here: `translate.py`, which compiles, and
`tools/plain.py`, which writes text.  So it is decided once what is an error, and which form of
`mkevent` is meant.  Nothing here changes the tree or runs the program.
"""

from __future__ import annotations

import ast
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import tame
from tame.errors import TranslationError
from tame.names import (
    UNKNOWN,
    FunctionNode,
    Kind,
    Lookup,
    Names,
    ScopeNode,
    bound_names,
    bound_names_of_targets,
    evidence,
    own_nodes,
)

LVALUES: Final = (ast.Name, ast.Attribute, ast.Subscript)


@dataclass
class MkeventCall:
    """One call of `mkevent`."""

    call: ast.Call
    block: ast.With | None
    rendezvous: ast.expr | None = None
    """The rendezvous in the explicit form; None for an event of the block."""
    id: ast.expr | None = None
    slots: list[ast.expr] = field(default_factory=list)
    certain: bool = True
    """Whether the source alone decides which form is meant, without a check at run time."""
    repeated: bool = False
    """Whether the call is in a loop."""


@dataclass
class Plan:
    """Everything in one tamed function that has to be translated."""

    blocks: dict[ast.With, bool] = field(default_factory=dict)
    """Each ``with twait:``, and whether it is in a loop."""
    declarations: list[ast.With] = field(default_factory=list)
    waits: list[ast.Call] = field(default_factory=list)
    mkevents: list[MkeventCall] = field(default_factory=list)
    global_names: set[str] = field(default_factory=set)
    unbound: set[str] = field(default_factory=set)
    """Names that only a slot binds; they become local variables, as with an assignment."""


def analyse(node: FunctionNode, free: Collection[str], lookup: Lookup, source: Source) -> Plan:
    """The plan of the tamed function `node`.

    `free` are the variables of enclosing functions that it may use, and `lookup` returns what a
    name from outside is bound to.  Raises `TranslationError`.
    """
    if isinstance(node, ast.AsyncFunctionDef):
        source.refuse(node, "a tamed function cannot be `async`: write `def`, and wait with twait")
    names = Names(node, lookup)
    reader = _Reader(node, free, names, source)
    for statement in node.body:
        reader.visit(statement)
    return reader.finish()


@dataclass
class Source:
    """A file's name and lines, for error messages."""

    filename: str
    lines: list[str]

    def refuse(self, node: ast.AST, message: str) -> NoReturn:
        """Raise a `TranslationError` that points at `node`."""
        assert isinstance(node, ast.stmt | ast.expr | ast.arg | ast.excepthandler)
        line = self.lines[node.lineno - 1] if node.lineno <= len(self.lines) else ""
        one_line = node.end_lineno == node.lineno
        start, end = node.col_offset, node.end_col_offset if one_line else None
        offset, end_offset = (len(line.encode()[:column].decode()) + 1 for column in (start, end))
        raise TranslationError(
            message, (self.filename, node.lineno, offset, line, node.lineno, end_offset)
        )


# -- reading -----------------------------------------------------------------------------------


class _Reader(ast.NodeVisitor):
    """Walks the body of a tamed function once and makes its plan."""

    def __init__(
        self, node: FunctionNode, free: Collection[str], names: Names, source: Source
    ) -> None:
        self.plan = Plan()
        self.names = names
        self.refuse = source.refuse
        self.kinds = evidence(node, names)
        self.block: ast.With | None = None
        self.nested: str | None = None  # the nested scope that is being read, in words
        self.loops = 0
        self.free = free
        self.bound = bound_names(node)
        for part in own_nodes(node):
            if isinstance(part, ast.Global):
                self.plan.global_names.update(part.names)
            if isinstance(part, ast.Global | ast.Nonlocal):
                self.bound.update(part.names)

    def finish(self) -> Plan:
        slots = [slot for made in self.plan.mkevents for slot in made.slots]
        names = {slot.id for slot in slots if isinstance(slot, ast.Name)}
        self.plan.unbound = names - self.bound
        return self.plan

    # Blocks and waits

    def visit_With(self, node: ast.With) -> None:
        words = [item for item in node.items if self.names.is_word(item.context_expr, tame.twait)]
        if words:
            return self.twait_block(node, words[0])
        words = [item for item in node.items if self.names.is_word(item.context_expr, tame.tvars)]
        if words:
            self.alone(node, words[0], "tvars")
            if self.nested is None:
                self.plan.declarations.append(node)
            for statement in node.body:
                self.visit(statement)
            return None
        self.generic_visit(node)

    def twait_block(self, node: ast.With, item: ast.withitem) -> None:
        self.must_be_outermost(item.context_expr, "`with twait:`")
        self.alone(node, item, "twait")
        if self.block is not None:
            self.refuse(
                item.context_expr,
                "`with twait:` cannot be nested in another one, which begins in line"
                f" {self.block.lineno}: put the inner one into a tamed function of its own",
            )
        self.plan.blocks[node] = self.loops > 0
        self.block = node
        for statement in node.body:
            self.visit(statement)
        self.block = None

    def alone(self, node: ast.With, item: ast.withitem, word: str) -> None:
        if item.optional_vars is not None:
            self.refuse(item.optional_vars, f"`with {word}:` has no `as`")
        if len(node.items) > 1:
            self.refuse(item.context_expr, f"`with {word}:` must be the only item of its `with`")

    def must_be_outermost(self, node: ast.AST, what: str) -> None:
        if self.nested is not None:
            self.refuse(
                node,
                f"{what} in {self.nested} cannot make the enclosing tamed function wait: move it"
                " out, or make a tamed function of its own",
            )

    def visit_Call(self, node: ast.Call) -> None:
        if self.names.is_word(node.func, tame.twait):
            self.must_be_outermost(node, "twait(r)")
            if len(node.args) != 1 or node.keywords or isinstance(node.args[0], ast.Starred):
                self.refuse(node, "twait(r) takes one rendezvous; its value is the event's id")
            self.plan.waits.append(node)
            self.visit(node.args[0])
        elif self.names.is_word(node.func, tame.mkevent):
            self.mkevent_call(node)
        else:
            self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        self.not_a_value(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.not_a_value(node)
        self.generic_visit(node)

    def not_a_value(self, node: ast.expr) -> None:
        for name, word in (("twait", tame.twait), ("mkevent", tame.mkevent), ("tvars", tame.tvars)):
            if self.names.is_word(node, word):
                self.refuse(
                    node, f"{name} is a keyword of Tame, not a value: it cannot be stored or passed"
                )

    # Events

    def mkevent_call(self, node: ast.Call) -> None:
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                self.refuse(argument, "mkevent() takes its slots one by one, not with `*`")
        for keyword in node.keywords:
            self.refuse(
                keyword.value, "mkevent() takes no keyword arguments: pass slots by position"
            )
        made = MkeventCall(node, self.block, repeated=self.loops > 0)
        self.choose_form(made)
        if self.nested is not None:
            if made.rendezvous is not None and not made.slots:
                for argument in node.args:  # `mkevent(r, id)` needs no translation
                    self.visit(argument)
                return
            self.refuse(
                node,
                f"mkevent() in {self.nested} cannot belong to a `with twait:` of the enclosing"
                " function or have slots: make the event outside and use it there",
            )
        for slot in made.slots:
            self.must_be_lvalue(slot)
        self.plan.mkevents.append(made)
        for argument in node.args:
            self.visit(argument)

    def choose_form(self, made: MkeventCall) -> None:
        """Decide which form of `mkevent` is meant: of the block, or of a rendezvous."""
        arguments = made.call.args
        kind = self.kind(arguments)
        if made.block is None and kind != "rendezvous":
            if kind == "slot" and self.nested is None:
                self.refuse(
                    made.call,
                    "mkevent() outside `with twait:` makes an event of a rendezvous: write"
                    " mkevent(r, id, slot), or move it into a `with twait:`",
                )
            made.certain = False
        elif kind == "either":
            made.certain = False
            if all(self.may_be_slot(argument) for argument in arguments[:2]):
                made.slots = arguments
                return  # decided at run time
        if kind == "slot":
            made.slots = arguments
            return
        made.rendezvous = arguments[0]
        made.id = arguments[1] if len(arguments) > 1 else None
        made.slots = arguments[2:]

    def may_be_slot(self, argument: ast.expr) -> bool:
        """False for what is not an lvalue, and for variables of other scopes."""
        if not isinstance(argument, ast.Name):
            return isinstance(argument, LVALUES)
        name = argument.id
        known = name in self.free or self.names.value(argument) is not UNKNOWN
        return not self.names.hidden(name) and (name in self.bound or not known)

    def kind(self, arguments: list[ast.expr]) -> Kind:
        if not arguments:
            return "slot"
        first = arguments[0]
        if isinstance(first, ast.Name):
            if self.names.hidden(first.id):
                return "either"
            kinds = self.kinds.get(first.id, set())
            if len(kinds) > 1 or "either" in kinds:
                return "either"
            if kinds:
                return next(iter(kinds))
            if isinstance(self.names.value(first), tame.Rendezvous):
                return "rendezvous"
            return "either" if first.id in self.bound or first.id in self.free else "slot"
        if isinstance(first, ast.Subscript) and len(arguments) == 1:
            return "slot"
        if isinstance(first, ast.Attribute | ast.Subscript):
            return "either"
        if len(arguments) == 1 and self.block is not None:
            return "slot"  # not an lvalue, which `must_be_lvalue` reports
        calls = (ast.Call, ast.NamedExpr, ast.IfExp, ast.BoolOp)
        return "either" if isinstance(first, calls) else "slot"

    def must_be_lvalue(self, slot: ast.expr) -> None:
        if not isinstance(slot, LVALUES):
            self.refuse(
                slot,
                f"a slot must be a variable, an item or an attribute, and `{ast.unparse(slot)}`"
                " cannot be assigned to",
            )
        if isinstance(slot, ast.Name) and self.names.hidden(slot.id):
            self.refuse(slot, f"the slot `{slot.id}` is a variable of the comprehension")
        if isinstance(slot, ast.Subscript):
            parts = slot.slice.elts if isinstance(slot.slice, ast.Tuple) else [slot.slice]
            for part in parts:
                if isinstance(part, ast.Slice | ast.Starred):
                    self.refuse(slot, "a slot must be a single item, not a slice")

    # What has no meaning in a tamed function

    def visit_Yield(self, node: ast.Yield | ast.YieldFrom | ast.Await) -> None:
        if self.nested is None:
            word = "await" if isinstance(node, ast.Await) else "yield"
            self.refuse(node, f"`{word}` is not allowed in a tamed function: wait with twait")
        self.generic_visit(node)

    visit_YieldFrom = visit_Yield
    visit_Await = visit_Yield

    def visit_Return(self, node: ast.Return) -> None:
        value = node.value
        nothing = value is None or (isinstance(value, ast.Constant) and value.value is None)
        if self.nested is None and not nothing:
            self.refuse(node, "a tamed function cannot return a value: trigger an event with it")
        self.generic_visit(node)

    # Nested scopes, loops

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for decorator in node.decorator_list:
            self.visit(decorator)
        self.visit_defaults(node.args)
        if any(self.names.is_word(decorator, tame.tamed) for decorator in node.decorator_list):
            return  # translated when it is defined
        self.visit_nested(node, node.body, f"the function {node.name}()")

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit_defaults(node.args)
        self.visit_nested(node, [node.body], "a lambda")

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in [*node.decorator_list, *node.bases, *(k.value for k in node.keywords)]:
            self.visit(part)
        self.visit_nested(node, node.body, f"the body of class {node.name}")

    def visit_defaults(self, arguments: ast.arguments) -> None:
        for default in [*arguments.defaults, *arguments.kw_defaults]:
            if default is not None:
                self.visit(default)

    def visit_nested(self, scope: ScopeNode, body: list[Any], what: str) -> None:
        outer, self.nested = (self.nested, self.block, self.loops), what
        self.block, self.loops = None, 0
        with self.names.inside(bound_names(scope)):
            for part in body:
                self.visit(part)
        self.nested, self.block, self.loops = outer

    def visit_comprehension_of(self, node: Any) -> None:
        waits = len(self.plan.waits)
        first, *others = node.generators
        self.visit(first.iter)  # evaluated outside
        self.loops += 1
        with self.names.inside(bound_names_of_targets(node.generators)):
            for generator in node.generators:
                for condition in generator.ifs:
                    self.visit(condition)
            for generator in others:
                self.visit(generator.iter)
            for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
                self.visit(part)
        self.loops -= 1
        for wait in self.plan.waits[waits:]:
            self.refuse(wait, "twait(r) is not possible in a comprehension: write a loop")

    visit_ListComp = visit_comprehension_of
    visit_SetComp = visit_comprehension_of
    visit_DictComp = visit_comprehension_of
    visit_GeneratorExp = visit_comprehension_of

    def visit_loop(self, node: ast.For | ast.While) -> None:
        self.loops += 1
        self.generic_visit(node)
        self.loops -= 1

    visit_For = visit_loop
    visit_While = visit_loop
