"""The book of a run: append-only JSON lines, written while training, read by every view.

One line each, told apart by ``kind``:

- ``header``: first line; format number, bundle, tokenizer, versions, precision, seed.
- ``sums``: what was added since the line before, up to and including ``step`` (fields of `Tally` that are not 0), and
  whether loggers were told of it there.
- ``event``: something worth knowing, with a message (a NaN step, a changed bundle, a logger that failed).
- ``charge``: bits of a choice made with sight of the data, by name; may follow the end line.
- ``rewind``: training went back to ``step``; sums of later steps that stand above are void.
- ``end``: how the run ended, with its totals as a check on the sums.

Nothing in a book is ever executed, and nothing in it is ever deleted.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from prequential.codelength import Tally, nats_to_bits
from prequential.errors import BookError
from prequential.run import Interval, Run

# Format numbers, newest first. A reader refuses a number it does not know.
#   3  2026-11  which lines of sums were log points
#   2  2026-11  padding apart from masked tokens; rows, in any order; sums by source; weights and modes in the header
#   1  2026-11  first format
BOOK_FORMAT = 3
BOOK_NAME = "book.jsonl"

# What the audits on the end line must hold where there are any.
_AUDITS: dict[str, set[str]] = {
    "repeats": {"share"},
    "coverage": {"share", "once", "repeated"},
    "row_sampling": {"tokens", "standard_error"},
    "row_split": {"nats"},
    "rescored": {"nats", "standard_error", "batches", "share"},
}
_COUNTS_BELOW = 2**64  # fingerprints are the largest numbers of a book

_TALLY_TYPES: dict[str, type] = {f.name: type(f.default) for f in fields(Tally)}


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a number that a book may hold")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # 1e999 is JSON
        _refuse_constant(text[:40])
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_HEADER_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)  # too slow for all lines


class Ledger:
    """Writer of one run's book: every line is one `write`, so that a killed run leaves a readable book.

    Args:
        path: File to create; an existing one is refused, a book is never overwritten.
        header: Plain JSON facts about the run; `Run` names those it reads.
    """

    def __init__(self, path: str | os.PathLike[str], header: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        except FileExistsError as error:
            raise BookError(f"expected a new path for the book, got the existing {self.path}: name another") from error
        self._write({"kind": "header", "book": BOOK_FORMAT, **header})

    @classmethod
    def reopen(cls, path: str | os.PathLike[str]) -> Ledger:
        """Open an existing book, to append to it."""
        ledger = cls.__new__(cls)
        ledger.path = Path(path)
        ledger._descriptor = os.open(ledger.path, os.O_WRONLY | os.O_APPEND)
        return ledger

    def sums(
        self,
        step: int,
        tally: Tally,
        elapsed_s: float,
        sources: Mapping[str, Tally] | None = None,
        *,
        log_point: bool = False,
    ) -> None:
        """Append the sums since the line before, ending with optimiser step ``step``, and the same by source.

        Args:
            step: The optimiser step.
            tally: The sums.
            elapsed_s: Seconds since the recording began.
            sources: The same by source.
            log_point: Whether loggers get values here.
        """
        line = {"kind": "sums", "step": step, "elapsed_s": round(elapsed_s, 3), **_nonzero(tally)}
        if log_point:
            line["log_point"] = True
        if sources:
            line["sources"] = {name: _nonzero(part) for name, part in sources.items()}
        self._write(line)

    def event(self, event: str, message: str, *, step: int) -> None:
        """Append something worth knowing, as a word for programs and a sentence for people."""
        self._write({"kind": "event", "event": event, "step": step, "message": message})

    def charge(self, name: str, bits: float) -> None:
        """Append what a choice made with sight of the data costs, under a name.

        Raises:
            BookError: The bits are negative or not finite.
        """
        if not (math.isfinite(bits) and bits >= 0):
            raise BookError(f"expected bits of 0 or more as the charge {name!r}, got {bits}: log2 N for the best of N")
        self._write({"kind": "charge", "name": name, "bits": float(bits)})

    def rewind(self, step: int) -> None:
        """Void all sums of steps after ``step``: training resumes from a checkpoint taken there."""
        self._write({"kind": "rewind", "step": step})

    def end(self, step: int, status: str, totals: Tally, **facts: Any) -> None:
        """Append how the run ended (``completed``, ``interrupted`` or ``failed``), then make it durable."""
        self._write({"kind": "end", "step": step, "status": status, "totals": asdict(totals), **facts})
        self.sync()

    def sync(self) -> None:
        """Force what was written to the disk: at checkpoints and at the end."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; writing afterwards is an error."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        written = os.write(self._descriptor, line)
        if written != len(line):  # a full disk can take a part of the line: leave whole lines only
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
            raise OSError(f"expected to write {len(line)} bytes to {self.path}, wrote {written}: is the disk full?")


