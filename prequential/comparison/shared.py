"""How much of new data a model already knows: K(D2) - K(D2 | D1), from a run on D2 alone and one on D1, then D2.

Both are areas: the same program is known to the receiver either way, so that the bundle is on neither side. Which part
of the second run is D2 is known by the source of its rows, where its book keeps sums by source; else by a token count,
which must be a boundary of its book, and which the books themselves give where the rows after it are those of the
first run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from prequential.codelength import Tally, nats_to_bits
from prequential.comparison.alignment import Cells, boundaries, values
from prequential.comparison.noise import half_width_of
from prequential.errors import ComparisonError
from prequential.run import Interval, Run

# Of the tokens of D1, at most this share may have been coded after the first of D2.
_INTERLEAVED = 0.01


@dataclass(frozen=True)
class Saving:
    """What some tokens cost alone, and after other data: ``shared = alone - conditional``.

    Attributes:
        tokens: How many, coded in both runs.
        alone_bytes: Their data code in the run on them alone.
        conditional_bytes: Their data code in the run that had learnt from other data before.
    """

    tokens: int
    alone_bytes: float
    conditional_bytes: float

    @property
    def shared_bytes(self) -> float:
        """Shared information; negative where what was learnt before is in the way."""
        return self.alone_bytes - self.conditional_bytes

    @property
    def shared_part(self) -> float | None:
        """What part of the code it saves."""
        return self.shared_bytes / self.alone_bytes if self.alone_bytes else None


@dataclass(frozen=True)
class Shared:
    """Information that a data set D2 shares with what was coded before it.

    Attributes:
        alone: Name of the run on D2.
        after: Name of the run on D1, then D2.
        saving: On all of D2.
        interval_bytes: 95 % interval of the shared bytes, see `noise`; None where it could not be estimated.
        sources: The same by source of D2, where both books keep sums by source.
        before_tokens: Coded tokens of D1.
        proved: Whether both books show that D2 is the same.
        notes: What a reader must know beside the numbers, one sentence each.
    """

    alone: str
    after: str
    saving: Saving
    interval_bytes: tuple[float, float] | None
    sources: dict[str, Saving]
    before_tokens: int
    proved: bool
    notes: tuple[str, ...]


def shared(alone: Run, after: Run, *, sources: Sequence[str] | None = None, from_token: int | None = None) -> Shared:
    """Measure what a run on D1, then D2 saves on D2 against a run on D2 alone.

    Args:
        alone: The run on D2.
        after: The run on D1, then D2.
        sources: Names of D2's sources in the second book. Default: the sources of the first book.
        from_token: Where D2 begins in the second run, if its book does not keep sums by source. Default: where as many
            tokens are left as the first run has, if their rows are the same.

    Returns:
        The saving with its interval.

    Raises:
        ComparisonError: The books do not tell which part of the second run is D2, it is not the same data, D1 does not
            come before it, or one of the runs is no code length.
    """
    _check_kind(alone, after)
    if sources is None and from_token is None and alone.sources and after.sources:
        sources = tuple(alone.sources)
    if sources:
        return _by_source(alone, after, tuple(sources))
    return _by_token(alone, after, from_token)


def _check_kind(alone: Run, after: Run) -> None:
    for run in (alone, after):
        if run.grade == "surrogate":
            raise ComparisonError(f"expected code lengths, got the surrogate {run.name}: it is no code length of data")
    given = alone.given_weights or "none", after.given_weights or "none"
    if given[0] != given[1]:
        raise ComparisonError(
            f"expected the same given weights, got {given[0]} in {alone.name} and {given[1]} in {after.name}: start "
            "both from the same"
        )


# -- by the source of rows ----------------------------------------------------------------------------------------


def _by_source(alone: Run, after: Run, names: tuple[str, ...]) -> Shared:
    missing = [name for name in names if name not in after.sources]
    if missing:
        listed = ", ".join(after.sources) or "no sums by source"
        raise ComparisonError(
            f"expected source {missing[0]!r} in {after.name}, which has {listed}: name the sources of D2, --source"
        )
    own = all(name in alone.sources for name in names)  # else all of the first run is D2
    total = Tally.total(alone.sources[name] for name in names) if own else alone.total
    saving = _saving("coded_tokens", alone, after, total, Tally.total(after.sources[name] for name in names))
    before = after.total.coded_tokens - saving.tokens
    _check_order(after, names, before)
    paired = _paired(_running(alone.intervals, names if own else None), _running(after.intervals, names))
    by_source = {
        name: _saving(f"coded_tokens of {name}", alone, after, alone.sources[name], after.sources[name])
        for name in (names if own else ())
    }
    note = "that the data is the same rests on the names of its sources and on equal numbers of tokens"
    return _result(alone, after, saving, paired, before, sources=by_source, proved=False, notes=[note])


def _check_order(after: Run, names: tuple[str, ...], before: int) -> None:
    """Refuse a run in which much of D1 was coded after the first interval that holds any of D2."""
    if before <= 0:
        raise ComparisonError(f"expected other data before D2 in {after.name}, got none: nothing was learnt before")
    begun, late = False, 0
    for interval in after.intervals:
        of_it = sum(tally.coded_tokens for name, tally in interval.sources.items() if name in names)
        late += (interval.tally.coded_tokens - of_it) if begun else 0
        begun = begun or of_it > 0
    if late > _INTERLEAVED * before:
        raise ComparisonError(
            f"expected D1 before D2 in {after.name}, got {100 * late / before:.0f} % of it after D2 had begun: train "
            "on one, then the other"
        )


def _running(intervals: Sequence[Interval], names: tuple[str, ...] | None) -> Cells:
    """Tokens of D2 up to and including each interval, and its nats so far."""
    tokens, nats = [], []
    for interval in intervals:
        parts = [interval.tally] if names is None else [t for name, t in interval.sources.items() if name in names]
        tokens.append(sum(part.coded_tokens for part in parts))
        nats.append(math.fsum(part.nats for part in parts))
    return Cells(np.cumsum(np.array(tokens, np.int64)), np.cumsum(np.array(nats, np.float64)))


# -- by a token count ---------------------------------------------------------------------------------------------


def _by_token(alone: Run, after: Run, from_token: int | None) -> Shared:
    tokens = after.total.tokens - alone.total.tokens if from_token is None else from_token
    part = _part_from(after, tokens, alone.total.tokens, told=from_token is not None)
    _must_equal("tokens", alone, after, alone.total.tokens, part.total.tokens)
    ours, theirs = ((run.total.rows, run.total.rows_fingerprint) for run in (alone, part))
    sampled = any((run.end or {}).get("row_sampling") for run in (alone, after))
    proved = bool(ours[1]) and ours == theirs and not sampled
    if not proved and ours[1] and theirs[1] and not sampled:
        raise ComparisonError(
            f"expected the rows of {alone.name} from token {tokens:,} on in {after.name}, got others: is D2 the last "
            "data of that run?"
        )
    if not proved and from_token is None:
        raise ComparisonError(
            f"expected a book of {after.name} that tells which part is D2, by sums by source or by its rows: give the "
            "token at which D2 begins, --from-token"
        )
    saving = _saving("coded_tokens", alone, after, alone.total, part.total)
    paired = _paired(_of_run(alone), _of_run(part))
    notes = (
        [] if proved else ["that the data is the same rests on the given token count and on equal numbers of tokens"]
    )
    before = after.total.coded_tokens - part.total.coded_tokens
    return _result(alone, after, saving, paired, before, sources={}, proved=proved, notes=notes)


def _part_from(after: Run, tokens: int, wanted: int, *, told: bool) -> Run:
    """Cut a run at a token count, which must be a boundary of its book."""
    if not 0 < tokens < after.total.tokens:
        what = f"a token between 0 and {after.total.tokens:,}" if told else f"more tokens than the {wanted:,} of D2"
        got = f"{tokens:,}" if told else f"{after.total.tokens:,}"
        raise ComparisonError(f"expected {what} in {after.name}, got {got}: it must hold D1, then D2")
    ends = boundaries(after)
    place = int(np.searchsorted(ends.tokens, tokens))
    if ends.tokens[place] != tokens:
        near = [f"{int(end):,}" for end in ends.tokens[max(0, place - 1) : place + 1]]
        raise ComparisonError(
            f"expected an interval of {after.name} that ends at token {tokens:,}, where D2 begins, its book has "
            f"{' and '.join(near)}: record sums by source, source="
        )
    return replace(after, intervals=after.columns[int(ends.upto[place]) :])


def _of_run(run: Run) -> Cells:
    return Cells((values(run, "coded_tokens") + values(run, "uncoded_tokens")).cumsum(), values(run, "nats").cumsum())


# -- both ---------------------------------------------------------------------------------------------------------


def _paired(ours: Cells, theirs: Cells) -> Cells:
    """From running sums of two runs, what the first needs more in each cell of the book with the fewer boundaries.

    Intervals grow with a run, so that D2 is cut differently where D1 came first. Between boundaries of the finer book
    its sum is taken to grow evenly, which moves a little noise from a cell to its neighbour.
    """
    ours, theirs = _last(ours), _last(theirs)
    ends = min(ours.ends, theirs.ends, key=len)
    sums = [np.interp(ends, np.append(0, run.ends), np.append(0.0, run.nats)) for run in (ours, theirs)]
    return Cells(ends, np.diff(sums[0] - sums[1], prepend=0.0))


def _last(cells: Cells) -> Cells:
    """Of intervals that end at the same token, the last; none at 0."""
    stands = np.append(cells.ends[1:] > cells.ends[:-1], True)[: len(cells.ends)] & (cells.ends > 0)
    return Cells(cells.ends[stands], cells.nats[stands])


def _saving(what: str, alone: Run, after: Run, ours: Tally, theirs: Tally) -> Saving:
    _must_equal(what, alone, after, ours.coded_tokens, theirs.coded_tokens)
    sizes = (nats_to_bits(tally.nats) / 8 for tally in (ours, theirs))
    return Saving(ours.coded_tokens, *sizes)


def _must_equal(what: str, alone: Run, after: Run, ours: int, theirs: int) -> None:
    if ours != theirs:
        raise ComparisonError(
            f"expected the same {what} of D2, got {ours:,} in {alone.name} and {theirs:,} in {after.name}: code the "
            "same data in both"
        )


def _result(
    alone: Run,
    after: Run,
    saving: Saving,
    paired: Cells,
    before: int,
    *,
    sources: dict[str, Saving],
    proved: bool,
    notes: list[str],
) -> Shared:
    half_width = half_width_of(paired)
    interval = None
    if half_width is None:
        notes = [*notes, "the books have too few boundaries for an interval: whether it is noise is unknown"]
    else:
        errors = [2 * (run.nats_standard_error or 0.0) for run in (alone, after)]
        half_bytes = nats_to_bits(math.hypot(half_width, *errors)) / 8
        interval = saving.shared_bytes - half_bytes, saving.shared_bytes + half_bytes
    if alone.bundle.get("sha256") != after.bundle.get("sha256"):
        notes = [*notes, "the runs have different training programs: a part of the saving may be theirs"]
    return Shared(alone.name, after.name, saving, interval, sources, before, proved, tuple(notes))
