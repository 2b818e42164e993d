"""Runs grouped by a setting: their size, their method, their seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from prequential.errors import BundleError, ComparisonError
from prequential.run import Run

_BUNDLE_NAMES = ("bundle.tar.xz",)
_CONFIG_NAME = "config.json"
_LISTED = 12


@dataclass(frozen=True)
class Group:
    """Runs that share a setting.

    Attributes:
        value: The setting, as text.
        runs: Their names, the shortest description first.
        lowest_bytes: Compressed bytes of the shortest: the best of so many, which was not known beforehand.
        median_bytes: Of the one in the middle: what a run of this group is like.
        highest_bytes: Of the longest.
    """

    value: str
    runs: tuple[str, ...]
    lowest_bytes: float
    median_bytes: float
    highest_bytes: float


def grouped(runs: Sequence[Run], key: str) -> tuple[Group, ...]:
    """Group ranked runs by a setting, the group with the shortest median first.

    Args:
        runs: Runs, best first.
        key: Dotted path in the head of the book, or in the configuration that its bundle holds: ``module.width``.

    Raises:
        ComparisonError: A run has no such setting.
    """
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(_text(setting(run, key)), []).append(run)
    groups = [_group(value, part) for value, part in members.items()]
    return tuple(sorted(groups, key=lambda group: (group.median_bytes, group.value)))


def setting(run: Run, key: str) -> Any:
    """Look a setting up: in the head of the book, then in the configuration of the bundle beside it.

    Raises:
        ComparisonError: There is none of that name.
    """
    places: list[Mapping[str, Any]] = [run.header]
    found = _at(run.header, key)
    if found is None:
        places.insert(0, configuration(run))
        found = _at(places[0], key)
    if found is None:
        names = [name for place in places for name in _names(place)]
        listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
        raise ComparisonError(f"expected a setting {key!r} in {run.name}, which has {listed}: group by one of them")
    return found[0]


def configuration(run: Run) -> dict[str, Any]:
    """Read the configuration out of the bundle that lies beside a book; empty if there is none, or it is another."""
    from prequential.bundle import Bundle

    for name in _BUNDLE_NAMES:
        path = Path(run.path).with_name(name)
        if not path.is_file():
            continue
        try:
            bundle = Bundle.read(path)
            if bundle.sha256 != run.bundle.get("sha256"):
                continue
            found = json.loads(bundle.files.get(_CONFIG_NAME, b"{}"))
        except (BundleError, OSError, ValueError):
            continue
        return found if isinstance(found, dict) else {}
    return {}


def _group(value: str, runs: Sequence[Run]) -> Group:
    sizes = [run.measured()["compressed_bytes"] or 0.0 for run in runs]
    return Group(value, tuple(run.name for run in runs), min(sizes), float(median(sizes)), max(sizes))


def _at(place: Mapping[str, Any], key: str) -> tuple[Any] | None:
    """Follow a dotted path; a name that itself holds dots is found as well."""
    if key in place:
        return (place[key],)
    for end, letter in enumerate(key):
        inner = place.get(key[:end]) if letter == "." else None
        if isinstance(inner, Mapping) and (found := _at(inner, key[end + 1 :])) is not None:
            return found
    return None


def _names(place: Mapping[str, Any], above: str = "") -> list[str]:
    names: list[str] = []
    for name, value in place.items():
        names += _names(value, f"{above}{name}.") if isinstance(value, Mapping) and value else [f"{above}{name}"]
    return names


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
