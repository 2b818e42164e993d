"""Rows that came before: told on the host, and what of an interval moves to the replay column for them.

Whether such a row is replay (fed again by the program, free) or data that repeats itself (charged again) cannot be seen
in it. Whoever records says which; see `Rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from prequential.batches import place_of_mask, tensors
from prequential.codelength import Tally
from prequential.columns.fed import Fed
from prequential.columns.rows import RowLayout, row_hashes, row_sums
from prequential.errors import MeasureError
from prequential.identity.coverage import Coverage
from prequential.identity.exposure import FirstExposures, Sampling
from prequential.identity.refeeding import Refeeding
from prequential.meter import Meter, Piece

_COUNTS = 9  # of `FirstTokens`
_BY_ROW = slice(1, 7)  # of these: first tokens to be charged, and their bytes


_SPLIT = (
    "a batch held both new rows and rows that came before, and its nats were not seen row by row: they are split in "
    "proportion, an estimate"
)
_SOURCES_SPLIT = (
    "a batch held rows of several sources, and its nats were not seen row by row: sums by source are split in "
    "proportion, an estimate"
)
_SAMPLED = "more rows came than are remembered: those that came before are an estimate from a sample of the rows"


class RowPlan(NamedTuple):
    """What is to be found out about rows.

    Attributes:
        replay_by_rows: Whether a row that came before is replay; else it is data, and charged again.
        source: Called with a batch for the source of each row; None if sums are not kept by source.
        positions: Called with a batch for the token of the corpus at which each row begins; None if that is not known.
        corpus_tokens: Length of the corpus; None if it is not known.
    """

    replay_by_rows: bool = False
    source: Callable[[Any], Any] | None = None
    positions: Callable[[Any], Any] | None = None
    corpus_tokens: int | None = None

    @property
    def by_target(self) -> bool:
        """Whether loss calls have to be scored target by target."""
        return self.replay_by_rows or self.source is not None


class SeenRows(NamedTuple):
    """Rows of one micro-batch, on the host.

    Attributes:
        hashes: Of their content, shape (B,).
        sums: Coded tokens, the bytes they stand for, and their nats, by row, shape (3, B); None if rows are only told
            apart.
        resolved: Whether that was summed row by row; else each row has an equal share of the batch.
        first_tokens: What `FirstTokens` counted, by row, shape (9, B).
        sources: Where each row comes from: ids, shape (B,), or a list of names; None if that is not asked for.
        starts: At which token of the corpus each row begins, shape (B,); None if that is not asked for.
        length: Targets in a row.
    """

    hashes: npt.NDArray[np.uint64]
    sums: npt.NDArray[np.float64] | None
    resolved: bool
    first_tokens: npt.NDArray[np.int64]
    sources: Any
    starts: Any
    length: int


@dataclass
class RowSplit:
    """One interval, taken apart by rows.

    Attributes:
        again: Nats, coded tokens and raw bytes of the rows that came before.
        first_tokens: What of the counts of `FirstTokens` belongs to them.
        rows: Rows that did not come before.
        rows_fingerprint: Sum of their hashes modulo 2**64.
        sources: Sums by source, if they are kept.
        remarks: What of this is an estimate, by the name of its event.
    """

    again: Tally = field(default_factory=Tally)
    first_tokens: list[int] = field(default_factory=lambda: [0] * _COUNTS)
    rows: int = 0
    rows_fingerprint: int = 0
    sources: dict[str, Tally] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)

    def moved(self, tally: Tally) -> Tally:
        """Move rows that came before to the replay column of an interval's sums."""
        if self.again.coded_tokens and self.again.coded_tokens >= tally.coded_tokens:
            return tally.as_replay()
        return replace(
            tally,
            nats=tally.nats - self.again.nats,
            coded_tokens=tally.coded_tokens - self.again.coded_tokens,
            raw_bytes=tally.raw_bytes - self.again.raw_bytes,
            replayed_tokens=self.again.coded_tokens,
            replayed_nats=self.again.nats,
            rows=self.rows,
            rows_fingerprint=self.rows_fingerprint,
        )


