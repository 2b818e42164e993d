"""The intervals of a run: what each holds, and all of them as columns, so that long runs are read and added fast."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from operator import eq
from types import MappingProxyType
from typing import Any, NamedTuple, overload

from prequential.codelength import FINGERPRINT_MODULUS, FINGERPRINTS, Tally

Sources = Mapping[str, Tally]

_NO_SOURCES: Sources = MappingProxyType({})
_SUMS = {f.name: "Q" if f.name in FINGERPRINTS else "d" if isinstance(f.default, float) else "q" for f in fields(Tally)}
_MARKS = {"log_point": "q", "carried": "q"}
_CODES = {"step": "q", "elapsed_s": "d", **_MARKS, **_SUMS}


class Interval(NamedTuple):
    """One ``sums`` line: what was added up to and including ``step``, and the same by source if that was kept.

    At a ``log_point`` loggers got values; what is ``carried`` is all up to here, from another book.
    """

    step: int
    elapsed_s: float
    tally: Tally
    sources: Sources = _NO_SOURCES
    log_point: bool = False
    carried: bool = False


class Intervals(Sequence[Interval]):
    """A sequence of intervals, kept as one column of numbers for each field that is anywhere not 0.

    Args:
        intervals: The first ones.
    """

    def __init__(self, intervals: Iterable[Interval] = ()) -> None:
        self._length = 0
        self._columns: dict[str, array[Any]] = {}
        self._sources: dict[int, Sources] = {}
        if parts := list(intervals):
            self.append(*parts)

    def append(self, *intervals: Interval) -> None:
        """Append intervals one has in hand; many are faster in one call."""
        columns: dict[str, Sequence[Any]] = {name: [getattr(part.tally, name) for part in intervals] for name in _SUMS}
        columns |= {name: [getattr(part, name) for part in intervals] for name in ("step", "elapsed_s", *_MARKS)}
        sources = {number: part.sources for number, part in enumerate(intervals) if part.sources}
        self.extend(len(intervals), columns, sources)

    def extend(
        self, length: int, columns: Mapping[str, Sequence[Any]], sources: Mapping[int, Sources] = MappingProxyType({})
    ) -> None:
        """Append ``length`` intervals.

        Args:
            length: How many.
            columns: Their values by field of the tally or of `Interval`; a field left out is 0.
            sources: Sums by source of those intervals that have them, by their number among these.

        Raises:
            OverflowError: A count takes more than 64 bits.
        """
        added = Intervals()
        added._length, added._sources = length, dict(sources)
        added._columns = {name: array(_CODES[name], values) for name, values in columns.items() if any(values)}
        self.join(added)

    def join(self, other: Intervals) -> None:
        """Append all of another."""
        for name in self._columns.keys() | other._columns.keys():
            if name not in self._columns:
                self._columns[name] = _zeros(name, self._length)
            self._columns[name].extend(other.column(name))
        self._sources |= {self._length + number: parts for number, parts in other._sources.items()}
        self._length += other._length

    def cut(self, length: int) -> None:
        """Drop all but the first ``length`` intervals."""
        self._columns = {name: column[:length] for name, column in self._columns.items()}
        self._sources = {number: parts for number, parts in self._sources.items() if number < length}
        self._length = min(self._length, length)

    def column(self, name: str) -> array[Any]:
        """All values of a field of the tally, of ``step`` or of ``elapsed_s``; not to be written to."""
        found = self._columns.get(name)
        return _zeros(name, self._length) if found is None else found

    def total(self) -> Tally:
        """Add up all tallies; floats are summed without intermediate rounding (`math.fsum`)."""
        sums: dict[str, Any] = {}
        for name in self._columns.keys() & _SUMS.keys():
            column = self._columns[name]
            sums[name] = math.fsum(column) if _SUMS[name] == "d" else sum(column)
        return Tally(**{name: s % FINGERPRINT_MODULUS if name in FINGERPRINTS else s for name, s in sums.items()})

    def by_source(self) -> dict[str, Tally]:
        """Add up all tallies by the source of their rows."""
        parts: dict[str, list[Tally]] = defaultdict(list)
        for sources in self._sources.values():
            for name, tally in sources.items():
                parts[name].append(tally)
        return {name: Tally.total(parts[name]) for name in sorted(parts)}

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Interval: ...

    @overload
    def __getitem__(self, index: slice) -> Intervals: ...

    def __getitem__(self, index: int | slice) -> Interval | Intervals:
        if isinstance(index, slice):
            return self._slice(range(self._length)[index])
        number = range(self._length)[index]
        values = {name: column[number] for name, column in self._columns.items()}
        times = values.pop("step", 0), values.pop("elapsed_s", 0.0)
        marks = {name: bool(values.pop(name, 0)) for name in _MARKS}
        return Interval(*times, Tally(**values), self._sources.get(number, _NO_SOURCES), **marks)

    def _slice(self, numbers: range) -> Intervals:
        part = Intervals()
        if not numbers:  # an empty range may start at -1, which in a column is the last place
            return part
        part._length = len(numbers)
        stop = numbers.stop if numbers.stop >= 0 else None
        part._columns = {name: column[numbers.start : stop : numbers.step] for name, column in self._columns.items()}
        if self._sources:
            part._sources = {n: self._sources[number] for n, number in enumerate(numbers) if number in self._sources}
        return part

    def __iter__(self) -> Iterator[Interval]:
        names = [name for name in self._columns if name in _SUMS]
        columns = (self.column(name) for name in ("step", "elapsed_s", *_MARKS, *names))
        for number, (step, elapsed_s, log_point, carried, *values) in enumerate(zip(*columns, strict=True)):
            sources = self._sources.get(number, _NO_SOURCES)
            tally = Tally(**dict(zip(names, values, strict=True)))
            yield Interval(step, elapsed_s, tally, sources, bool(log_point), bool(carried))

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same intervals in the same order; the other may be a list."""
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self._length} intervals>"


def _zeros(name: str, length: int) -> array[Any]:
    return array(_CODES[name], bytes(8 * length))
