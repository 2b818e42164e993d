"""Which files belong to the training program: what `Bundle.discover` and `Bundle.of` collect."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prequential.bundle import entry
from prequential.bundle.closure import Closure, Finder, Source, attributes
from prequential.bundle.collection import Collection
from prequential.bundle.configuration import canonical
from prequential.bundle.entry import Entry
from prequential.bundle.imports import imports
from prequential.bundle.origins import Origins, own_version
from prequential.bundle.revision import work_tree
from prequential.bundle.suspects import is_litter, parse
from prequential.errors import BundleError

_PathLike = str | os.PathLike[str]


class Finding(NamedTuple):
    """What was found: files by name, packages by name, the root, its files as they are on disk, and notes."""

    files: dict[str, bytes]
    packages: dict[str, str]
    root: Path
    tracked: list[str]
    notes: tuple[str, ...]


def discover(
    main: _PathLike | None,
    *,
    root: _PathLike | None,
    config: Mapping[str, Any] | None,
    tokenizer_files: Mapping[str, bytes],
    extra: Iterable[_PathLike],
    exclude: Iterable[str],
) -> Finding:
    """Find the training program; see `Bundle.discover`."""
    origins, live, extra = Origins(), main is None, tuple(extra)
    begin = entry.running(origins) if main is None else entry.given(main)
    base = Path(os.path.abspath(root)) if root is not None else work_tree(begin.folder) or begin.top
    collection = Collection(base)
    reached = _reached(begin, base, origins, live=live)
    _add_program(collection, begin, reached)
    if not collection.files and not extra:
        raise BundleError("expected a training program, got a process that runs none of its own: give the main script")
    _add_settings(collection, config, tokenizer_files, live=live)
    for pattern in extra:
        collection.add_pattern(os.fspath(pattern))
    collection.drop(tuple(exclude))
    packages, notes = _packages(reached, origins, live=live)
    return Finding(collection.files, packages, base, collection.tracked, (*collection.notes, *notes))


def gather(paths: Iterable[_PathLike], *, root: _PathLike | None) -> Finding:
    """Collect the files and folders that the user names; see `Bundle.of`."""
    absolute = [Path(os.path.abspath(path)) for path in paths]
    if not absolute or not all(path.exists() for path in absolute):
        names = [path.name for path in absolute if not path.exists()]
        raise BundleError(f"expected files and folders, got {', '.join(names) or 'none'}: check the paths")
    folders = [path if path.is_dir() else path.parent for path in absolute]
    collection = Collection(Path(os.path.abspath(root)) if root is not None else Path(os.path.commonpath(folders)))
    for path in absolute:
        if collection.relative(path) is None and path != collection.root:
            raise BundleError(f"expected paths under the root, got {path.name!r} outside: give another root")
        collection.sweep(path, "")
    if not collection.files:
        raise BundleError("expected a training program, got no files but litter and secrets: name the files")
    origins = Origins()
    reached = _closure(Finder([*folders, *_search_path()], live=False), origins)
    for name, data in collection.files.items():
        if name.endswith(".py"):
            _note_packages(reached, name, data)
    packages, notes = origins.packages(reached.foreign)
    return Finding(collection.files, packages, collection.root, collection.tracked, (*collection.notes, *notes))


# -- the program ------------------------------------------------------------------------------------------------


def _closure(finder: Finder, origins: Origins) -> Closure:
    return Closure(finder, origins.is_own)


def _search_path() -> list[Path]:
    return [Path(os.path.abspath(folder or os.curdir)) for folder in sys.path]


def _reached(begin: Entry, root: Path, origins: Origins, *, live: bool) -> Closure:
    """Everything the program imports, and what is loaded from the project if it is running."""
    reached = _closure(Finder(_folders(begin, root, live=live), live=live), origins)
    for piece in begin.pieces:
        reached.add(Source(begin.name, piece, folder=begin.folder))
    if begin.package:
        reached.add(Source(begin.name, f"import {begin.package}".encode()))
    if begin.path is not None:
        reached.own[begin.path] = f"{begin.package}.{begin.path.stem}".lstrip(".")
        reached.add_file(begin.path, begin.package)
    reached.follow()
    for name, path in _loaded_from(root, reached, origins) if live else ():
        reached.visit(name, path)
    reached.follow()
    return reached


def _folders(begin: Entry, root: Path, *, live: bool) -> list[Path]:
    """Where top-level modules are searched: a script's own folder first, a package's module never in its package."""
    around = [] if live else [root, root / "src", begin.folder]  # what a user would have put on the path
    return [begin.top, *_search_path(), *around]


def _loaded_from(root: Path, reached: Closure, origins: Origins) -> Iterator[tuple[str, Path]]:
    """List the loaded modules of the project, and of the local packages that it imports."""
    local = {name.partition(".")[0] for name in reached.own.values()}
    roots = {root, root.resolve()}
    for name, module in sorted(sys.modules.copy().items(), key=lambda item: item[0]):
        held = attributes(module)
        file = held.get("__file__")
        if not isinstance(file, str) or name in ("__main__", "__mp_main__"):
            continue
        path = Path(os.path.abspath(file))
        near = next((path.relative_to(folder).as_posix() for folder in roots if folder in path.parents), None)
        is_near = name.partition(".")[0] in local or (near is not None and not is_litter(near))
        if is_near and origins.is_own(path) and not origins.is_wrapper(path) and path.is_file():
            yield name, path


def _add_program(collection: Collection, begin: Entry, reached: Closure) -> None:
    in_root_first = sorted(
        reached.own.items(), key=lambda item: (not collection.relative(item[0]), item[1], str(item[0]))
    )
    for path, name in in_root_first:
        collection.add_file(path, _name_outside(path, name))
    if begin.path is None and begin.name:
        collection.add(begin.name, b"\n\n".join(begin.pieces) + b"\n")
    if reached.opaque:
        names = ", ".join(sorted(set(reached.opaque)))
        collection.notes.append(f"imports were not followed in what does not parse: {names}")


def _name_outside(path: Path, module: str) -> str:
    """Name of a module that lies outside of the root: its place under the parent of its top-level package."""
    folders = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
    return "/".join([*folders, path.name])


def _add_settings(
    collection: Collection, config: Mapping[str, Any] | None, tokenizer_files: Mapping[str, bytes], *, live: bool
) -> None:
    settings = {**({"argv": sys.argv[1:]} if live else {}), **(config or {})}
    if settings:
        data, notes = canonical(settings, collection.root)
        collection.add("config.json", data)
        collection.notes += notes
    for name, data in tokenizer_files.items():
        collection.add(f"tokenizer/{name}", data)
    for path in entry.files_of_command_line() if live else ():
        collection.add_file(path, path.name)


# -- packages ---------------------------------------------------------------------------------------------------


def _packages(reached: Closure, origins: Origins, *, live: bool) -> tuple[dict[str, str], list[str]]:
    packages, notes = origins.packages(reached.foreign)
    if live:  # it is running, and a receiver needs it to decode
        packages["prequential"] = own_version()
    missing = sorted(reached.missing - set(sys.stdlib_module_names) - {"__main__"})
    if missing:
        notes.append(f"imports that were not found here, perhaps optional: {', '.join(missing)}")
    return packages, notes


def _note_packages(reached: Closure, name: str, data: bytes) -> None:
    """Note which modules a source imports, without following them."""
    tree = parse(data)
    for found in imports(tree if tree is not None else ast.Module([], []), ""):
        top = found.module.partition(".")[0]
        for module in (top, found.module):
            there = reached.finder.find(module)
            if there and there.path and not reached.is_own(there.path):
                reached.foreign.setdefault(module, there.path)