class Rows:
    """Follows the rows of a run.

    Args:
        layout: Where the rows of a batch stand.
        meter: Where loss calls are summed.
        plan: What is to be found out about rows.

    Attributes:
        tells_replay: Whether a row that came before is known, and is replay.
        coverage: How often each token of the corpus was coded; None where rows do not say where they begin.
        split_nats: Nats of the batches that were split in proportion between new rows and old ones: what is in either
            column is off by no more.
        lengths: Numbers of targets that rows had.
    """

    def __init__(self, layout: RowLayout, meter: Meter, plan: RowPlan) -> None:
        self.layout, self._meter, self._plan = layout, meter, plan
        self.tells_replay = plan.replay_by_rows and layout.identifies
        self.coverage = Coverage(plan.corpus_tokens) if plan.positions is not None else None
        self.split_nats = 0.0
        self.lengths: set[int] = set()
        self._exposures: FirstExposures = FirstExposures() if self.tells_replay else Refeeding()
        meter.by_target = self.needs_sums

    @property
    def needs_sums(self) -> bool:
        """Whether rows must be summed one by one, not only told apart."""
        return self.tells_replay or self._fed_again or self._plan.source is not None

    @property
    def _fed_again(self) -> bool:
        """Whether the pass has begun again, so that some of its rows are replay although data may repeat itself."""
        return isinstance(self._exposures, Refeeding) and self._exposures.again

    def feed_again(self) -> bool:
        """The loader has started over in the middle of a pass; false if rows cannot be told apart."""
        if not self.layout.identifies:
            return False
        if isinstance(self._exposures, Refeeding):
            self._exposures.begin_again()
        self._meter.by_target = self.needs_sums
        return True

    def end_pass(self) -> None:
        """A pass over the data is over."""
        if isinstance(self._exposures, Refeeding):
            self._exposures.end_pass()
            self._meter.by_target = self.needs_sums

    def state(self) -> dict[str, Any]:
        """What it knows between two intervals, as tensors and plain values, for a checkpoint."""
        return {
            "layout": list(self.layout),
            "tells_replay": self.tells_replay,
            "exposures": self._exposures.state(),
            "coverage": None if self.coverage is None else self.coverage.state(),
            "split_nats": self.split_nats,
            "lengths": sorted(self.lengths),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        if state["tells_replay"] != self.tells_replay:  # what is remembered for the one way does not serve the other
            self.tells_replay = bool(state["tells_replay"])
            self._exposures = FirstExposures() if self.tells_replay else Refeeding()
        self._exposures.load(state["exposures"])
        if self.coverage is not None and state["coverage"] is not None:
            self.coverage.load(state["coverage"])
        self.split_nats, self.lengths = float(state["split_nats"]), set(state["lengths"])
        self._meter.by_target = self.needs_sums

    def check(self, batch: Any) -> None:
        """Hold what the user says of rows against the first micro-batch.

        Raises:
            MeasureError: There is no source or no position for each row.
        """
        count = self.layout.count(batch)
        for name, function in (("source", self._plan.source), ("positions", self._plan.positions)):
            if function is None:
                continue
            try:
                found = str(len(function(batch)))
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
            if found != str(count):
                raise MeasureError(
                    f"expected one value a row by {name}=, for {count} rows, got {found}: give the key under which a "
                    "batch holds them, or a function of the batch"
                )

    @property
    def sampling(self) -> Sampling | None:
        """How far the replay column is an estimate; None if every row was looked up."""
        return self._exposures.sampling

    def fed(self, batch: Any, pieces: Sequence[Piece]) -> Fed:
        """Keep of a micro-batch and its loss calls what is looked at later; does not wait for the device."""
        plan, layout = self._plan, self.layout
        targets = layout.rows(batch, [piece.targets for piece in pieces])
        nats = None
        if self.needs_sums:
            each = [piece.nats for piece in pieces if piece.nats is not None]
            nats = layout.rows(batch, each) if each and len(each) == len(pieces) else None
            if targets is None or (nats is not None and nats.shape != targets.shape):
                nats = None
        self.lengths.add(layout.length(batch, pieces))
        return Fed(
            tensors(batch),
            targets,
            nats,
            self._meter.since(wanted=nats is None) if self.needs_sums else None,
            None if plan.source is None else plan.source(batch),
            None if plan.positions is None else plan.positions(batch),
            pieces[0].ignore_index if pieces else -100,
            pieces[0].vocab_size if pieces else 0,
            place_of_mask(batch),
        )

    def look(self, fed: Fed, first_tokens: Tensor | None) -> LookedRows:
        """Hash and sum the rows of N micro-batches; does not wait for the device.

        Args:
            fed: The micro-batches, stacked.
            first_tokens: What `FirstTokens` counted in them, by row.
        """
        holder = fed.tensors[self.layout.place]
        shape = holder.shape[:2]
        hashes = row_hashes(fed.tensors, shape[1])
        by_row = hashes.new_zeros(_COUNTS, *shape)
        if first_tokens is not None and first_tokens.shape[2] % shape[1] == 0:
            by_row = first_tokens.reshape(_COUNTS, *shape, -1).sum(3)
        sums = row_sums(fed, shape, self._meter) if self.needs_sums else None
        length = (holder if fed.targets is None else fed.targets).numel() // max(1, hashes.numel())
        return LookedRows(hashes, sums, fed.since is None, by_row, fed.sources, fed.starts, length)

    def split(self, rows: Sequence[SeenRows], *, by_number: bool) -> RowSplit:
        """Take an interval apart.

        Args:
            rows: Its micro-batches.
            by_number: Whether all of them are replay by the number of their epoch.
        """
        if not rows:
            return RowSplit()
        if not self.needs_sums:
            return self._told_apart(rows, by_number=by_number)
        host = _together(rows)
        shares = np.full(len(host.hashes), float(by_number))
        if by_number or not self.layout.identifies:
            pass
        elif self.tells_replay or self._fed_again:
            shares = self._exposures.came_before(host.hashes, host.sums[0].round().astype(np.int64))
        elif isinstance(self._exposures, Refeeding):
            self._exposures.add(host.hashes)
        self._cover(rows, shares, by_number=by_number)
        fresh = host.hashes[shares == 0]
        exact = self.sampling is None
        return RowSplit(
            again=_tally(host.sums, shares),
            first_tokens=_again(host.first_tokens, shares),
            rows=round(float((1 - shares).sum())),
            rows_fingerprint=int(fresh.sum(dtype=np.uint64)) if exact else 0,
            sources=_by_source(host, shares),
            remarks=self._remarks(rows, host, shares),
        )

    def _remarks(self, rows: Sequence[SeenRows], host: _Together, shares: npt.NDArray[np.float64]) -> dict[str, str]:
        """Say what of an interval is an estimate: batches not seen row by row, and rows that were not looked up."""
        remarks = {}
        begin = 0
        for part in rows:
            mine = slice(begin, begin + len(part.hashes))
            begin = mine.stop
            if part.resolved:
                continue
            if 0 < shares[mine].mean() < 1:
                self.split_nats += float(host.sums[2, mine].sum())
                remarks["replay_split"] = _SPLIT
            if len(set(host.names[mine])) > 1:
                remarks["sources_split"] = _SOURCES_SPLIT
        if self.sampling is not None and self.sampling.tokens:
            remarks["replay_sampled"] = _SAMPLED
        return remarks

    def _told_apart(self, rows: Sequence[SeenRows], *, by_number: bool) -> RowSplit:
        """An interval of which no sums are kept row by row: all of it is data, or all of it replay."""
        hashes = np.concatenate([part.hashes for part in rows])
        self._cover(rows, np.full(len(hashes), float(by_number)), by_number=by_number)
        if by_number:
            return RowSplit()
        if self.layout.identifies and isinstance(self._exposures, Refeeding):
            self._exposures.add(hashes)
        return RowSplit(rows=len(hashes), rows_fingerprint=int(hashes.sum(dtype=np.uint64)))

    def _cover(self, rows: Sequence[SeenRows], shares: npt.NDArray[np.float64], *, by_number: bool) -> None:
        """Count the tokens of the rows that are not replay."""
        if self.coverage is None or by_number:
            return
        starts: dict[int, list[int]] = {}
        kept = iter((shares < 1).tolist())
        for part in rows:
            starts.setdefault(part.length, []).extend(start for start in _listed(part.starts) if next(kept))
        for length, some in starts.items():
            self.coverage.add(np.array(some, np.int64), length)


class LookedRows(NamedTuple):
    """Rows of N micro-batches of one shape, on the device: as `SeenRows` has them, with N in the last but one place."""

    hashes: Tensor
    sums: Tensor | None
    resolved: bool
    first_tokens: Tensor
    sources: list[Any]
    starts: list[Any]
    length: int

    def on_host(self) -> list[SeenRows]:
        """One by one; waits for the device."""
        hashes = self.hashes.cpu().numpy().view(np.uint64)
        sums = None if self.sums is None else self.sums.cpu().double().numpy()
        first_tokens = self.first_tokens.cpu().numpy()
        return [
            SeenRows(
                hashes[n],
                None if sums is None else sums[:, n],
                self.resolved,
                first_tokens[:, n],
                self.sources[n],
                self.starts[n],
                self.length,
            )
            for n in range(len(hashes))
        ]


class _Together(NamedTuple):
    """The rows of an interval: hashes (N,), sums of coded tokens, bytes and nats (3, N), first tokens (9, N), names."""

    hashes: npt.NDArray[np.uint64]
    sums: npt.NDArray[np.float64]
    first_tokens: npt.NDArray[np.int64]
    names: list[str]


def _together(rows: Sequence[SeenRows]) -> _Together:
    sums = [np.zeros((3, len(part.hashes))) if part.sums is None else part.sums for part in rows]
    return _Together(
        np.concatenate([part.hashes for part in rows]),
        np.concatenate(sums, axis=1),
        np.concatenate([part.first_tokens for part in rows], axis=1),
        [name for part in rows for name in names_of(part.sources)],
    )


def names_of(sources: Any) -> list[str]:
    """Sources as names, one a row."""
    return [str(name) for name in _listed(sources)]


def numbers_of(starts: Any) -> npt.NDArray[np.int64]:
    """Starts of rows as numbers."""
    return np.array(_listed(starts), np.int64)


def _listed(values: Any) -> list[Any]:
    if values is None:
        return []
    return values.tolist() if isinstance(values, Tensor) else list(values)


def _tally(sums: npt.NDArray[np.float64], shares: npt.NDArray[np.float64]) -> Tally:
    coded, raw_bytes, nats = (sums * shares).sum(1).tolist()
    return Tally(nats=nats, coded_tokens=round(coded), raw_bytes=round(raw_bytes))


def _again(first_tokens: npt.NDArray[np.int64], shares: npt.NDArray[np.float64]) -> list[int]:
    counts = [0] * _COUNTS
    counts[_BY_ROW] = (first_tokens[_BY_ROW] * shares).sum(1).round().astype(int).tolist()
    return counts


def _by_source(host: _Together, shares: npt.NDArray[np.float64]) -> dict[str, Tally]:
    sums = {}
    for name in sorted(set(host.names)):
        mine = np.array([other == name for other in host.names])
        again = _tally(host.sums[:, mine], shares[mine]).as_replay()
        sums[name] = again + _tally(host.sums[:, mine], 1 - shares[mine])
    return sums
