"""Files on their way into a bundle: each under a free name, none of them a secret."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from prequential.bundle.archive import MAX_UNPACKED_BYTES
from prequential.bundle.suspects import is_litter, is_secret
from prequential.errors import BundleError

_MAX_FILES = 10_000
_ELSEWHERE = "elsewhere"


class Collection:
    """Collects files under names relative to a root.

    Attributes:
        root: The folder that names are relative to.
        files: Bytes by name.
        tracked: Names of files that lie under the root as they are, for git.
        notes: What was left out, and why.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, bytes] = {}
        self.tracked: list[str] = []
        self.notes: list[str] = []
        self._taken: set[Path] = set()
        self._bytes = 0

    def add(self, name: str, data: bytes) -> None:
        """Add bytes under a name; if others have it, under ``elsewhere/``."""
        free, number = name, 1
        while self.files.get(free, data) != data:
            free = f"{_ELSEWHERE}{'' if number == 1 else f'-{number}'}/{name}"
            number += 1
        self._bytes += len(data) if free not in self.files else 0
        if self._bytes > MAX_UNPACKED_BYTES or len(self.files) >= _MAX_FILES:
            raise BundleError(
                f"expected at most {_MAX_FILES} files and {MAX_UNPACKED_BYTES} bytes, got more: name what to pack"
            )
        self.files[free] = data

    def add_file(self, path: Path, outside: str, *, asked: bool = False) -> None:
        """Add a file, relative to the root if it lies there, else under the name ``outside``.

        Args:
            path: The file.
            outside: Its name if it does not lie under the root.
            asked: Whether the user named it: then it must be there and be no secret, else a note is left.
        """
        if path in self._taken:
            return
        relative = self.relative(path)
        name = relative or outside
        if is_secret(name) or is_secret(path.resolve().name):
            if asked:
                raise BundleError(f"expected no secrets, got {name!r}: a bundle is passed on, leave it out")
            self.notes.append(f"{name} was left out: its name is that of a secret")
            return
        try:
            data = path.read_bytes()
        except OSError as error:
            if asked:
                raise BundleError(f"expected a readable file, got {name!r}: {error.strerror}") from error
            self.notes.append(f"{name} was left out: {error.strerror}")
            return
        self._taken.add(path)
        self.add(name, data)
        if relative:
            self.tracked.append(relative)

    def relative(self, path: Path) -> str | None:
        """POSIX name of a path under the root, or None if it does not lie there."""
        for folder, root in ((path.parent, self.root), (path.parent.resolve(), self.root.resolve())):
            if folder == root or root in folder.parents:
                return (folder.relative_to(root) / path.name).as_posix()
        return None

    def sweep(self, path: Path, outside: str) -> None:
        """Add a file that the user named, or all files of a folder without litter and secrets."""
        if path.is_dir():
            for file in _files_in(path):
                self._swept(file, f"{outside}/{file.relative_to(path).as_posix()}".lstrip("/"))
        else:
            self.add_file(path, outside, asked=True)

    def _swept(self, file: Path, outside: str) -> None:
        if is_secret(file.name) or not is_litter(file.name):
            self.add_file(file, outside)

    def add_pattern(self, pattern: str) -> None:
        """Add what a path or glob names, relative to the root or else to the working directory.

        Raises:
            BundleError: It names nothing, or a secret.
        """
        for folder in (self.root, Path.cwd()):
            plain = folder / os.path.expanduser(pattern)
            paths = [plain] if plain.exists() else [Path(path) for path in sorted(_globbed(str(folder), pattern))]
            for path in paths:
                path = Path(os.path.normpath(path))
                if is_secret(self.relative(path) or path.name):
                    raise BundleError(f"expected no secrets, got {pattern!r}: a bundle is passed on, leave it out")
                self.sweep(path, path.name)
            if paths:
                return
        raise BundleError(f"expected a file, folder or glob as extra, got {pattern!r}, which names nothing: check it")

    def drop(self, patterns: tuple[str, ...]) -> None:
        """Leave out the files whose name matches a glob."""
        dropped = [name for name in self.files if any(fnmatchcase(name, pattern) for pattern in patterns)]
        for name in dropped:
            del self.files[name]
            self.notes.append(f"{name} was left out: excluded on request")
        self.tracked = [name for name in self.tracked if name in self.files]


def _globbed(folder: str, pattern: str) -> list[str]:
    expanded = os.path.expanduser(pattern)
    pattern = expanded if os.path.isabs(expanded) else os.path.join(glob.escape(folder), expanded)
    return glob.glob(pattern, recursive=True)


def _files_in(folder: Path) -> Iterator[Path]:
    """List files below a folder in a fixed order, past litter, secrets, virtual environments and linked folders."""
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not (is_litter(name) or is_secret(name)))
        folders[:] = [name for name in folders if not Path(here, name, "pyvenv.cfg").exists()]
        yield from (Path(here, name) for name in sorted(names) if Path(here, name).is_file())
