"""Rows that came before: told on the host, and what of an interval moves to the replay column for them.

Whether such a row is replay (fed again by the program, free) or data that repeats itself (charged again) cannot be seen
in it. Whoever records says which; see `Rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prequential.codelength import Tally
from prequential.columns.rows import RowLayout, RowSums, row_hashes, row_sums
from prequential.errors import MeasureError
from prequential.identity.coverage import Coverage
from prequential.identity.exposure import FirstExposures, Sampling
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
        self._exposures = FirstExposures()
        self._waiting: list[RowSums] = []
        self._before: Tensor | None = None
        meter.by_target = self.needs_sums

    @property
    def needs_sums(self) -> bool:
        """Whether rows must be summed one by one, not only told apart."""
        return self.tells_replay or self._plan.source is not None

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

    def observe(self, batch: Any, pieces: Sequence[Piece], first_tokens: Tensor | None) -> None:
        """Take in one micro-batch; does not wait for the device.

        Args:
            batch: The micro-batch.
            pieces: What its loss calls covered, if they were seen.
            first_tokens: What `FirstTokens` counted in it, by row.
        """
        hashes = row_hashes(batch, self.layout.count(batch))
        plan = self._plan
        starts = None if plan.positions is None else plan.positions(batch)
        length = self.layout.length(batch, pieces)
        self.lengths.add(length)
        if not self.needs_sums:
            self._waiting.append(RowSums(hashes, starts=starts, length=length))
            return
        progress = self._meter.progress()
        since = progress if self._before is None else progress - self._before
        self._before = progress
        sums = row_sums(self.layout, hashes, batch, pieces, self._meter, since)
        if first_tokens is not None and first_tokens.shape[1] % len(hashes) == 0:
            sums = sums._replace(first_tokens=first_tokens.reshape(_COUNTS, len(hashes), -1).sum(2))
        sources = None if plan.source is None else plan.source(batch)
        self._waiting.append(sums._replace(sources=sources, starts=starts, length=length))

    def take(self) -> list[RowSums]:
        """Hand over the rows so far; called when the meter is emptied."""
        waiting, self._waiting, self._before = self._waiting, [], None
        return waiting

    def split(self, rows: Sequence[RowSums], *, by_number: bool) -> RowSplit:
        """Take an interval apart; waits for the device.

        Args:
            rows: Its micro-batches, as `take` gave them.
            by_number: Whether all of them are replay by the number of their epoch.
        """
        if not rows:
            return RowSplit()
        if not self.needs_sums:
            return self._told_apart(rows, by_number=by_number)
        host = _on_host(rows)
        shares = np.full(len(host.hashes), float(by_number))
        if self.tells_replay and not by_number:
            shares = self._exposures.came_before(host.hashes, host.sums[0].round().astype(np.int64))
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

    def _remarks(self, rows: Sequence[RowSums], host: _OnHost, shares: npt.NDArray[np.float64]) -> dict[str, str]:
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

    def _told_apart(self, rows: Sequence[RowSums], *, by_number: bool) -> RowSplit:
        """An interval of which no sums are kept row by row: all of it is data, or all of it replay."""
        hashes = torch.cat([part.hashes for part in rows]).cpu().numpy().view(np.uint64)
        self._cover(rows, np.full(len(hashes), float(by_number)), by_number=by_number)
        if by_number:
            return RowSplit()
        return RowSplit(rows=len(hashes), rows_fingerprint=int(hashes.sum(dtype=np.uint64)))

    def _cover(self, rows: Sequence[RowSums], shares: npt.NDArray[np.float64], *, by_number: bool) -> None:
        """Count the tokens of the rows that are not replay."""
        if self.coverage is None or by_number:
            return
        starts: dict[int, list[int]] = {}
        kept = iter((shares < 1).tolist())
        for part in rows:
            starts.setdefault(part.length, []).extend(start for start in _listed(part.starts) if next(kept))
        for length, some in starts.items():
            self.coverage.add(np.array(some, np.int64), length)


class _OnHost(NamedTuple):
    """The rows of an interval: hashes (N,), sums of coded tokens, bytes and nats (3, N), first tokens (9, N), names."""

    hashes: npt.NDArray[np.uint64]
    sums: npt.NDArray[np.float64]
    first_tokens: npt.NDArray[np.int64]
    names: list[str]


def _on_host(rows: Sequence[RowSums]) -> _OnHost:
    hashes = torch.cat([part.hashes for part in rows]).cpu().numpy().view(np.uint64)
    sums = torch.cat([part.sums for part in rows if part.sums is not None], dim=1).cpu().double().numpy()
    blank = [part.hashes.new_zeros(_COUNTS, len(part.hashes)) for part in rows]
    counted = [new if part.first_tokens is None else part.first_tokens for part, new in zip(rows, blank, strict=True)]
    names = [str(name) for part in rows for name in _listed(part.sources)]
    return _OnHost(hashes, sums, torch.cat(counted, dim=1).cpu().numpy(), names)


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


def _by_source(host: _OnHost, shares: npt.NDArray[np.float64]) -> dict[str, Tally]:
    sums = {}
    for name in sorted(set(host.names)):
        mine = np.array([other == name for other in host.names])
        again = _tally(host.sums[:, mine], shares[mine]).as_replay()
        sums[name] = again + _tally(host.sums[:, mine], 1 - shares[mine])
    return sums
