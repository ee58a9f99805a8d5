"""`tame translate`: a module with tamed functions as plain Python on the public runtime.

Only the words of the language are edited, so comments, layout and line numbers stay.  One case
may need another line: after a compound statement at the end of a ``with twait:`` block, the wait
goes on the blank or comment line that follows, or else on a new line, and the next blank line is
removed to make up for it.

The module is never run, so what a name is bound to is read from the imports of `tame`.
"""

from __future__ import annotations

import ast
import builtins
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

import tame
from tame.analysis import MkeventCall, Plan, Source, analyse
from tame.errors import TranslationError
from tame.names import (
    BOUND,
    UNKNOWN,
    FunctionNode,
    Lookup,
    Names,
    bound_names,
    imports_of_tame,
    kind_of_value,
    mangled,
    own_nodes,
)

COMPOUND = (
    ast.If, ast.For, ast.While, ast.With, ast.Try, ast.TryStar, ast.Match, ast.ClassDef,
    ast.FunctionDef, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith,
)  # fmt: skip


def translate_module(text: str, filename: str) -> str:
    """The module `text` with the words of Tame replaced.

    Raises `TranslationError` for code that cannot be translated, and `SyntaxError` for code that is
    not Python.
    """
    tree = ast.parse(text, filename)
    compile(text, filename, "exec", dont_inherit=True)
    source = Source(filename, text.split("\n"))
    functions = list(tamed_functions(tree, Scope(module_names(tree)), source))
    writer = _Writer(text)
    for function in functions:
        scope = function.scope
        plan = analyse(function.node, scope.variables, scope.lookup, source)
        writer.write(function, plan)
    if functions:
        writer.import_runtime(tree)
    result = writer.result()
    try:
        compile(result, filename, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise TranslationError(
            "this cannot be translated in place: give each mkevent() and twait() in it a simple"
            " statement of its own, without parentheses around the word",
            (filename, error.lineno, error.offset, error.text),
        ) from error
    return result


# -- finding the tamed functions ----------------------------------------------------------------


@dataclass
class Scope:
    """What is known about names at one place of a module that is not run."""

    lookup: Lookup
    variables: frozenset[str] = frozenset()
    """The variables of the enclosing functions."""
    class_name: str | None = None

    def within(self, node: FunctionNode | ast.Lambda | ast.ClassDef) -> Scope:
        """The scope inside `node`, a function or class in this scope."""
        if isinstance(node, ast.ClassDef):
            return Scope(self.lookup, self.variables, node.name)
        bound = bound_names(node)
        found = dict(imports_of_tame(own_nodes(node)))

        def lookup(name: str) -> object:
            return found.get(name, BOUND) if name in bound else self.lookup(name)

        return Scope(lookup, self.variables | bound, self.class_name)


@dataclass
class Tamed:
    """A tamed function, its `@tamed`, and the scope that it is defined in."""

    node: FunctionNode
    decorator: ast.expr
    scope: Scope


def tamed_functions(outer: ast.AST, scope: Scope, source: Source) -> Iterator[Tamed]:
    """The tamed functions in the module, function or class `outer`, whose inside is `scope`."""
    names = Names(ast.Module([], []), scope.lookup)
    used_above = set(outer.decorator_list) if isinstance(outer, FunctionNode) else set()
    for node in own_nodes(outer):
        if isinstance(node, FunctionNode):
            decorator = tamed_decorator(node, names, source)
            if decorator is not None:
                yield Tamed(node, decorator, scope)
        if isinstance(node, FunctionNode | ast.Lambda | ast.ClassDef):
            yield from tamed_functions(node, scope.within(node), source)
        elif names.is_word(node, tame.tamed) and node not in used_above:
            source.refuse(node, "tamed can only be translated as `@tamed` above a `def`")


def tamed_decorator(node: FunctionNode, names: Names, source: Source) -> ast.expr | None:
    """The `@tamed` of a function, which must be the innermost decorator; None if it has none."""
    found = [d for d in node.decorator_list if names.is_word(d, tame.tamed)]
    if not found:
        return None
    if found[0] is not node.decorator_list[-1]:
        source.refuse(
            found[0],
            "@tamed translates a function written with `def`: put it below all other"
            " decorators, nearest to the `def`",
        )
    return found[0]


def module_names(tree: ast.Module) -> Lookup:
    """What the module's own names are bound to, as far as its source shows."""
    found: dict[str, object] = {}
    bound = bound_names(tree)

    def lookup(name: str) -> object:
        default = BOUND if name in bound else getattr(builtins, name, UNKNOWN)
        return found.get(name, default)

    names = Names(ast.Module([], []), lookup)
    for node in own_nodes(tree):
        found.update(imports_of_tame(iter([node])))
        if isinstance(node, FunctionNode | ast.ClassDef):
            found.pop(node.name, None)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = names.value(node.value)
            if kind_of_value(node.value, names) == "rendezvous":
                value = tame.Rendezvous()
            found[node.targets[0].id] = BOUND if value is UNKNOWN else value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            is_rendezvous = names.kind_of_type(node.annotation) == "rendezvous"
            found[node.target.id] = tame.Rendezvous() if is_rendezvous else BOUND
    return lookup


# -- writing -----------------------------------------------------------------------------------


class _Writer:
    """The edits of one module's text.  Offsets are in bytes, as columns are in a syntax tree."""

    def __init__(self, text: str) -> None:
        self.data = text.encode()
        self.starts = [0]
        for line in self.data.split(b"\n"):
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.edits: list[tuple[int, int, str]] = []
        free = ""
        while any(name + free in text for name in ("_tame", "_block", "_wait")):
            free += "_"
        self.runtime, self.block, self.waited = f"_tame{free}", f"_block{free}", f"_wait{free}"
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        self.blank_lines = sorted(
            t.start[0] for t in tokens if t.type == tokenize.NL and not t.line.strip()
        )
        self.comment_lines = {
            t.start[0]: t
            for t in tokens
            if t.type == tokenize.COMMENT and not t.line[: t.start[1]].strip()
        }

    def result(self) -> str:
        data = self.data
        for start, end, text in sorted(self.edits, key=lambda edit: edit[:2], reverse=True):
            data = data[:start] + text.encode() + data[end:]
        return data.decode()

    def start(self, node: ast.expr | ast.stmt) -> int:
        return self.starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def edit(self, start: int, end: int, text: str) -> None:
        self.edits.append((start, end, text))

    def write(self, function: Tamed, plan: Plan) -> None:
        decorator = function.decorator
        self.edit(self.start(decorator), self.end(decorator), f"{self.runtime}.closure")
        for block in plan.blocks:
            self.write_block(block)
        for declaration in plan.declarations:
            colon = self.data.index(b":", self.end(declaration.items[0].context_expr))
            self.edit(self.start(declaration), colon, "if True")
        for wait in plan.waits:
            self.write_wait(wait)
        for made in plan.mkevents:
            self.write_event(made, plan, function.scope.class_name)

    def write_wait(self, call: ast.Call) -> None:
        """``twait(r)``: yield unless an id is ready, then take it."""
        argument = call.args[0]
        if isinstance(argument, ast.Name) and call.lineno == call.end_lineno:
            name = argument.id
            text = f"{name}.take({name}.ready or (yield {name}))"
            return self.edit(self.start(call), self.end(call), text)
        paren = self.data.index(b"(", self.end(call.func))
        opening, closing = ("(", ")") if isinstance(argument, ast.NamedExpr) else ("", "")
        self.edit(self.start(call), paren + 1, f"({self.waited} := {opening}")
        comma = self.data.find(b",", self.end(argument), self.end(call))
        if comma >= 0:
            self.edit(comma, comma + 1, "")
        text = f"{closing}).take({self.waited}.ready or (yield {self.waited}))"
        self.edit(self.end(call) - 1, self.end(call), text)

    def write_block(self, block: ast.With) -> None:
        word = block.items[0].context_expr
        self.edit(self.start(word), self.end(word), f"{self.runtime}.block() as {self.block}")
        wait = f"{self.block}.finish({self.block}.pending and (yield {self.block}))"
        last = block.body[-1]
        if not isinstance(last, COMPOUND):
            return self.edit(self.end(last), self.end(last), f"; {wait}")
        assert last.end_lineno is not None
        following = last.end_lineno + 1
        line = " " * block.body[0].col_offset + wait
        if following in self.blank_lines:
            self.blank_lines.remove(following)
            self.edit(self.starts[following - 1], self.starts[following] - 1, line)
        elif following in self.comment_lines:
            comment = self.comment_lines.pop(following).string
            edited = f"{line}  {comment}"
            self.edit(self.starts[following - 1], self.starts[following] - 1, edited)
        else:
            self.edit(self.end(last), self.end(last), f"\n{line}")
            self.spare_line(following)

    def spare_line(self, after: int) -> None:
        """Remove the next blank line, because a line was inserted above it."""
        spare = next((number for number in self.blank_lines if number > after), None)
        if spare is not None:
            self.blank_lines.remove(spare)
            self.edit(self.starts[spare - 1], self.starts[spare], "")

    def write_event(self, made: MkeventCall, plan: Plan, class_name: str | None) -> None:
        call = made.call
        paren = self.data.index(b"(", self.end(call.func))
        if made.rendezvous is not None:
            maker = f"{self.runtime}.event("
        elif made.certain:
            maker = f"{self.block}.event("
        else:
            maker = f"{self.runtime}.choose({self.block}, "
        self.edit(self.start(call.func), paren + 1, maker)
        for slot in made.slots:
            self.write_slot(slot, plan, class_name)

    def write_slot(self, slot: ast.expr, plan: Plan, class_name: str | None) -> None:
        start, end = self.start(slot), self.end(slot)
        if isinstance(slot, ast.Name):
            name = slot.id
            if name in plan.global_names:
                text = f'{self.runtime}.item(globals(), "{mangled(name, class_name)}")'
            elif (
                name in plan.unbound
            ):  # an assignment, even one never run, makes it a local variable
                text = f"{self.runtime}.local((lambda: {name}) if True else ({name} := None))"
            else:
                text = f"{self.runtime}.local(lambda: {name})"
            self.edit(start, end, text)
        elif isinstance(slot, ast.Attribute):
            dot = self.data.index(b".", self.end(slot.value))
            self.edit(start, start, f"{self.runtime}.attribute(")
            self.edit(dot, end, f', "{mangled(slot.attr, class_name)}")')
        else:
            assert isinstance(slot, ast.Subscript)
            bracket = self.data.index(b"[", self.end(slot.value))
            several = isinstance(slot.slice, ast.Tuple)
            self.edit(start, start, f"{self.runtime}.item(")
            self.edit(bracket, bracket + 1, ", (" if several else ", ")
            self.edit(end - 1, end, "))" if several else ")")

    def import_runtime(self, tree: ast.Module) -> None:
        """Import `tame.runtime` without moving a line: beside the first import of Tame, else beside
        the first import of anything, else beside the docstring, else on a blank line at the top."""
        text = f"from tame import runtime as {self.runtime}"
        imports = [s for s in tree.body if isinstance(s, ast.Import | ast.ImportFrom)]
        of_tame = [s for s in imports if any(imports_of_tame(iter([s])))]
        docstring = tree.body[:1] if ast.get_docstring(tree) is not None else []
        beside: list[ast.stmt] = [*of_tame, *imports, *docstring]
        if beside:
            end = self.end(beside[0])
            return self.edit(end, end, f"; {text}")
        first = tree.body[0]
        line = min([first.lineno, *(d.lineno for d in getattr(first, "decorator_list", []))])
        start = self.starts[line - 1]
        above = [number for number in self.blank_lines if number < line]
        if not isinstance(first, COMPOUND):
            self.edit(start, start, f"{text}; ")
        elif above:
            self.blank_lines.remove(above[-1])
            self.edit(self.starts[above[-1] - 1], self.starts[above[-1]] - 1, text)
        else:
            self.edit(start, start, f"{text}\n")
            self.spare_line(line)
