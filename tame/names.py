"""What the names in a module mean to Tame, without running it.

The words of the language are recognized by what they are bound to, and a rendezvous by how its
variable is bound.  Nothing here knows what is translated, or into what.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import tame

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
ScopeNode = FunctionNode | ast.Lambda | ast.ClassDef | ast.Module
Lookup = Callable[[str], object]

UNKNOWN: Final = object()
"""The answer of a `Lookup` for a name that it does not know."""

BOUND: Final = object()
"""The answer of a `Lookup` for a name that is bound to an unknown value."""

COMPREHENSIONS: Final = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
NAMING: Final = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler, ast.MatchAs,
    ast.MatchStar,
)  # fmt: skip
"""The nodes that bind the variable in their attribute `name`, if that is not None."""

Kind = Literal["slot", "rendezvous", "either"]
"""What the first argument of `mkevent` is, as far as the source shows."""


class Names:
    """What the names in a tamed function are bound to; the words of the language are recognized by
    that, not by their spelling."""

    def __init__(self, node: ScopeNode, lookup: Lookup) -> None:
        self._lookup = lookup
        self._local = bound_names(node)
        self._imported = dict(imports_of_tame(own_nodes(node)))
        self._shadows: list[set[str]] = []

    @contextmanager
    def inside(self, variables: set[str]) -> Iterator[None]:
        """Enter a nested scope, whose own `variables` hide the outer ones."""
        self._shadows.append(variables)
        yield
        self._shadows.pop()

    def hidden(self, name: str) -> bool:
        """Whether `name` is a variable of a nested scope that has been entered."""
        return any(name in shadow for shadow in self._shadows)

    def value(self, node: ast.AST) -> object:
        """What a name, or an attribute of a module, is bound to, as far as that is known."""
        if isinstance(node, ast.Name):
            name = node.id
            if self.hidden(name):
                return BOUND
            if name in self._local:
                return self._imported.get(name, BOUND)
            return self._lookup(name)
        if isinstance(node, ast.Attribute):
            owner = self.value(node.value)
            if isinstance(owner, type(sys)):
                return getattr(owner, node.attr, UNKNOWN)
        return UNKNOWN

    def is_word(self, node: ast.AST, word: object) -> bool:
        return self.value(node) is word

    def kind_of_type(self, annotation: ast.expr) -> Kind:
        """What a variable with this annotation is."""
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            try:
                annotation = ast.parse(annotation.value, mode="eval").body
            except SyntaxError:
                return "either"
        if isinstance(annotation, ast.Subscript):
            annotation = annotation.value
        value = self.value(annotation)
        value = getattr(value, "__origin__", value)
        if isinstance(value, type) and value not in (object, Any):
            return "rendezvous" if issubclass(value, tame.Rendezvous) else "slot"
        return "either"


def imports_of_tame(nodes: Iterator[ast.AST]) -> Iterator[tuple[str, object]]:
    """The names that the imports among `nodes` bind to Tame or to its public names, and what to."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.asname or "tame", tame) for alias in node.names if is_tame(alias))
        elif isinstance(node, ast.ImportFrom) and node.module == "tame" and not node.level:
            for alias in node.names:
                yield from imported_from_tame(alias)


def is_tame(alias: ast.alias) -> bool:
    return alias.name == "tame"


def imported_from_tame(alias: ast.alias) -> Iterator[tuple[str, object]]:
    """What ``from tame import alias`` binds."""
    if alias.name == "*":
        yield from ((name, getattr(tame, name)) for name in tame.__all__)
    elif hasattr(tame, alias.name):
        yield alias.asname or alias.name, getattr(tame, alias.name)


def own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of `scope` without those of the functions and classes nested in it."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, ScopeNode):
            yield from own_nodes(child)


