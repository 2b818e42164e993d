"""What a W&B run on the server has already."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prequential.integrations.wandb import PREFIX

Key = tuple[str, ...]

_KEY = ("tokens", "masked_tokens", "padding_tokens", "replayed_tokens", "compressed_bytes")
_REQUEST_S = 30
_SUMMARIES = {1: "min", 2: "max", 3: "mean", 4: "best", 5: "last", 6: "none", 7: "copy", 8: "first"}


def key_of(row: Mapping[str, Any]) -> Key:
    """Tell a log point from all others: how far the run was, and what it had come to."""
    return tuple(f"{row[name]:.9g}" if name == "compressed_bytes" else str(int(row[name])) for name in _KEY)


class KnownRun(NamedTuple):
    """A run on the server.

    Attributes:
        keys: The log points it has.
        summary: Its summary.
        state: ``running``, ``finished``, ``crashed``, ...
        declared: Its metrics by name, with what was declared of them, those of ours left out.
        digests: MD5 digests of the books that are attached to it, as W&B writes them.
    """

    keys: set[Key]
    summary: Mapping[str, Any]
    state: str
    declared: dict[str, dict[str, Any]]
    digests: set[str]

    def has_file(self, file: Path) -> bool:
        """Whether this book, byte for byte, is attached."""
        return base64.b64encode(hashlib.md5(file.read_bytes(), usedforsecurity=False).digest()).decode() in self.digests

    def shows(self, facts: Mapping[str, Any]) -> bool:
        """Whether its summary has these facts."""
        return all(self.summary.get(PREFIX + name) == value for name, value in facts.items())


def own_entity() -> str | None:
    """Name the entity in which the client makes runs where none is given."""
    import wandb

    return wandb.setup().settings.entity or wandb.Api(timeout=_REQUEST_S).default_entity


def known_run(where: str) -> KnownRun | None:
    """Ask the server for the run ``entity/project/id``; None if there is none."""
    import wandb

    try:
        run = wandb.Api(timeout=_REQUEST_S).run(where)
    except wandb.errors.CommError as error:
        if "Could not find" in str(error):
            return None
        raise
    names = [PREFIX + part for part in _KEY]
    return KnownRun(
        {key_of({part: row[PREFIX + part] for part in _KEY}) for row in run.scan_history(keys=names)},
        dict(run.summary_metrics),
        str(run.state),
        _declared(run.rawconfig),
        set(_digests(run)),
    )


def _digests(run: Any) -> Iterable[str]:
    for artifact in run.logged_artifacts():
        if artifact.type == "prequential" and artifact.state == "COMMITTED":
            yield from (entry.digest for entry in artifact.manifest.entries.values())


def _declared(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Read what ``define_metric`` left in the configuration: a client that resumes a run drops it otherwise.

    Each entry has numbers for names: 1 the name, 2 a pattern, 5 the place of its x-axis from 1, 6 options, 7 summaries.
    """
    entries = [entry for entry in (config.get("_wandb") or {}).get("m") or [] if isinstance(entry, dict)]
    declared: dict[str, dict[str, Any]] = {}
    for entry in entries:
        name = str(entry.get("1") or entry.get("2") or "")
        if not name or name.startswith(PREFIX):
            continue
        axis = entries[entry["5"] - 1].get("1") if isinstance(entry.get("5"), int) else None
        options = entry.get("6") or []
        declared[name] = {
            **({"step_metric": axis, "step_sync": 1 in options} if axis else {}),
            **({"hidden": True} if 2 in options else {}),
            **({"summary": ",".join(_SUMMARIES[n] for n in entry["7"] if n in _SUMMARIES)} if entry.get("7") else {}),
        }
    return declared
