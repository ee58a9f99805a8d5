"""What the names in a module mean to Tame, without running it.

The words of the language are known by what they are bound to, and a rendezvous by how a variable
is bound.  Nothing here knows what is to be translated, or into what.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import tame

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Scope = FunctionNode | ast.Lambda | ast.ClassDef | ast.Module
Lookup = Callable[[str], object]

UNKNOWN: Final = object()
"""What `Lookup` answers for a name of which it knows nothing."""

BOUND: Final = object()
"""What it answers for a name that is bound to something it cannot tell."""

COMPREHENSIONS: Final = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
NAMING: Final = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler, ast.MatchAs,
    ast.MatchStar,
)  # fmt: skip
"""The nodes that bind the variable `name`, if they have one."""

Kind = Literal["slot", "rendezvous", "either"]
"""What the first argument of `mkevent` is, as far as the source tells."""


class Names:
    """What the names in a tamed function are bound to: the words are known by that, not by
    their spelling."""

    def __init__(self, node: Scope, lookup: Lookup) -> None:
        self._lookup = lookup
        self._local = bound_names(node)
        self._imported = dict(imports_of_tame(own_nodes(node)))
        self._shadows: list[set[str]] = []

    @contextmanager
    def inside(self, variables: set[str]) -> Iterator[None]:
        """In a nested scope its own `variables` hide the outer ones."""
        self._shadows.append(variables)
        yield
        self._shadows.pop()

    def hidden(self, name: str) -> bool:
        """Whether `name` is a variable of a nested scope that we are in."""
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
        """Whether a variable annotated so is a rendezvous."""
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
    """The names that the imports among `nodes` bind to Tame, or to something of it."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "tame":
                    yield alias.asname or "tame", tame
        elif isinstance(node, ast.ImportFrom) and node.module == "tame" and not node.level:
            for alias in node.names:
                if alias.name == "*":
                    yield from ((name, getattr(tame, name)) for name in tame.__all__)
                elif hasattr(tame, alias.name):
                    yield alias.asname or alias.name, getattr(tame, alias.name)


def own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of `scope` without those of the functions and classes nested in it."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, Scope):
            yield from own_nodes(child)


def bound_names(scope: Scope) -> set[str]:
    """The variables of a function, lambda or class, or of a module."""
    bound: set[str] = set()
    outer: set[str] = set()
    comprehended: set[ast.AST] = set()  # variables of comprehensions, which have their own scope
    for node in own_nodes(scope):
        if isinstance(node, ast.comprehension):
            comprehended.update(ast.walk(node.target))
    for node in own_nodes(scope):
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load) and node not in comprehended:
                bound.add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, NAMING) and node.name:
            bound.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            bound.add(node.rest)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            outer.update(node.names)
    return bound - outer


# -- evidence ----------------------------------------------------------------------------------


def evidence(node: FunctionNode, names: Names) -> dict[str, set[Kind]]:
    """What the bindings of each local variable say about it."""
    kinds: dict[str, set[Kind]] = {}

    def say(target: ast.AST, kind: Kind) -> None:
        for part in ast.walk(target):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                # Only a name alone gets the whole value.
                kinds.setdefault(part.id, set()).add(kind if part is target else "either")

    for part in own_nodes(node):
        if isinstance(part, ast.arg):
            kind = names.kind_of_type(part.annotation) if part.annotation else "either"
            kinds.setdefault(part.arg, set()).add(kind)
        elif isinstance(part, ast.AnnAssign):
            say(part.target, names.kind_of_type(part.annotation))
        elif isinstance(part, ast.Assign):
            for target in part.targets:
                say(target, kind_of_value(part.value, names))
        elif isinstance(part, ast.NamedExpr):
            say(part.target, kind_of_value(part.value, names))
        elif isinstance(part, ast.AugAssign):
            say(part.target, "slot")  # a rendezvous has no arithmetic
        elif isinstance(part, ast.For):
            say(part.target, "either")
        elif isinstance(part, ast.withitem) and part.optional_vars:
            say(part.optional_vars, "either")
        elif isinstance(part, ast.MatchAs | ast.MatchStar | ast.ExceptHandler) and part.name:
            kinds.setdefault(part.name, set()).add("either")
        elif isinstance(part, ast.Call) and names.is_word(part.func, tame.twait):
            for argument in part.args[:1]:
                if isinstance(argument, ast.Name):
                    kinds.setdefault(argument.id, set()).add("rendezvous")
    return kinds


def kind_of_value(value: ast.expr, names: Names) -> Kind:
    if isinstance(value, ast.Call):
        maker = value.func.value if isinstance(value.func, ast.Subscript) else value.func
        made = names.value(maker)
        if isinstance(made, type):
            return "rendezvous" if issubclass(made, tame.Rendezvous) else "slot"
    displays = (ast.Constant, ast.List, ast.Dict, ast.Set, ast.Tuple, ast.JoinedStr, ast.BinOp)
    return "slot" if isinstance(value, displays + COMPREHENSIONS) else "either"


def bound_names_of_targets(generators: list[ast.comprehension]) -> set[str]:
    return {
        part.id
        for generator in generators
        for part in ast.walk(generator.target)
        if isinstance(part, ast.Name)
    }


def mangled(name: str, class_name: str | None) -> str:
    """A name private to the class around it, as Python stores it."""
    if class_name is None or not name.startswith("__") or name.endswith("__"):
        return name
    return f"_{class_name.lstrip('_')}{name}" if class_name.strip("_") else name
