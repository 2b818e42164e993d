"""Where a module comes from: the program's own code, an installed public package, the standard library, this package.

Own is everything that a receiver cannot install from its name and version: what lies outside the folders of installed
packages (the project, editable installs, folders on ``PYTHONPATH``), and what was installed from a local folder.
"""

from __future__ import annotations

import json
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    distribution,
    distributions,
    packages_distributions,
)
from pathlib import Path
from typing import Any

_ITSELF = Path(__file__).absolute().parents[1]
_SITE_NAMES = {"site-packages", "dist-packages"}


class Origins:
    """Tells own files from others, on this interpreter as it is now."""

    def __init__(self) -> None:
        paths = sysconfig.get_paths()
        self._installed = _folders([*_site_folders(), paths["purelib"], paths["platlib"]])
        self._standard = _folders([paths["stdlib"], paths["platstdlib"]])
        self._scripts = _folders([paths["scripts"]])
        self._local = _installed_from_folders(tuple(sys.path))

    def is_own(self, path: Path) -> bool:
        """Whether a file is charged: neither installed from public, nor standard, nor this package."""
        if _is_in(path, (_ITSELF,)):
            return False
        if self.is_installed(path):
            return _is_in(path, self._local)
        return not _is_in(path, self._standard)

    def is_installed(self, path: Path) -> bool:
        """Whether a file lies in a folder of installed packages."""
        return not _SITE_NAMES.isdisjoint(path.parts) or _is_in(path, self._installed)

    def is_wrapper(self, path: Path) -> bool:
        """Whether a file is a command that an installer wrote: not source, but it imports the source."""
        return path.suffix in ("", ".exe") and path.parent in self._scripts

    def packages(self, foreign: Mapping[str, Path]) -> tuple[dict[str, str], list[str]]:
        """Name the packages that modules belong to.

        Args:
            foreign: File by dotted name of each imported module that is not own.

        Returns:
            Versions by package name, and notes about packages whose version does not say all.
        """
        versions: dict[str, str] = {}
        notes: list[str] = []
        for name, path in sorted(foreign.items()):
            if _is_in(path, (_ITSELF,)):
                versions["prequential"] = own_version()
            elif self.is_installed(path):
                for found in _distributions_of(name):
                    package = found.metadata["Name"]
                    if package not in versions:
                        versions[package] = found.version
                        notes += _reservations(package, found)
        return versions, notes


def own_version() -> str:
    """Version of this package, installed or not."""
    from prequential import _version

    return _version.__version__


def _site_folders() -> list[str]:
    folders = list(site.getsitepackages()) if hasattr(site, "getsitepackages") else []
    return [*folders, site.getusersitepackages()] if hasattr(site, "getusersitepackages") else folders


def _folders(paths: Iterable[str]) -> tuple[Path, ...]:
    """Each folder as it is named and as it is, for a path may come either way."""
    named = [Path(os.path.abspath(path)) for path in paths]
    return tuple(dict.fromkeys([*named, *(path.resolve() for path in named)]))


def _is_in(path: Path, folders: Iterable[Path]) -> bool:
    return any(path == folder or folder in path.parents for folder in folders)


# -- distributions ----------------------------------------------------------------------------------------------


def _direct_url(found: Distribution) -> dict[str, Any]:
    """How a distribution was installed if not by name, by PEP 610; empty if by name."""
    try:
        parsed = json.loads(found.read_text("direct_url.json") or "{}")
    except (OSError, ValueError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


@lru_cache(maxsize=1)
def _installed_from_folders(search_path: tuple[str, ...]) -> tuple[Path, ...]:
    """Modules and packages that were copied out of a local folder: no one else can install those."""
    local = (found for found in distributions(path=list(search_path)) if "dir_info" in _direct_url(found))
    tops = {
        Path(str(found.locate_file(file.parts[0])))
        for found in local
        for file in found.files or ()
        if file.parts[0] != ".."
        and not file.parts[0].endswith((".dist-info", ".pth"))
        and file.parts[0] != "__pycache__"
    }
    return tuple(sorted(tops))


@lru_cache(maxsize=1)
def _names_by_import(search_path: tuple[str, ...]) -> Mapping[str, list[str]]:
    return packages_distributions()


def _distributions_of(module: str) -> list[Distribution]:
    """Distributions that a module comes from: several only where they share a namespace and none owns it alone."""
    top = module.partition(".")[0]
    names = dict.fromkeys(_names_by_import(tuple(sys.path)).get(top, [top]))  # before 3.11 not all packages are listed
    found = []
    for name in names:
        try:
            found.append(distribution(name))
        except PackageNotFoundError:
            continue
    return found if len(found) < 2 else [each for each in found if _owns(each, module)] or found


def _owns(found: Distribution, module: str) -> bool:
    parts = tuple(module.split("."))
    files = [file.parts for file in found.files or () if file.suffix in (".py", ".so", ".pyd")]
    return any(file[: len(parts)] == parts or file == (*parts[:-1], parts[-1] + ".py") for file in files)


def _reservations(package: str, found: Distribution) -> list[str]:
    """Say where a version alone would not give a receiver the same package."""
    direct = _direct_url(found)
    if "vcs_info" in direct:
        commit = direct["vcs_info"].get("commit_id", "unknown") if isinstance(direct["vcs_info"], dict) else "unknown"
        return [f"{package} was installed from a repository: named, not charged, at commit {commit}"]
    if "archive_info" in direct and str(direct.get("url", "")).startswith("file:"):
        return [f"{package} was installed from an archive on this machine: named, not charged, as if it were public"]
    return []
