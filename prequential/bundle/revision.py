"""Which revision of the project a bundle comes from: commit, and whether the bundled files differ from it.

No remote and no path is asked for: those are the machine's and its owner's business.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_TIMEOUT_S = 5.0
_FILES_A_CALL = 500  # well under any system's limit on the length of a command


def work_tree(path: Path) -> Path | None:
    """Find the git work tree around a path: the nearest folder upwards that has a ``.git``."""
    return next((folder for folder in (path, *path.parents) if (folder / ".git").exists()), None)


def revision(root: Path, names: Iterable[str]) -> dict[str, Any] | None:
    """Commit and state of a work tree, or None where there is no git, no commit, or no answer in time.

    Args:
        root: A folder in the work tree.
        names: Files relative to ``root`` that count: ``dirty`` is whether one is changed, new or ignored.

    Returns:
        ``{"commit": hexadecimal, "dirty": bool, or None if git would not tell}``.
    """
    if work_tree(root) is None:
        return None
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    patterns = [f":(literal){name}" for name in names]
    status = ("status", "--porcelain", "--untracked-files=all", "--ignored=matching", "--")
    groups = (patterns[i : i + _FILES_A_CALL] for i in range(0, len(patterns), _FILES_A_CALL))
    changes = [_git(root, *status, *group) for group in groups]
    return {"commit": commit, "dirty": None if None in changes else any(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """Ask git, None if it fails; it takes no locks and runs no monitor."""
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, env=environment, check=True)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout.decode(errors="replace").strip()
