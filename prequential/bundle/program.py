"""`Bundle`: the training program as files, with its identity, its sizes, its manifest, and a way there and back."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prequential.bundle import archive, discovery, disk
from prequential.bundle.archive import DEFAULT_RULE, MAX_UNPACKED_BYTES
from prequential.bundle.codecs import codec_versions
from prequential.bundle.revision import revision
from prequential.bundle.suspects import is_secret, suspicion
from prequential.errors import BundleError


@dataclass(frozen=True, eq=False)
class Bundle:
    """The training program f: every file that a receiver needs and does not already have.

    ``bundle_bytes = len(pack(files, rule))``, the length of the written file. Two bundles are equal when they hold the
    same files, whatever else is known about them.

    Attributes:
        files: Bytes by name; names are relative POSIX paths. Read-only, sorted by name.
        packages: Versions of the installed public packages that the files import: named, not charged.
        python: Version of the interpreter that ran the program, or None if unknown.
        git: ``{"commit": …, "dirty": …}`` of the work tree, or None: named, not charged.
        notes: What was seen when the files were found (files left out, imports not found), for `warnings`.
        rule: The size rule by which ``bundle_bytes`` is counted, one of ``archive.RULES``.

    Raises:
        BundleError: A name is not a relative POSIX path or is that of a secret, or the rule is unknown.

    Example:
        >>> bundle = Bundle({"train.py": b"print('hello')"})
        >>> bundle.sizes["raw"], bundle.bundle_bytes == len(archive.pack(bundle.files))
        (14, True)
    """

    files: Mapping[str, bytes] = field(repr=False)
    packages: Mapping[str, str] = field(default_factory=dict, repr=False)
    python: str | None = None
    git: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    rule: str = DEFAULT_RULE

    def __post_init__(self) -> None:
        """Refuse what must not be packed, and keep copies that cannot change."""
        _check_rule(self.rule)
        archive.check_names(self.files)
        for name in self.files:
            if is_secret(name):
                raise BundleError(f"expected no secrets, got {name!r}: a bundle is passed on, leave it out")
        sorted_files = {name: bytes(data) for name, data in sorted(self.files.items())}
        object.__setattr__(self, "files", MappingProxyType(sorted_files))
        object.__setattr__(self, "packages", MappingProxyType(dict(sorted(self.packages.items()))))
        object.__setattr__(self, "notes", tuple(self.notes))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by value: read-only mappings cannot be pickled as they are."""
        return Bundle, (dict(self.files), dict(self.packages), self.python, self.git, self.notes, self.rule)

    def __eq__(self, other: object) -> bool:
        """Whether the other bundle holds the same files."""
        return isinstance(other, Bundle) and self.files == other.files

    def __hash__(self) -> int:
        """Hash by identity of the files."""
        return hash(self.sha256)

    # -- where a bundle comes from ------------------------------------------------------------------------------

    @classmethod
    def discover(
        cls,
        main: str | os.PathLike[str] | None = None,
        *,
        root: str | os.PathLike[str] | None = None,
        config: Mapping[str, Any] | None = None,
        tokenizer_files: Mapping[str, bytes] | None = None,
        extra: Iterable[str | os.PathLike[str]] = (),
        exclude: Iterable[str] = (),
    ) -> Bundle:
        """Find the training program: main script, imported project modules, configuration, tokenizer.

        Charged are the project's own files and packages that are local (editable, vendored, installed from a folder);
        installed public packages are named with their version; the standard library and this package are free.

        Args:
            main: The main script (or ``.ipynb``); its imports are followed without running it. None: the program that
                is running, where what is imported by now counts too.
            root: Folder that names are relative to. Default: the git work tree around the main script, else its folder.
            config: Resolved configuration, packed as canonical ``config.json``. Objects become their class's name.
            tokenizer_files: Bytes by name of what rebuilds the tokenizer, packed under ``tokenizer/``.
            extra: Files, folders or globs to add, relative to ``root``.
            exclude: Globs of names to leave out (``*`` crosses folders).

        Raises:
            BundleError: There is no source to be found (a terminal, standard input), or ``extra`` names nothing, or a
                secret.
        """
        found = discovery.discover(
            main, root=root, config=config, tokenizer_files=tokenizer_files or {}, extra=extra, exclude=exclude
        )
        return cls._of_finding(found)

    @classmethod
    def of(cls, paths: Iterable[str | os.PathLike[str]], *, root: str | os.PathLike[str] | None = None) -> Bundle:
        """Make a bundle of these files and folders.

        Args:
            paths: Files as they are; folders without litter (caches, logs, hidden files) and secrets.
            root: Folder that names are relative to. Default: the folder that holds them all.

        Raises:
            BundleError: A path is missing, outside of ``root`` or that of a secret, or there is nothing to pack.
        """
        return cls._of_finding(discovery.gather(paths, root=root))

    @classmethod
    def _of_finding(cls, found: discovery.Finding) -> Bundle:
        git = revision(found.root, found.tracked)
        return cls(found.files, found.packages, platform.python_version(), git, found.notes)

    @classmethod
    def read(cls, path: str | os.PathLike[str], limit_bytes: int = MAX_UNPACKED_BYTES) -> Bundle:
        """Read a written bundle into memory; nothing in it is run.

        Args:
            path: A file written by `write`, under any rule.
            limit_bytes: Refuse a bundle that unpacks to more bytes.

        Raises:
            BundleError: Not a bundle, damaged, too large, or holding a link, a device or a name that leaves its folder.
        """
        try:
            packed = disk.read_at_most(Path(path), limit_bytes)
        except OSError as error:
            name = Path(path).name
            raise BundleError(f"expected a bundle in {name!r}, got {error.strerror}: check the path") from error
        rule, files = archive.unpack(packed, limit_bytes)
        bundle = cls(files, rule=rule)
        bundle._known_sizes[rule] = len(packed)  # as charged, even if this machine's codec would pack otherwise
        return bundle

    # -- what a bundle is ---------------------------------------------------------------------------------------

    @cached_property
    def sha256(self) -> str:
        """Identity: SHA-256 of the canonical tar, the same on every machine (``xz -dc bundle.tar.xz | sha256sum``)."""
        return hashlib.sha256(archive.tar(self.files)).hexdigest()

    @property
    def bundle_bytes(self) -> int:
        """Size in bytes under ``rule``: what the description length is charged."""
        return self._size(self.rule)

    @property
    def sizes(self) -> dict[str, int]:
        """Size in bytes by rule; ``raw`` is the sum of the files alone, without names or container."""
        return {"raw": sum(map(len, self.files.values())), **{rule: self._size(rule) for rule in archive.RULES}}

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the size should know: files that look like data, and the notes of discovery."""
        suspects = ((name, suspicion(name, data)) for name, data in self.files.items())
        return (*(f"{name} looks like data and is charged: {why}" for name, why in suspects if why), *self.notes)

    def manifest(self) -> dict[str, Any]:
        """Everything but the contents, in plain JSON values: identity, sizes, files, what is free, warnings."""
        return {
            "sha256": self.sha256,
            "rule": self.rule,
            "bundle_bytes": self.bundle_bytes,
            "sizes": self.sizes,
            "files": [
                {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for name, data in self.files.items()
            ],
            "packages": dict(self.packages),
            "python": self.python,
            "git": dict(self.git) if self.git is not None else None,
            "codecs": codec_versions(),
            "warnings": list(self.warnings),
        }

    # -- there and back -----------------------------------------------------------------------------------------

    def write(self, path: str | os.PathLike[str], rule: str | None = None) -> Path:
        """Write the packed bundle; whoever reads the path sees the old file or the whole new one.

        Args:
            path: Where to; an older bundle there is replaced.
            rule: Size rule to pack under. Default: this bundle's ``rule``, so that the file is ``bundle_bytes`` long.

        Returns:
            The path.

        Raises:
            BundleError: The rule is unknown, or the path holds something that is not a bundle.
            OSError: The file cannot be written.
        """
        path, rule = Path(path), rule or self.rule
        _check_rule(rule)
        if path.is_dir() or (path.exists() and not archive.is_packed(disk.first_bytes(path))):
            raise BundleError(f"expected a new file or an older bundle, got {path.name!r}: choose another name")
        packed = archive.pack(self.files, rule)
        self._known_sizes[rule] = len(packed)
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.replace(path, packed)
        return path

    def unpack(self, folder: str | os.PathLike[str]) -> Path:
        """Write the files into a folder; nothing in them is run.

        Args:
            folder: Where to; made if missing. Files there that are already equal stay.

        Returns:
            The folder.

        Raises:
            BundleError: A file there is different, or a link or a file stands in the way; then nothing is written.
            OSError: A file cannot be written.
        """
        folder = Path(folder)
        missing = [name for name in self.files if not disk.is_there(folder, name, self.files[name])]
        folder.mkdir(parents=True, exist_ok=True)
        for name in missing:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with target.open("xb") as stream:  # "x" follows no link and overwrites nothing
                    stream.write(self.files[name])
            except FileExistsError as error:  # names that are one to this file system, or a race
                raise BundleError(f"expected a free name, got {name!r} a second time: choose another folder") from error
        return folder

    # -- inside -------------------------------------------------------------------------------------------------

    @cached_property
    def _known_sizes(self) -> dict[str, int]:
        return {}

    def _size(self, rule: str) -> int:
        if rule not in self._known_sizes:
            self._known_sizes[rule] = len(archive.pack(self.files, rule))
        return self._known_sizes[rule]


def _check_rule(rule: str) -> None:
    if rule not in archive.RULES:
        raise BundleError(f"expected a size rule out of {', '.join(archive.RULES)}, got {rule!r}")
