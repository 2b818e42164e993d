"""A book that is still being written: read on from where it was, and kept small however long it grows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prequential.book import Reader
from prequential.codelength import Tally
from prequential.errors import BookError
from prequential.intervals import Interval, Intervals
from prequential.run import Run
from prequential.sources.book import checked

_BLOCK_BYTES = 4_000_000
_MOST_INTERVALS = 8192
# Neighbours are joined up to this share of all positions, and of those before them: a curve keeps its shape on a
# linear and on a logarithmic axis.
_OF_ALL, _OF_THOSE_BEFORE = 1 / 2000, 1 / 100
# What bears on lines that were read before; in doubt the whole book is read again.
_LOOKS_BACK = (b"rewind", b'"end"')


class Tail:
    """Follows one book.

    Args:
        path: The book; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: tuple[int, int] | None = None
        self._run: Run | None = None
        self._offset, self._first_line = 0, b""

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
        while added := self._added(_BLOCK_BYTES):
            if any(word in added for word in _LOOKS_BACK):
                self._read_whole()
                break
            self._read_on(added)
        return self._run

    @property
    def quiet_s(self) -> float:
        """Seconds since the book was last written to."""
        try:
            return max(0.0, time.time() - self.path.stat().st_mtime)
        except FileNotFoundError:
            return 0.0

    def _start(self) -> None:
        self._run, self._offset, self._first_line = None, 0, b""

    def _added(self, most_bytes: int = -1) -> bytes:
        """Whole lines that were not read yet, in a block of about so many bytes."""
        with open(self.path, "rb") as file:
            file.seek(self._offset)
            content = file.read(most_bytes)
            if b"\n" not in content:  # a long line, or a part of one
                content += file.readline()
        return content[: content.rfind(b"\n") + 1]

    def _read_whole(self) -> None:
        self._start()
        self._take(self._added())

    def _read_on(self, added: bytes) -> None:
        try:
            self._take(added)
        except BookError:
            self._read_whole()  # which names the damaged line by its number in the book

    def _take(self, lines: bytes) -> None:
        """Read lines as a book of their own, under the first line of this one, and add them to what is known."""
        run = checked(lambda: read_lines(self.path, self._first_line + lines), self.path)
        if self._run is not None:
            intervals = Intervals(self._run.intervals)
            intervals.join(run.columns)
            run = replace(
                self._run,
                intervals=intervals,
                events=[*self._run.events, *run.events],
                charges={**self._run.charges, **run.charges},
            )
        self._run = checked(lambda: self._few(run), self.path)
        self._first_line = self._first_line or lines[: lines.find(b"\n") + 1]
        self._offset += len(lines)

    def _few(self, run: Run) -> Run:
        many = len(run.intervals) > _MOST_INTERVALS
        return replace(run, intervals=Intervals(joined(run.intervals))) if many else run


def read_lines(source: Path, lines: bytes) -> Run:
    """Read the first line of a book and some of the others."""
    reader, end = Reader(source), lines.find(b"\n") + 1
    reader.take(lines[:end])
    if lines[end:]:
        reader.take(lines[end:])
    return reader.run()


def joined(intervals: Sequence[Interval]) -> list[Interval]:
    """Join neighbours that are short beside all intervals and beside those before them.

    Args:
        intervals: In the order of training.
    """
    sizes = [interval.tally.positions for interval in intervals]
    most = _OF_ALL * sum(sizes)
    groups: list[list[Interval]] = []
    before = together = 0  # positions before the last group, and in it
    for interval, size in zip(intervals, sizes, strict=True):
        fits = together + size <= min(most, _OF_THOSE_BEFORE * before)
        if groups and fits:
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
