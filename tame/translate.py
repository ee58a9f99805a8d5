"""`@tamed`: from a function's syntax tree to the generator function that the runtime drives.

Theory of operation.  The file is parsed once.  The tree of the tamed function is taken out, its
words are replaced (`_Rewriter`), and the result is compiled inside scopes like its own: a function
that binds its free variables, and the enclosing class, so that private names, `super()` and
`nonlocal` keep their meaning.  Only the function's own code object is used; with the original's
globals, defaults and cells it makes the body.  Every node keeps its position in the file, so
tracebacks, debuggers and coverage show the user's source.

Generated names contain a dot (``.block``), which no name in a program does.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import copy
import linecache
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import CellType, CodeType, FunctionType
from typing import Any, Final, TypeVar

from tame.analysis import MkeventCall, Plan, Source, analyse
from tame.errors import TranslationError
from tame.event import Attribute, Item
from tame.names import UNKNOWN, FunctionNode, mangled
from tame.rendezvous import Block, block_event, rendezvous_event
from tame.runtime import chosen, explicit

RUNTIME: Final = {
    ".Block": Block,
    ".block_event": block_event,
    ".rendezvous_event": rendezvous_event,
    ".Item": Item,
    ".Attribute": Attribute,
    ".chosen": chosen,
    ".explicit": explicit,
}

Node = TypeVar("Node", bound=ast.AST)

FUTURES: Final = sum(
    getattr(__future__, name).compiler_flag for name in __future__.all_feature_names
)

FUNCTION: Final = 0x1
"""`CO_OPTIMIZED`: the flag of code that belongs to a function, not to a class."""

_done: dict[int, tuple[CodeType, CodeType]] = {}
"""Translations by the id of the original code, which the entry keeps alive: a nested tamed function
is decorated again in every call of the outer one."""


def translate_function(f: Callable[..., Any]) -> FunctionType:
    """The generator function for the tamed function `f`, or a plain function if it has no wait.

    Raises `TranslationError` if `f` contains code that cannot be translated, or if its source
    cannot be read.
    """
    decorated = hasattr(f, "__wrapped__")
    if not isinstance(f, FunctionType) or f.__code__.co_name == "<lambda>" or decorated:
        raise TranslationError(
            f"@tamed translates a function written with `def`, not {f!r}: put @tamed below all"
            " other decorators, nearest to the `def`"
        )
    original = f.__code__
    if id(original) not in _done:
        _done[id(original)] = (original, _translate_code(f))
    code = _done[id(original)][1]
    cells = dict(zip(original.co_freevars, f.__closure__ or (), strict=True))
    cells[".globals"] = CellType(f.__globals__)
    closure = tuple(cells.get(name) or CellType(RUNTIME[name]) for name in code.co_freevars)
    body = FunctionType(code, f.__globals__, f.__name__, f.__defaults__, closure)
    body.__kwdefaults__ = f.__kwdefaults__
    body.__qualname__ = f.__qualname__
    body.__module__ = f.__module__
    return body


def _translate_code(f: FunctionType) -> CodeType:
    code = f.__code__
    lines = linecache.getlines(code.co_filename, f.__globals__)
    node, around = _find(code, "".join(lines))
    node = copy.deepcopy(node)
    source = Source(code.co_filename, lines)
    plan = analyse(node, code.co_freevars, lambda name: _lookup(f, name), source)
    return compile_body(node, around, plan, code)


def _lookup(f: FunctionType, name: str) -> object:
    if name in f.__code__.co_freevars:
        cell = (f.__closure__ or ())[f.__code__.co_freevars.index(name)]
        try:
            return cell.cell_contents
        except ValueError:  # not assigned yet
            return UNKNOWN
    return f.__globals__.get(name, getattr(builtins, name, UNKNOWN))


# -- finding the function in its file -----------------------------------------------------------

Found = tuple[FunctionNode, ast.ClassDef | None]


def _find(code: CodeType, text: str) -> Found:
    if not text:
        raise TranslationError(
            f"the source of {code.co_qualname}() ({code.co_filename}) cannot be read, so @tamed"
            " cannot translate it: translate the file ahead of time with `tame translate FILE.py`"
        )
    found = _functions(text, code.co_filename).get((code.co_name, code.co_firstlineno))
    if found is None or arguments_of(found[0]) != code.co_varnames[: len(arguments_of(found[0]))]:
        raise TranslationError(
            f"{code.co_qualname}() is not at {code.co_filename}:{code.co_firstlineno} any more: the"
            " file has changed since it was imported; restart the program"
        )
    return found


@lru_cache(maxsize=4)
def _functions(text: str, filename: str) -> dict[tuple[str, int], Found]:
    """Every function of a file by its name and first line, with its enclosing class."""
    return {
        (node.name, first_line(node)): (node, around)
        for node, around in functions_of(ast.parse(text, filename))
    }


def functions_of(tree: ast.AST, around: ast.ClassDef | None = None) -> Iterator[Found]:
    """The functions in `tree`, each with its innermost enclosing class."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child, around
        yield from functions_of(child, child if isinstance(child, ast.ClassDef) else around)


