"""A book that is still being written: read on from where it was, and kept small however long it grows."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path

from prequential.codelength import Tally
from prequential.ledger import BookReader
from prequential.run import Interval, Run
from prequential.sources.book import checked

_CHUNK_BYTES = 4_000_000
_MOST_INTERVALS = 8192
# Neighbours are joined up to this share of all positions, and of those before them: a curve keeps its shape on a
# linear and on a logarithmic axis.
_OF_ALL, _OF_THOSE_BEFORE = 1 / 2000, 1 / 100


class Tail:
    """Follows one book.

    Args:
        path: The book; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: tuple[int, int] | None = None
        self._cuts: set[int] = set()
        self._start()

    def read(self) -> Run | None:
        """Give the run as the book tells it now; None where there is no book yet, or no whole first line.

        Its totals are those of the whole book; its intervals are joined where there are many. A part of a line at the
        end is being written, and no reason to worry.

        Raises:
            BookError: See `read_book`.
        """
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            self._start()
            return None
        file = stat.st_dev, stat.st_ino
        if file != self._file or stat.st_size < self._offset:  # another book took its place
            self._start()
        self._file = file
        self._read_on()
        if not self._cuts.issuperset(self._reader.rewinds):
            self._cuts.update(self._reader.rewinds)
            if self._joined:
                self._start()
                self._read_on()
        return None if self._reader.header is None else checked(self._reader.run, self.path)

    @property
    def quiet_s(self) -> float:
        """Seconds since the book was last written to."""
        try:
            return max(0.0, time.time() - self.path.stat().st_mtime)
        except FileNotFoundError:
            return 0.0

    def _start(self) -> None:
        self._reader, self._offset, self._joined = BookReader(self.path), 0, False

    def _read_on(self) -> None:
        with open(self.path, "rb") as file:
            file.seek(self._offset)
            while chunk := file.read(_CHUNK_BYTES):
                self._offset += len(chunk)
                self._reader.feed(chunk)
                if len(self._reader.intervals) > _MOST_INTERVALS:
                    self._reader.intervals = joined(self._reader.intervals, self._cuts)
                    self._joined = True


def joined(intervals: Sequence[Interval], cuts: Collection[int] = ()) -> list[Interval]:
    """Join neighbours that are short beside all intervals and beside those before them.

    Args:
        intervals: In the order of training.
        cuts: Steps after which an interval must not go on: training goes back to them.
    """
    sizes = [interval.tally.positions for interval in intervals]
    most = _OF_ALL * sum(sizes)
    groups: list[list[Interval]] = []
    before = together = 0  # positions before the last group, and in it
    for interval, size in zip(intervals, sizes, strict=True):
        fits = together + size <= min(most, _OF_THOSE_BEFORE * before)
        if groups and fits and not any(groups[-1][-1].step <= cut < interval.step for cut in cuts):
            groups[-1].append(interval)
            together += size
        else:
            groups.append([interval])
            before, together = before + together, size
    return [group[0] if len(group) == 1 else _sum(group) for group in groups]


def _sum(group: Sequence[Interval]) -> Interval:
    names = dict.fromkeys(name for interval in group for name in interval.sources)
    sources = {name: Tally.total(part.sources[name] for part in group if name in part.sources) for name in names}
    last = group[-1]
    return Interval(last.step, last.elapsed_s, Tally.total(interval.tally for interval in group), sources)
