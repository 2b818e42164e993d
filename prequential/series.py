"""A run over its tokens: the running totals and rates that charts draw, and a choice of points that loses no peak."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prequential.codelength import NATS_PER_BIT
from prequential.run import Run

Floats = npt.NDArray[np.float64]


class Series(NamedTuple):
    """Columns of a run, one value for each interval that has tokens, in the order of training.

    Attributes:
        steps: Optimiser step at its end.
        tokens: Tokens of the data so far, coded and uncoded.
        raw_bytes: Bytes they stand for; None if they are not known.
        data_bits: Code of those that were coded: the area so far.
        compressed_bytes: Code of these tokens, charges and bundle included.
        bits_per_unit: Bits of the interval a raw byte, or a token where bytes are not known; bundle not included.
        running_bits_per_unit: The same over all so far.
        uniform_bytes: The same tokens under the uniform code; None if V is not known.
    """

    steps: Floats
    tokens: Floats
    raw_bytes: Floats | None
    data_bits: Floats
    compressed_bytes: Floats
    bits_per_unit: Floats
    running_bits_per_unit: Floats
    uniform_bytes: Floats | None

    @property
    def ratio(self) -> Floats:
        """Raw bytes over compressed bytes; over those of the uniform code where raw bytes are not known."""
        size = self.uniform_bytes if self.raw_bytes is None else self.raw_bytes
        return np.full(len(self.tokens), np.nan) if size is None else size / self.compressed_bytes


def series(run: Run) -> Series:
    """Add up a run interval by interval.

    Args:
        run: The run.
    """
    names = ("step", "coded_tokens", "uncoded_tokens", "nats", "uncoded_nats", "raw_bytes")
    columns = {name: np.asarray(run.columns.column(name), np.float64) for name in names}
    tokens = columns["coded_tokens"] + columns["uncoded_tokens"]
    there = tokens > 0
    tokens = tokens[there]
    columns = {name: column[there] for name, column in columns.items()}
    bits = (columns["nats"] + columns["uncoded_nats"]) / NATS_PER_BIT
    sizes = columns["raw_bytes"] if run.bytes_known else None
    units = tokens if sizes is None else sizes
    values = run.measured()
    fixed = (values["choice_bits"] or 0) / 8 + (values["bundle_bytes"] or 0)
    vocab_size = run.header.get("vocab_size")
    with np.errstate(divide="ignore", invalid="ignore"):
        return Series(
            steps=columns["step"],
            tokens=tokens.cumsum(),
            raw_bytes=None if sizes is None else sizes.cumsum(),
            data_bits=columns["nats"].cumsum() / NATS_PER_BIT,
            compressed_bytes=bits.cumsum() / 8 + fixed,
            bits_per_unit=bits / units,
            running_bits_per_unit=bits.cumsum() / units.cumsum(),
            uniform_bytes=tokens.cumsum() * np.log2(vocab_size) / 8 if vocab_size else None,
        )


def thinned(places: Floats, values: Floats, points: int) -> npt.NDArray[np.int64]:
    """Choose points of a curve so that no peak is lost: the lowest and the highest of each of ``points / 2`` stretches.

    Args:
        places: Where the values stand, growing, shape (N,).
        values: Shape (N,).
        points: How many to choose at most; the first and the last are among them.

    Returns:
        Their numbers, in order.
    """
    if len(values) <= points:
        return np.arange(len(values))
    # Half of the stretches are equally long in tokens, half in their logarithm: a chart may be drawn either way.
    stretches = max(1, (points - 2) // 4)
    log = np.log(np.maximum(places, 1e-300))
    chosen = [np.array([0, len(values) - 1])]
    for axis in (places, log):
        edges = np.searchsorted(axis, np.linspace(axis[0], axis[-1], stretches + 1))
        starts = np.unique(np.minimum(edges[:-1], len(values) - 1))
        chosen += [_extreme(values, starts, np.argmin), _extreme(values, starts, np.argmax)]
    return np.unique(np.concatenate(chosen))


def _extreme(values: Floats, starts: npt.NDArray[np.int64], pick: Callable[[Floats], np.intp]) -> npt.NDArray[np.int64]:
    ends = np.append(starts[1:], len(values))
    chosen = [start + pick(values[start:end]) for start, end in zip(starts, ends, strict=True)]
    return np.array(chosen, np.int64)


def lead(first: Run, second: Run) -> tuple[Floats, Floats]:
    """How many bytes the first run is ahead of the second, wherever both books have a boundary.

    Args:
        first: A run.
        second: A run on the same data.

    Returns:
        Token counts, and ``compressed_bytes of second - compressed_bytes of first`` there.
    """
    one, other = series(first), series(second)
    tokens, here, there = np.intersect1d(one.tokens, other.tokens, return_indices=True)
    return tokens, other.compressed_bytes[there] - one.compressed_bytes[here]