def _nonzero(tally: Tally) -> dict[str, Any]:
    values = ((name, getattr(tally, name)) for name in _TALLY_TYPES)
    return {name: value for name, value in values if value}


def charge_book(path: str | os.PathLike[str], name: str, bits: float) -> None:
    """Append a named charge to a book that was written before.

    Args:
        path: The book.
        name: What was chosen, such as "best of 8 runs"; each name is charged once.
        bits: What it costs, such as log2 8 = 3.

    Raises:
        BookError: Not a readable book, one whose last line is cut short, a name charged already, or negative bits.
    """
    run = read_book(path)
    if name in run.charges:
        raise BookError(f"expected a new name, got {name!r}, which {path} charges {run.charges[name]} bits for already")
    if any("cut short" in warning for warning in run.warnings):
        raise BookError(f"expected whole lines, got {path}, whose last line is cut short: nothing can be added to it")
    ledger = Ledger.reopen(path)
    try:
        ledger.charge(name, bits)
        ledger.sync()
    finally:
        ledger.close()


def read_book(path: str | os.PathLike[str]) -> Run:
    """Read a book; a torn last line is tolerated and reported in ``warnings``.

    Raises:
        BookError: Not a book, an unknown format number, or a damaged line (with its number).
    """
    source = Path(path)
    try:
        content = source.read_bytes()
    except OSError as error:
        raise BookError(f"expected a book, cannot read {source}: {error.strerror}") from error
    if not content:
        raise BookError(f"expected a book, got the empty file {source}: the run ended before its first log point")
    return _Reader(source, content).run()


