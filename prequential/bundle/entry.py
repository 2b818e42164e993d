"""The main script: where it lies, or its text where it lies nowhere (a notebook, ``python -c``)."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from prequential.bundle.closure import attributes
from prequential.bundle.origins import Origins
from prequential.errors import BundleError

_CONFIG_SUFFIXES = (".py", ".yaml", ".yml", ".toml", ".ini", ".cfg")
_CONFIG_OPTION = re.compile(r"-c|--(.*[._-])?(config|cfg)([._-].*)?")
_OPTION_C = re.compile(r"-[A-Za-z]*c")


class Entry(NamedTuple):
    """Where a program begins.

    Attributes:
        path: File of the main script; None if it has none, or is not the program's own (pytest, a command's wrapper).
        pieces: Where there is no file: its text, cell by cell.
        name: Name of the pieces in the bundle; "" if they are only read for their imports.
        package: Dotted name of the package that the main script was run in, "" for none.
        folder: Where imports are searched first.
    """

    path: Path | None
    pieces: tuple[bytes, ...]
    name: str
    package: str
    folder: Path

    @property
    def top(self) -> Path:
        """The folder around the packages that the main script was run in: its own folder if in none."""
        return self.folder.parents[self.package.count(".")] if self.package else self.folder


def given(main: str | os.PathLike[str]) -> Entry:
    """Begin at a script or ``.ipynb`` that the user names.

    Raises:
        BundleError: There is no such file.
    """
    path = Path(os.path.abspath(main))
    if not path.is_file():
        raise BundleError(f"expected the main script, got {path.name!r}, which is no file: check the path")
    if path.suffix == ".ipynb":
        return Entry(None, _cells_of_notebook(path), f"{path.stem}.py", "", path.parent)
    folder, package = path.parent, list[str]()
    while (folder / "__init__.py").exists():
        package.insert(0, folder.name)
        folder = folder.parent
    return Entry(path, (), path.name, ".".join(package), path.parent)


def running(origins: Origins) -> Entry:
    """Begin where the program begins that this process runs.

    Raises:
        BundleError: It has no source: a terminal, or standard input.
    """
    main = attributes(sys.modules.get("__main__"))
    here = Path.cwd()
    cells = main.get("In")
    if callable(main.get("get_ipython")) and isinstance(cells, list) and "__file__" not in main:
        return Entry(None, tuple(str(cell).encode() for cell in cells[1:]), "notebook.py", "", here)
    if (path := _file_of_main(main, origins)) is not None:
        spec = main.get("__spec__")
        package = str(spec.parent) if spec is not None else ""
        return Entry(path, (), path.name, package, path.parent)
    if isinstance(main.get("__file__"), str) and Path(main["__file__"]).is_file():
        return Entry(None, _wrapper(Path(main["__file__"]), origins), "", "", here)
    if (command := _command()) is not None:
        return Entry(None, (command.encode(),), "command.py", "", here)
    raise BundleError(
        "expected a script, a module or a notebook, got a program without source: save it and run the file"
    )


def _file_of_main(main: dict[str, Any], origins: Origins) -> Path | None:
    """Find the file being run; where a tool runs it (a profiler, a debugger), what the tool's command line names."""
    named = [main.get("__file__"), sys.argv[0] if sys.argv else None]
    for name in named:
        path = Path(os.path.abspath(name)) if isinstance(name, str) else None
        if path and path.is_file() and origins.is_own(path) and not origins.is_wrapper(path):
            return path
    return None


def _wrapper(path: Path, origins: Origins) -> tuple[bytes, ...]:
    """Read a command that an installer wrote, for its imports; nothing for other people's programs."""
    try:
        return (path.read_bytes(),) if origins.is_wrapper(path) else ()
    except OSError:
        return ()


def _command() -> str | None:
    arguments = sys.orig_argv[1:]
    options = (i for i, text in enumerate(arguments[:-1]) if _OPTION_C.fullmatch(text))
    return next((arguments[i + 1] for i in options), None) if sys.argv[:1] == ["-c"] else None


def _cells_of_notebook(path: Path) -> tuple[bytes, ...]:
    try:
        cells = json.loads(path.read_bytes())["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"expected a notebook, got {path.name!r}, which cannot be read as one: save it again"
        ) from error
    return tuple(_without_magics(cell).encode() for cell in code)


def _without_magics(cell: str) -> str:
    """Make the magics of a cell comments, so that its imports can be read."""
    return re.sub(r"(?m)^(\s*)([%!])", r"\1# \2", cell)


def files_of_command_line() -> Iterator[Path]:
    """List the configuration files on the command line: by suffix, or as the value of an option named config."""
    before = ""
    for argument in sys.argv[1:]:
        option, equals, value = argument.partition("=")
        name, text = (option, value) if equals and option.startswith("-") else (before, argument)
        path = Path(os.path.abspath(text)) if text else None
        is_config = text.endswith(_CONFIG_SUFFIXES) or _CONFIG_OPTION.fullmatch(name)
        if is_config and path is not None and _is_file(path):
            yield path
        before = argument


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a long text is no name
        return False