def first_line(node: FunctionNode | ast.ClassDef) -> int:
    """The line at which the code object of `node` begins."""
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def arguments_of(node: FunctionNode) -> tuple[str, ...]:
    """The names of the positional arguments; none if any of them is private to a class."""
    names = [argument.arg for argument in node.args.posonlyargs + node.args.args]
    return tuple(names) if not any(name.startswith("__") for name in names) else ()


# -- compiling ---------------------------------------------------------------------------------


def compile_body(
    node: FunctionNode, around: ast.ClassDef | None, plan: Plan, original: CodeType
) -> CodeType:
    """The code of the translated function, with the free variables and position of `original`."""
    class_name = around.name if around is not None else None
    _Rewriter(plan, original.co_filename, class_name).rewrite(node)
    defined: FunctionNode | ast.ClassDef = _bare(node)
    if around is not None:
        defined = _class(around.name, [defined])
    names = [name for name in original.co_freevars if name != "__class__"]
    scope = _scope([*names, ".globals", *RUNTIME], [defined])
    if defined.name not in names:  # inside the function the name means a global
        scope.body.insert(0, ast.Global([defined.name]))
    module = ast.Module([scope], [])
    ast.fix_missing_locations(module)
    flags = original.co_flags & FUTURES
    compiled = compile(module, original.co_filename, "exec", flags=flags, dont_inherit=True)
    code = next(c for c in codes_of(compiled) if _is_same(c, original))
    return _requalified(code, code.co_qualname, original.co_qualname)


def _bare(node: FunctionNode) -> FunctionNode:
    """The function without what is evaluated when it is defined: that has already happened.

    Placeholders for the decorators stay, because the code object begins at the first one's line.
    """
    arguments = node.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        argument.annotation = None
    for extra in (arguments.vararg, arguments.kwarg):
        if extra is not None:
            extra.annotation = None
    arguments.defaults = []
    arguments.kw_defaults = [None] * len(arguments.kwonlyargs)
    node.returns = None
    node.decorator_list = [
        _place(ast.Constant(None), decorator) for decorator in node.decorator_list
    ]
    if hasattr(node, "type_params"):
        node.type_params = []
    return node


def _class(name: str, body: list[ast.stmt]) -> ast.ClassDef:
    made = ast.parse("class C: pass").body[0]
    assert isinstance(made, ast.ClassDef)
    made.name = name
    made.body = body
    return made


def _scope(names: list[str], body: list[ast.stmt]) -> ast.FunctionDef:
    """A function that binds `names`, so that the function in `body` finds them free."""
    made = ast.parse("def scope(): pass").body[0]
    assert isinstance(made, ast.FunctionDef)
    made.name = ".scope"
    made.body = [
        ast.Assign([ast.Name(name, ast.Store())], ast.Constant(None)) for name in names
    ] + body
    return made