def bound_names(scope: ScopeNode) -> set[str]:
    """The variables of a function, lambda, class or module."""
    nodes = list(own_nodes(scope))
    bound = {name for node in nodes if (name := bound_by(node)) is not None}
    bound |= {node.id for node in stored_names(nodes)}
    outer = [node.names for node in nodes if isinstance(node, ast.Global | ast.Nonlocal)]
    return bound.difference(*outer)


def bound_by(node: ast.AST) -> str | None:
    """The variable that `node` binds by an attribute, not by a name node below it."""
    if isinstance(node, ast.arg):
        return node.arg
    if isinstance(node, ast.alias):
        return node.asname or node.name.partition(".")[0]
    if isinstance(node, NAMING):
        return node.name
    return node.rest if isinstance(node, ast.MatchMapping) else None


def stored_names(nodes: list[ast.AST]) -> Iterator[ast.Name]:
    """The assigned names among `nodes`, without variables of comprehensions."""
    own_scope = {
        part
        for node in nodes
        if isinstance(node, ast.comprehension)
        for part in ast.walk(node.target)
    }
    for node in nodes:
        if not isinstance(node, ast.Name) or node in own_scope:
            continue
        if not isinstance(node.ctx, ast.Load):
            yield node


# -- evidence ----------------------------------------------------------------------------------


def evidence(node: FunctionNode, names: Names) -> dict[str, set[Kind]]:
    """What the bindings of each local variable, and waits for it, say about its kind."""
    kinds: dict[str, set[Kind]] = {}
    for part in own_nodes(node):
        for variable, kind in evidence_in(part, names):
            kinds.setdefault(variable, set()).add(kind)
    return kinds


def evidence_in(part: ast.AST, names: Names) -> Iterator[tuple[str, Kind]]:
    """What one node says about the kinds of variables."""
    match part:
        case ast.arg(arg=variable, annotation=annotation):
            yield variable, names.kind_of_type(annotation) if annotation else "either"
        case ast.AnnAssign(target=target, annotation=annotation):
            yield from evidence_of(target, names.kind_of_type(annotation))
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                yield from evidence_of(target, kind_of_value(value, names))
        case ast.NamedExpr(target=target, value=value):
            yield from evidence_of(target, kind_of_value(value, names))
        case ast.AugAssign(target=target):
            yield from evidence_of(target, "slot")  # a rendezvous has no arithmetic
        case ast.For(target=target) | ast.withitem(optional_vars=ast.expr() as target):
            yield from evidence_of(target, "either")
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name, "either"
        case ast.ExceptHandler(name=str(name)):
            yield name, "either"
        case ast.Call(func=func, args=[ast.Name(id=name), *_]) if names.is_word(func, tame.twait):
            yield name, "rendezvous"


def evidence_of(target: ast.expr, kind: Kind) -> Iterator[tuple[str, Kind]]:
    """The evidence of assigning a value of `kind`: only a lone name gets the whole value."""
    for part in ast.walk(target):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id, kind if part is target else "either"


def kind_of_value(value: ast.expr, names: Names) -> Kind:
    """What a variable with this value is."""
    if isinstance(value, ast.Call):
        maker = value.func.value if isinstance(value.func, ast.Subscript) else value.func
        made = names.value(maker)
        if isinstance(made, type):
            return "rendezvous" if issubclass(made, tame.Rendezvous) else "slot"
    displays = (ast.Constant, ast.List, ast.Dict, ast.Set, ast.Tuple, ast.JoinedStr, ast.BinOp)
    return "slot" if isinstance(value, displays + COMPREHENSIONS) else "either"


def bound_names_of_targets(generators: list[ast.comprehension]) -> set[str]:
    """The variables of a comprehension."""
    return {
        part.id
        for generator in generators
        for part in ast.walk(generator.target)
        if isinstance(part, ast.Name)
    }


def mangled(name: str, class_name: str | None) -> str:
    """`name` as Python stores it in a class: names with two leading underscores are private."""
    if class_name is None or not name.startswith("__") or name.endswith("__"):
        return name
    return f"_{class_name.lstrip('_')}{name}" if class_name.strip("_") else name
