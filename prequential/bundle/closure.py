"""Which modules a program reaches by importing: found as the import system would, without running anything."""

from __future__ import annotations

import importlib.machinery
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from prequential.bundle.imports import Import, exported, imports, opened
from prequential.bundle.suspects import parse

_SOURCE_FIRST = (
    *importlib.machinery.SOURCE_SUFFIXES,
    *importlib.machinery.EXTENSION_SUFFIXES,
    *importlib.machinery.BYTECODE_SUFFIXES,
)
_EDITABLE_FINDERS = ("__editable__", "_editable_impl", "editables")  # of setuptools, and of the `editables` package


class Module(NamedTuple):
    """Where a module lies: its file (None for a namespace or a built-in), and the folders of its submodules."""

    path: Path | None
    folders: tuple[Path, ...] = ()


class Source(NamedTuple):
    """A piece of program whose imports are followed.

    Attributes:
        name: What to call it in a message.
        data: Its bytes.
        package: Dotted name of the package that relative imports start from, "" for none.
        folder: Where the files that it runs by name may lie.
    """

    name: str
    data: bytes
    package: str = ""
    folder: Path | None = None


class Finder:
    """Finds the file of a module as the import system would, without importing its parents.

    Args:
        folders: Where top-level modules are searched, in order.
        live: Whether this process runs the program: then what it has loaded is where it was loaded from.
    """

    def __init__(self, folders: Iterable[Path], *, live: bool) -> None:
        self._folders = tuple(dict.fromkeys(folders))
        self._live = live
        self._found: dict[str, Module | None] = {}
        self._listings: dict[Path, frozenset[str]] = {}

    def find(self, name: str) -> Module | None:
        """Find a module by its dotted name, or None."""
        if name not in self._found:
            self._found[name] = (_loaded(name) if self._live else None) or self._searched(name)
        return self._found[name]

    def _searched(self, name: str) -> Module | None:
        parent, _, last = name.rpartition(".")
        if not parent:
            return Module(None) if name in sys.builtin_module_names else self._in(self._folders, name) or _edited(name)
        package = self.find(parent)
        return self._in(package.folders, last) if package else None

    def _in(self, folders: Sequence[Path], last: str) -> Module | None:
        parts_of_namespace = []
        for folder in folders:
            listing = self._listing(folder)
            if last in listing:
                inside = self._listing(folder / last)
                for suffix in _SOURCE_FIRST:
                    if f"__init__{suffix}" in inside:
                        return Module(folder / last / f"__init__{suffix}", (folder / last,))
            for suffix in _SOURCE_FIRST:
                if last + suffix in listing:
                    return Module(folder / (last + suffix))
            if last in listing and (folder / last).is_dir():
                parts_of_namespace.append(folder / last)
        return Module(None, tuple(parts_of_namespace)) if parts_of_namespace else None

    def _listing(self, folder: Path) -> frozenset[str]:
        if folder not in self._listings:
            try:
                self._listings[folder] = frozenset(entry.name for entry in folder.iterdir())
            except OSError:
                self._listings[folder] = frozenset()
        return self._listings[folder]


def attributes(module: Any) -> dict[str, Any]:
    """Look at what a loaded module holds; ask nothing of modules that load more when they are asked."""
    try:
        found: dict[str, Any] = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return {}
    return found


def _loaded(name: str) -> Module | None:
    held = attributes(sys.modules.get(name))
    path = held.get("__file__")
    try:
        folders = tuple(Path(os.path.abspath(folder)) for folder in held.get("__path__") or ())
    except (TypeError, KeyError, ImportError):  # a namespace looks its parent up when it is read
        folders = ()
    if isinstance(path, str) and Path(path).is_file():
        return Module(Path(os.path.abspath(path)), folders)
    return Module(None, folders) if folders else None


def _edited(name: str) -> Module | None:
    """Ask the finders that editable installs leave in `sys.meta_path`; they map names to folders."""
    for finder in sys.meta_path:
        kind = finder if isinstance(finder, type) else type(finder)
        if not kind.__module__.startswith(_EDITABLE_FINDERS):
            continue
        try:
            spec = finder.find_spec(name, None)
            origin, folders = (spec.origin, spec.submodule_search_locations) if spec else (None, None)
            if origin or folders:
                return Module(Path(os.path.abspath(origin)) if origin else None, tuple(map(Path, folders or ())))
        except Exception:  # somebody else's finder
            continue
    return None


@dataclass
class Closure:
    """What a program reaches by importing.

    Attributes:
        own: Dotted name by file of each module that belongs to the program.
        foreign: File by dotted name of each module that does not, at the border.
        missing: Top-level names that were not found.
        opaque: Sources whose imports could not be read.
    """

    finder: Finder
    is_own: Callable[[Path], bool]
    own: dict[Path, str] = field(default_factory=dict)
    foreign: dict[str, Path] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    opaque: list[str] = field(default_factory=list)
    _waiting: list[Source] = field(default_factory=list)

    def add(self, source: Source) -> None:
        """Put a source on the list of those to follow."""
        self._waiting.append(source)

    def follow(self) -> None:
        """Follow the imports of all that is on the list, and of all that they reach."""
        while self._waiting:
            source = self._waiting.pop()
            tree = parse(source.data)
            if tree is None:
                self.opaque.append(source.name)
                continue
            for found in imports(tree, source.package):
                self._reach(found)
            if source.folder is not None:
                self._run_by_name(opened(tree), source.folder)

    def visit(self, name: str, path: Path) -> None:
        """Take a module into the program, if it is its own, and put it on the list."""
        if not self.is_own(path):
            self.foreign.setdefault(name, path)
        elif path not in self.own:
            self.own[path] = name
            if path.suffix in importlib.machinery.SOURCE_SUFFIXES:
                package = name if path.stem == "__init__" else name.rpartition(".")[0]
                self.add_file(path, package)

    def add_file(self, path: Path, package: str) -> None:
        """Put a file on the list; one that cannot be read is reported by whoever packs it."""
        with suppress(OSError):
            self.add(Source(path.name, path.read_bytes(), package, path.parent))

    def _run_by_name(self, names: Iterable[str], folder: Path) -> None:
        for path in (Path(os.path.normpath(folder / name)) for name in names):
            if path.is_file() and self.is_own(path):
                self.visit(path.stem, path)

    def _reach(self, found: Import) -> None:
        parts = found.module.split(".")
        for depth in range(1, len(parts) + 1):
            name = ".".join(parts[:depth])
            module = self.finder.find(name)
            if module is None:
                if depth == 1:
                    self.missing.add(name)
                return
            if module.path:
                self.visit(name, module.path)
        for name in self._submodules(found):
            submodule = self.finder.find(f"{found.module}.{name}")
            if submodule and submodule.path:
                self.visit(f"{found.module}.{name}", submodule.path)

    def _submodules(self, found: Import) -> tuple[str, ...]:
        module = self.finder.find(found.module)
        if "*" not in found.names:
            return found.names
        if module is None or module.path is None or not self.is_own(module.path):
            return ()
        try:
            tree = parse(module.path.read_bytes())
        except OSError:
            return ()
        return exported(tree) if tree else ()