def codes_of(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from codes_of(constant)


def _is_same(code: CodeType, original: CodeType) -> bool:
    return (code.co_name, code.co_firstlineno) == (original.co_name, original.co_firstlineno)


def _requalified(code: CodeType, wrong: str, right: str) -> CodeType:
    """`code` and its nested code with `right` in place of `wrong` in qualified names."""
    name = code.co_qualname
    if name == wrong or name.startswith(wrong + "."):  # false for a nested function made global
        name = right + name[len(wrong) :]
    constants: list[Any] = []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            constant = _requalified(constant, wrong, right)
        elif constant == code.co_qualname and not code.co_flags & FUNCTION:
            # The body of a class, which takes its qualified name from this constant.
            constant = name
        constants.append(constant)
    return code.replace(co_qualname=name, co_consts=tuple(constants))


# -- rewriting ---------------------------------------------------------------------------------


class _Rewriter(ast.NodeTransformer):
    """Replaces the words of the language in one function, following its plan."""

    def __init__(self, plan: Plan, filename: str, class_name: str | None) -> None:
        self.plan = plan
        self.filename = filename
        self.class_name = class_name
        self.mkevents = {made.call: made for made in plan.mkevents}
        self.waits = set(plan.waits)
        self.blocks = {block: f".block{i}" for i, block in enumerate(plan.blocks)}
        self.prologue: list[ast.stmt] = []

    def rewrite(self, node: FunctionNode) -> None:
        """Rewrite the body of `node` in place."""
        for name in sorted(self.plan.unbound):
            self.prologue += ast.parse(f"if 0: {name} = None").body
        body = [part for old in node.body for part in self.statements(old)]
        after = 1 if ast.get_docstring(node, clean=False) is not None else 0
        for statement in self.prologue:
            # At the first line of the body, where a debugger stops first in any case.
            _replace(statement, node.body[min(after, len(node.body) - 1)])
        node.body = body[:after] + self.prologue + body[after:] or [ast.Pass()]

    def statements(self, old: ast.stmt) -> list[ast.stmt]:
        new = self.visit(old)
        return new if isinstance(new, list) else [new]

    def visit_With(self, node: ast.With) -> Any:
        if node in self.plan.declarations:
            line = _place(ast.Pass(), node.items[0].context_expr)  # so coverage sees the line
            return [line, *(part for old in node.body for part in self.statements(old))]
        name = self.blocks.get(node)
        if name is None:
            return self.generic_visit(node)
        # In a loop, a block that ended normally is reused by the next round, because making one
        # costs a tenth of a wait.  A block that was left early still has events that refer to it.
        repeated = self.plan.blocks[node]
        if repeated:
            self.prologue.append(_assign(name, ast.Constant(None)))
        [make] = _template(_MAKE_OR_REUSE if repeated else _MAKE, name, node)
        [protected] = _template(_WAIT, name, node)
        assert isinstance(protected, ast.Try)
        body = [part for old in node.body for part in self.statements(old)]
        protected.body[:0] = body
        return [make, protected]

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if node in self.waits:
            return self.wait(node)
        made = self.mkevents.get(node)
        return self.event(made) if made else self.generic_visit(node)

    def wait(self, node: ast.Call) -> ast.expr:
        rendezvous = self.visit(node.args[0])
        if isinstance(rendezvous, ast.Name):
            first: ast.expr = rendezvous
        else:
            first = ast.NamedExpr(_name(".wait", ast.Store()), rendezvous)
            rendezvous = _name(".wait")
        ready = ast.Attribute(rendezvous, "ready", ast.Load())
        either = ast.BoolOp(ast.Or(), [ready, ast.Yield(rendezvous)])
        call = ast.Call(ast.Attribute(first, "take", ast.Load()), [either], [])
        return _place(call, node)

    def event(self, made: MkeventCall) -> ast.expr:
        site = ast.Constant(f"{self.filename}:{made.call.lineno}")
        slots = self.slots(made)
        if made.rendezvous is not None:
            id = self.visit(made.id) if made.id is not None else ast.Constant(None)
            maker = ".rendezvous_event" if made.certain else ".explicit"
            arguments = [self.visit(made.rendezvous), id, site, slots]
        else:
            assert made.block is not None
            maker = ".block_event" if made.certain else ".chosen"
            arguments = [_name(self.blocks[made.block]), site, slots]
        return _place(ast.Call(_name(maker), arguments, []), made.call)

    def slots(self, made: MkeventCall) -> ast.expr:
        """The tuple of slots; that of a local variable is its cell, taken from ``(lambda: x)``."""
        first = made.slots[0] if len(made.slots) == 1 else None
        if isinstance(first, ast.Name) and first.id not in self.plan.global_names:
            return self.hoisted(made, _closure_of(first.id))  # already such a tuple
        return ast.Tuple([self.slot(made, slot) for slot in made.slots], ast.Load())

    def slot(self, made: MkeventCall, slot: ast.expr) -> ast.expr:
        if isinstance(slot, ast.Subscript):
            arguments = [self.visit(slot.value), self.visit(slot.slice)]
            return ast.Call(_name(".Item"), arguments, [])
        if isinstance(slot, ast.Attribute):
            name = mangled(slot.attr, self.class_name)
            arguments = [self.visit(slot.value), ast.Constant(name)]
            return ast.Call(_name(".Attribute"), arguments, [])
        assert isinstance(slot, ast.Name)
        if slot.id in self.plan.global_names:
            name = mangled(slot.id, self.class_name)
            return ast.Call(_name(".Item"), [_name(".globals"), ast.Constant(name)], [])
        cell = ast.Subscript(_closure_of(slot.id), ast.Constant(0), ast.Load())
        return self.hoisted(made, cell)

    def hoisted(self, made: MkeventCall, cell: ast.expr) -> ast.expr:
        """The cell itself, or for an event in a loop a variable that is set to it before the loop,
        which saves 95 ns an event."""
        if not made.repeated:
            return cell
        name = f".slot{len(self.prologue)}"
        self.prologue.append(_assign(name, cell))
        return _name(name)


_MAKE = "block = Block()"

_MAKE_OR_REUSE = """
if block is None:
    block = Block()
"""

_WAIT = """
try:
    if block.pending:
        yield block
    if block.failures is not None:
        raise block.failure()
finally:
    if block.pending or block.failures is not None:
        block.forget()
        block = None
"""


def _template(text: str, block: str, place: ast.With) -> list[ast.stmt]:
    """The statements of `text` for the block called `block`, all at the line of `place`."""
    statements = ast.parse(text).body
    for statement in statements:
        for part in ast.walk(statement):
            if isinstance(part, ast.Name):
                part.id = block if part.id == "block" else "." + part.id
        _replace(statement, place.items[0].context_expr)
    return statements


def _name(name: str, context: ast.expr_context | None = None) -> ast.Name:
    return ast.Name(name, context or ast.Load())


def _assign(name: str, value: ast.expr) -> ast.stmt:
    return ast.Assign([_name(name, ast.Store())], value)


def _closure_of(variable: str) -> ast.expr:
    nothing = ast.arguments([], [], None, [], [], None, [])
    return ast.Attribute(ast.Lambda(nothing, _name(variable)), "__closure__", ast.Load())


def _place(node: Node, place: ast.AST) -> Node:
    """Give `node` the position of `place`, and its parts too if they have none."""
    return ast.fix_missing_locations(ast.copy_location(node, place))


def _replace(node: ast.AST, place: ast.AST) -> None:
    """Give `node` and all its parts the position of `place`."""
    for part in ast.walk(node):
        ast.copy_location(part, place)
        ast.fix_missing_locations(part)
