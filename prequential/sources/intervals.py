"""What both kinds of import make of a log: as many intervals as a book may have, and facts for its head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prequential.errors import SourceError
from prequential.intervals import Intervals
from prequential.sources.area import Column

NO_BUNDLE = "the log names no bundle: the total lacks the training program"
NO_BYTES = "the log has no raw bytes: give bytes_per_token to see ratios"

# As many lines as a book of a long run has: the first rows one by one, the others joined evenly.
_SINGLE_ROWS = 10_000
_JOINED_ROWS = 10_000
_EXACTLY = 2**53


@dataclass(frozen=True)
class Import:
    """Parts of a run: facts for its header, its intervals, what the log leaves open, and named charges."""

    header: dict[str, Any]
    intervals: Intervals
    warnings: list[str]
    charges: dict[str, float] = field(default_factory=dict)


def whole_numbers(column: Column) -> Column:
    """Round to whole numbers, those that a float cannot count refused."""
    if not (np.abs(column) < _EXACTLY).all():
        raise SourceError(f"expected counts below 2**53, got {np.abs(column).max():g}: name another column")
    return np.rint(column).astype(np.int64)


def joined_intervals(rows: Mapping[str, Column], nats: Mapping[str, Column], whole: Mapping[str, Column]) -> Intervals:
    """Join rows into as many intervals as a book may have; what each holds is summed."""
    ends = _ends(len(rows["tokens"]))
    begins = np.concatenate([[0], ends[:-1]])
    steps = whole_numbers(rows["step"][ends - 1]) if "step" in rows else ends
    elapsed = rows["elapsed_s"][ends - 1] if "elapsed_s" in rows else np.zeros(len(ends))
    sums = {name: np.add.reduceat(column, begins).tolist() for name, column in {**nats, **whole}.items()}
    elapsed = np.where(np.isfinite(elapsed), elapsed, 0.0)
    intervals = Intervals()
    intervals.extend(len(ends), {"step": steps.tolist(), "elapsed_s": elapsed.tolist(), **sums})
    return intervals


def _ends(rows: int) -> Column:
    if rows <= _SINGLE_ROWS + _JOINED_ROWS:
        return np.arange(1, rows + 1)
    joined = np.linspace(_SINGLE_ROWS, rows, _JOINED_ROWS + 1)[1:]
    return np.concatenate([np.arange(1, _SINGLE_ROWS + 1), np.rint(joined).astype(np.int64)])