class _Reader:
    """Turns the lines of one book into a `Run`."""

    def __init__(self, source: Path, content: bytes) -> None:
        self.source = source
        self.lines = content.split(b"\n")
        self.torn = self.lines.pop() != b""  # every whole line ends with a newline
        self.intervals: list[Interval] = []
        self.events: list[dict[str, Any]] = []
        self.end: dict[str, Any] | None = None
        self.warnings: list[str] = []
        self.charges: dict[str, float] = {}
        self.late_charges: set[str] = set()

    def run(self) -> Run:
        first, *records = self._records() or [{}]
        header = self._header(first)
        take = {
            "sums": self._sums,
            "event": self._event,
            "charge": self._charge,
            "rewind": self._rewind,
            "end": self._end,
        }
        for number, record in enumerate(records, start=2):
            kind = record.get("kind")
            if not isinstance(kind, str) or kind not in take:
                raise self._damaged(number, f"kind is {kind!r}")
            try:
                take[kind](record)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise self._damaged(number, f"{kind} line has a bad or missing {error}") from error
        if self.torn:
            self.warnings.append("the last line is cut short and was left out: the run was killed while writing it")
        name = str(header.get("name") or self.source.parent.name)
        run = Run(
            name,
            str(self.source),
            header,
            self.intervals,
            self.events,
            self.end,
            self.warnings,
            self.charges,
            frozenset(self.late_charges),
        )
        self._check_totals(run)
        return run

    def _records(self) -> list[dict[str, Any]]:
        """Parse all lines at once, which is twice as fast; line by line only to name the damaged one."""
        try:
            records: list[Any] = _DECODER.decode("[" + ",".join(line.decode() for line in self.lines) + "]")
        except (ValueError, RecursionError):
            records = []
        if len(records) != len(self.lines):
            records = [self._parsed(number, line) for number, line in enumerate(self.lines, start=1)]
        for number, record in enumerate(records, start=1):
            if not isinstance(record, dict):
                raise self._no_book() if number == 1 else self._damaged(number, "it is not a JSON object")
        return records

    def _parsed(self, number: int, line: bytes) -> Any:
        try:
            return _DECODER.decode(line.decode())
        except (ValueError, RecursionError) as error:
            raise self._no_book() if number == 1 else self._damaged(number, "it is not JSON") from error

    def _header(self, record: dict[str, Any]) -> dict[str, Any]:
        if record.get("kind") != "header" or "book" not in record:
            raise self._no_book()
        if type(record["book"]) is not int or not 1 <= record["book"] <= BOOK_FORMAT:
            raise BookError(
                f"expected book format 1 to {BOOK_FORMAT}, got format {record['book']!r} in {self.source}: "
                "read it with the version of prequential that wrote it, or a newer one"
            )
        try:
            facts = _HEADER_DECODER.decode(self.lines[0].decode())
        except ValueError as error:
            raise self._damaged(1, str(error)) from error
        return {key: value for key, value in facts.items() if key not in ("kind", "book")}

    def _sums(self, record: dict[str, Any]) -> None:
        del record["kind"]
        step, elapsed_s = _typed(record.pop("step"), int), _typed(record.pop("elapsed_s"), float)
        sources = {str(name): _tally_of(part) for name, part in record.pop("sources", {}).items()}
        log_point = record.pop("log_point", False) is True
        self.intervals.append(Interval(step, elapsed_s, _tally_of(record), sources, log_point))

    def _event(self, record: dict[str, Any]) -> None:
        if not all(isinstance(record[key], str) for key in ("event", "message")):
            raise TypeError("message")
        self.events.append(record)

    def _charge(self, record: dict[str, Any]) -> None:
        name, bits = record["name"], float(_typed(record["bits"], float))
        if not isinstance(name, str) or not 0 <= bits < math.inf:
            raise TypeError("bits")
        self.charges[name] = bits
        if self.intervals:
            self.late_charges.add(name)

    def _rewind(self, record: dict[str, Any]) -> None:
        step = _typed(record["step"], int)
        while self.intervals and self.intervals[-1].step > step:
            self.intervals.pop()
        self.end = None

    def _end(self, record: dict[str, Any]) -> None:
        record["status"], record["totals"] = str(record["status"]), dict(record["totals"])
        for audit in _AUDITS.keys() & record.keys():
            facts = dict(record[audit])
            record[audit] = {key: None if value is None else _typed(value, float) for key, value in facts.items()}
            for name in _AUDITS[audit]:
                _typed(facts[name], float)
        self.end = record

    def _check_totals(self, run: Run) -> None:
        """Hold the end line's totals against the sums: a line that was lost or changed shows here."""
        if self.end is None:
            return
        stated, summed = self.end["totals"], run.total
        same_counts = all(
            stated.get(name) == getattr(summed, name) for name, kind in _TALLY_TYPES.items() if kind is int
        )
        if not same_counts or abs(stated.get("nats", 0.0) - summed.nats) > 1e-9 * abs(summed.nats):
            bits = nats_to_bits(summed.nats)
            self.warnings.append(
                f"the sums add up to {summed.coded_tokens} tokens and {bits} bits, "
                "which is not what the end line states: a line was lost or changed"
            )

    def _no_book(self) -> BookError:
        return BookError(
            f"expected a book, but the first line of {self.source} is no book header: is this the right file?"
        )

    def _damaged(self, number: int, what: str) -> BookError:
        return BookError(f"line {number} of {self.source} is damaged: {what}; the lines above it are {number - 1}")


def _tally_of(record: dict[str, Any]) -> Tally:
    return Tally(**{name: _typed(value, _TALLY_TYPES[name]) for name, value in record.items()})


def _typed(value: Any, kind: type) -> Any:
    """Return the value if it is a float (or an int in its place), or a count that is not negative, none too large."""
    if type(value) is int and abs(value) < _COUNTS_BELOW and (kind is float or value >= 0):
        return value
    if type(value) is float and kind is float:
        if math.isfinite(value):
            return value
        raise TypeError(f"number: {value} is beyond floating point")
    raise TypeError(repr(value)[:40])
