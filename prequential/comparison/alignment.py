"""Runs at equal data: cut at the token counts at which their books have a boundary; and names that tell them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prequential.errors import ComparisonError
from prequential.run import Run

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

DATA = ("nats",)
CODE = ("nats", "uncoded_nats")


class Boundaries(NamedTuple):
    """Token counts at which an interval of a book ends, each with the number of intervals up to and including it."""

    tokens: Counts
    upto: Counts


class Cells(NamedTuple):
    """Neighbouring stretches of tokens that both runs coded, and how much longer the first run's code for them is.

    Attributes:
        ends: Tokens up to and including each cell, rising.
        nats: Nats of the first run less those of the second in each cell.
    """

    ends: Counts
    nats: Floats


def boundaries(run: Run) -> Boundaries:
    """Find where the intervals of a book end on the axis of tokens."""
    ends = (values(run, "coded_tokens") + values(run, "uncoded_tokens")).cumsum()
    # An interval without tokens (replay) belongs to the boundary it stands at.
    stands = (ends > 0) & np.append(ends[1:] > ends[:-1], True)[: len(ends)]
    return Boundaries(ends[stands], np.flatnonzero(stands) + 1)


def common_cells(first: Run, second: Run, names: tuple[str, ...] = CODE, *, whole: bool = True) -> Cells:
    """Cut two runs at the token counts where both have a boundary.

    Args:
        first: A run.
        second: A run on the same tokens.
        names: Fields of the tally to hold against each other, added up.
        whole: Whether there are no cells unless both runs end at the same token.

    Returns:
        The cells, of which there may be none.
    """
    ours, theirs = boundaries(first), boundaries(second)
    ends, here, there = np.intersect1d(ours.tokens, theirs.tokens, assume_unique=True, return_indices=True)
    if not len(ends) or (whole and not ends[-1] == ours.tokens[-1] == theirs.tokens[-1]):
        return Cells(np.empty(0, np.int64), np.empty(0))
    nats = [_sums(run, upto, names) for run, upto in ((first, ours.upto[here]), (second, theirs.upto[there]))]
    return Cells(ends, nats[0] - nats[1])


def with_names(runs: Sequence[Run]) -> list[Run]:
    """Give every run a name of its own: its folder is added where names repeat, then a number."""
    names = [run.name for run in runs]
    repeated = {name for name, times in Counter(names).items() if times > 1}
    names = [
        f"{n} ({Path(r.path).resolve().parent.name})" if n in repeated else n for n, r in zip(names, runs, strict=True)
    ]
    seen: Counter[str] = Counter()
    unique = []
    for run, name in zip(runs, names, strict=True):
        seen[name] += 1
        whole = name if names.count(name) == 1 else f"{name} #{seen[name]}"
        unique.append(run if whole == run.name else replace(run, name=whole))
    return unique


def common_prefix_of(runs: Sequence[Run]) -> tuple[list[Run], str]:
    """Keep of every run the largest prefix that ends at a boundary of all books."""
    ends = [boundaries(run) for run in runs]
    common = reduce(np.intersect1d, [end.tokens for end in ends])
    if not len(common):
        raise ComparisonError(
            "expected a token count at which every book has an interval boundary, found none: train with the same "
            "batch size, or compare whole runs on the same data"
        )
    tokens = int(common[-1])
    upto = [int(end.upto[np.searchsorted(end.tokens, tokens)]) for end in ends]
    cut = [replace(run, intervals=run.columns[:length]) for run, length in zip(runs, upto, strict=True)]
    whole = ", ".join(f"{run.name} has {run.total.tokens:,}" for run in runs)
    return cut, f"compared at the first {tokens:,} tokens ({whole}); final losses are those at the cut"


def values(run: Run, name: str) -> npt.NDArray[Any]:
    """A column of a run's intervals."""
    return np.asarray(run.columns.column(name))


def _sums(run: Run, upto: Counts, names: tuple[str, ...]) -> Floats:
    """Sums over the intervals between neighbouring boundaries."""
    begins = np.concatenate([[0], upto[:-1]])
    total = np.sum([values(run, name)[: upto[-1]] for name in names], axis=0, dtype=np.float64)
    return np.asarray(np.add.reduceat(total, begins))
