"""A run from W&B's offline directory, by W&B's own reader (``wandb leet inspect``), which reads its binary log."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prequential.errors import SourceError
from prequential.sources.log import Log, columns_of
from prequential.sources.reading import Reading

_READER = "wandb leet inspect"
_STATES = {"finished": "completed", "failed": "failed", "crashed": "failed", "killed": "interrupted"}
_HISTORY = re.compile(rb'\{"num":\d+,"type":"history"')


def read_offline(path: Path, reading: Reading) -> Log:
    """Read a run's ``.wandb`` file.

    Raises:
        SourceError: W&B 0.31 or newer is not installed, or it cannot read the file.
    """
    found = _parsed(b"".join(_lines(path, "--summary")), path)
    summary = flat(found.get("summary"))
    chosen = reading.choose(sorted(summary), str(path))
    columns = columns_of(_history(path), chosen.names)
    name = str(found.get("name") or found.get("run_id") or path.stem.removeprefix("run-"))
    return Log(name, str(path), "W&B offline", chosen, columns, summary, _status(found))


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Write nested values under dotted names, as W&B does for history."""
    if not isinstance(values, Mapping):
        return {}
    names: dict[str, Any] = {}
    for name, value in values.items():
        names.update(flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return names


def status_of(state: object) -> str:
    """Translate W&B's word for how a run stands; one that goes on, or was lost, is ``open``."""
    return _STATES.get(str(state), "open")


def _status(found: Mapping[str, Any]) -> str:
    status = status_of(found.get("state"))
    return "failed" if status == "completed" and found.get("exit_code") else status


def _history(path: Path) -> Iterator[Mapping[str, Any]]:
    for line in _lines(path):
        if _HISTORY.match(line):
            yield flat(_parsed(line, path)["history"]["item"])


def _lines(path: Path, *arguments: str) -> Iterator[bytes]:
    """Run W&B's reader and yield the lines that it prints."""
    if _no_wandb():
        raise SourceError(f"expected the wandb package, to read {path}: pip install 'wandb>=0.31'")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *arguments, "--", str(path.resolve())]
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as process:
            assert process.stdout is not None
            yield from process.stdout
        if process.returncode != 0:
            errors.seek(0)
            raise _refused(path, errors.read().decode(errors="replace"))


def _no_wandb() -> bool:
    from importlib.util import find_spec

    return find_spec("wandb") is None


def _refused(path: Path, told: str) -> SourceError:
    lines = told.strip().splitlines() or ["no reason given"]
    if any("No such" in line for line in lines):  # an option or command that came with 0.31
        return SourceError(f"expected wandb 0.31 or newer, whose {_READER} reads {path}: pip install -U wandb")
    return SourceError(f"expected a W&B run, {_READER} cannot read {path}: {lines[-1]}")


def _parsed(text: bytes, path: Path) -> dict[str, Any]:
    try:
        record = json.loads(text)
        if isinstance(record, dict):
            return record
    except ValueError:
        pass
    raise SourceError(f"expected JSON from {_READER} for {path}, got {text[:40]!r}: is wandb 0.31 or newer installed?")
