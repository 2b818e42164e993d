"""What one source file imports, read from its syntax.

Imports count wherever they stand (in functions, in branches, in ``try``), except under ``if TYPE_CHECKING:``. So do
``import_module("literal")``, ``__import__("literal")``, and files that are run by name (``run_path("other.py")``,
``exec(open("other.py").read())``). A name that the program puts together while it runs is not seen here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

_IMPORTERS = ("import_module", "__import__", "run_module")
_OPENERS = ("open", "run_path", "Path")


class Import(NamedTuple):
    """An import: absolute name of the module, and the names taken from it (``*`` for all)."""

    module: str
    names: tuple[str, ...] = ()


def imports(tree: ast.AST, package: str = "") -> Iterator[Import]:
    """List the imports in a syntax tree, relative ones resolved against a package."""
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and _is_for_type_checkers(node.test):
            nodes.extend(node.orelse)
            continue
        nodes.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (Import(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node.module or "", node.level, package)
            if module:
                yield Import(module, tuple(alias.name for alias in node.names))
        elif isinstance(node, ast.Call):
            yield from _dynamic(node, package)


def _is_for_type_checkers(test: ast.expr) -> bool:
    return getattr(test, "id", getattr(test, "attr", None)) == "TYPE_CHECKING"


def _absolute(module: str, level: int, package: str) -> str:
    if not level:
        return module
    parts = package.split(".") if package else []
    if level > len(parts):  # would fail when run
        return ""
    return ".".join([*parts[: len(parts) - level + 1], *([module] if module else [])])


def _dynamic(call: ast.Call, package: str) -> Iterator[Import]:
    called = getattr(call.func, "id", getattr(call.func, "attr", None))
    if called not in _IMPORTERS or not call.args:
        return
    literals = [argument.value if isinstance(argument, ast.Constant) else None for argument in call.args[:2]]
    anchors = [keyword.value.value for keyword in call.keywords if isinstance(keyword.value, ast.Constant)]
    name, given = literals[0], [value for value in [*literals[1:], *anchors] if isinstance(value, str)]
    if isinstance(name, str) and name:
        stripped = name.lstrip(".")
        module = _absolute(stripped, len(name) - len(stripped), given[0] if given else package)
        if module:
            yield Import(module)


def opened(tree: ast.AST) -> Iterator[str]:
    """List the Python files that a syntax tree opens or runs by a literal name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", None)) in _OPENERS:
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and str(argument.value).endswith(".py"):
                    yield str(argument.value)


def exported(tree: ast.AST) -> tuple[str, ...]:
    """Names that ``__all__`` lists literally."""
    names: list[str] = []
    for node in getattr(tree, "body", ()):
        if not isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            elements = getattr(node.value, "elts", ())
            names += [e.value for e in elements if isinstance(e, ast.Constant) and isinstance(e.value, str)]
    return tuple(names)
