"""A run's intervals joined into cells of about equal length in log tokens, and how noisy they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from prequential.errors import CurveError

Array = np.ndarray[Any, np.dtype[np.float64]]

_MIN_CELLS = 6


class Cells(NamedTuple):
    """Joined intervals on an axis where the tokens seen are 1: begin, end, and mean nats per token."""

    low: Array
    high: Array
    rate: Array

    @property
    def place(self) -> Array:
        """Middle of each cell in log tokens."""
        return np.asarray(np.log((self.low + self.high) / 2))


def checked(tokens: Sequence[float] | Array, nats: Sequence[float] | Array) -> tuple[Array, Array]:
    """Both columns as float64, intervals without tokens left out."""
    ends, sums = np.asarray(tokens, dtype=np.float64), np.asarray(nats, dtype=np.float64)
    if ends.ndim != 1 or ends.shape != sums.shape:
        raise CurveError(f"expected tokens and nats of one shape (n,), got {ends.shape} and {sums.shape}")
    if not (np.isfinite(ends).all() and np.isfinite(sums).all()):
        raise CurveError("expected finite tokens and nats, got inf or nan: charge such a step by the uniform code")
    if (sums < 0).any():
        raise CurveError(f"expected nats of 0 or more, got {sums.min():g}: a density is no code length")
    lengths = np.diff(ends, prepend=0.0)
    if (lengths < 0).any():
        raise CurveError("expected cumulative tokens, got some that decrease: add up the tokens of the intervals")
    if sums[lengths == 0].any():
        raise CurveError("expected no nats in intervals without tokens: give the coded tokens of each interval")
    if not lengths.any():
        raise CurveError("expected coded tokens, got none: nothing was seen yet")
    return ends[lengths > 0], sums[lengths > 0]


def cells_of(ends: Array, sums: Array, window: float, count: int) -> Cells:
    """Join the intervals of the window into cells; an interval belongs where its middle lies."""
    high = ends / ends[-1]
    low = np.concatenate([[0.0], high[:-1]])
    inside = low >= window
    if inside.sum() < _MIN_CELLS:
        raise CurveError(
            f"expected at least {_MIN_CELLS} intervals after the first {window:.0%} of what was seen, got "
            f"{inside.sum()}: forecast later in the run, or log more often"
        )
    low, high, rate = low[inside], high[inside], sums[inside] / ends[-1]
    edges = np.geomspace(low[0], 1.0, count + 1)
    number = np.searchsorted(edges[1:-1], (low + high) / 2, side="right")
    first = np.flatnonzero(np.diff(number, prepend=-1))
    low, high = low[first], np.append(high[first[1:] - 1], 1.0)
    return Cells(low, high, np.add.reduceat(rate, first) / (high - low))


def noise_of(cells: Cells) -> float:
    """Variance of the mean rate over the tokens seen, from each cell's distance to the line through its neighbours.

    The noise is that of whole cells, so that correlations of neighbouring steps are in it.
    """
    place, width, rate = cells.place, cells.high - cells.low, cells.rate
    if len(rate) < 3:
        return 0.0
    share = (place[2:] - place[1:-1]) / (place[2:] - place[:-2])
    distance = rate[1:-1] - share * rate[:-2] - (1 - share) * rate[2:]
    spread = 1 / width[1:-1] + share**2 / width[:-2] + (1 - share) ** 2 / width[2:]
    return float(np.mean(distance**2 / spread))
