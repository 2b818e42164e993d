"""What one interval of a run showed, on the host; and that of several ranks put together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import NamedTuple

import numpy as np
from torch import Tensor

from prequential.columns.replay import SeenRows
from prequential.columns.watch import Seen
from prequential.meter import Reading


class Interval(NamedTuple):
    """What one interval showed.

    Attributes:
        step: Its last optimiser step, by the framework's own number.
        elapsed_s: Seconds of recording up to its end.
        replay: Whether all of it is replay, by the number of its epoch.
        reading: What the meter held.
        seen: What its micro-batches showed.
        expected: Positions that the loss must have covered, one number for each tensor it may be; empty if unknown.
        differences: Sums of those that were scored in evaluation mode as well; of one rank only.
    """

    step: int
    elapsed_s: float
    replay: bool
    reading: Reading
    seen: list[Seen]
    expected: list[int]
    differences: Tensor | None = None


def condensed(interval: Interval) -> Interval:
    """The same with its micro-batches as one, where rows are only told apart: then their order says nothing."""
    seen = interval.seen
    rows = [one.rows for one in seen if one.rows is not None]
    loose = all(part.sums is None and part.starts is None and part.length == rows[0].length for part in rows)
    alike = len({(one.first_tokens is None, one.padding is None, one.rows is None) for one in seen}) == 1
    if not (loose and alike):
        return interval
    first = [one.first_tokens for one in seen if one.first_tokens is not None]
    padding = [one.padding for one in seen if one.padding is not None]
    one = Seen(
        [sum(column) for column in zip(*first, strict=True)] if first else None,
        sum(padding) if padding else None,
        [sample for one in seen for sample in one.samples],
        _joined(rows) if rows else None,
    )
    return interval._replace(seen=[one])


def _joined(rows: Sequence[SeenRows]) -> SeenRows:
    hashes = np.concatenate([part.hashes for part in rows])
    first_tokens = np.concatenate([part.first_tokens for part in rows], axis=1)
    return SeenRows(hashes, None, rows[0].resolved, first_tokens, None, None, rows[0].length)


def together(ranks: Sequence[Sequence[Interval]]) -> list[Interval]:
    """Put the intervals of ranks together by their steps.

    Sums add. Micro-batches come in the order in which one process would be fed with them: the first of every rank, in
    the order of ranks, then the second.
    """
    if len(ranks) == 1:
        return list(ranks[0])
    parts: dict[tuple[int, bool], dict[int, list[Interval]]] = {}
    for rank, intervals in enumerate(ranks):
        for interval in intervals:
            parts.setdefault((interval.step, interval.replay), {}).setdefault(rank, []).append(interval)
    # By step, and what is replay in the middle of an epoch before what is not.
    return [_merged(list(parts[key].values())) for key in sorted(parts, key=lambda key: (key[0], not key[1]))]


def _merged(ranks: Sequence[Sequence[Interval]]) -> Interval:
    intervals = list(chain(*ranks))
    first = intervals[0]
    seen = zip_longest(*(list(chain(*(interval.seen for interval in mine))) for mine in ranks))
    expected = [interval.expected for interval in intervals]
    same = len(set(map(len, expected))) == 1
    return first._replace(
        reading=_added([interval.reading for interval in intervals]),
        seen=[one for one in chain(*seen) if one is not None],
        expected=[sum(column) for column in zip(*expected, strict=True)] if same else [],
    )


def _added(readings: Sequence[Reading]) -> Reading:
    tally = readings[0].tally
    for reading in readings[1:]:
        tally += reading.tally
    sizes = {reading.vocab_size for reading in readings if reading.calls}
    return Reading(
        tally,
        sum(reading.calls for reading in readings),
        sizes.pop() if len(sizes) == 1 else None,
        sum(reading.not_understood for reading in readings),
    )
