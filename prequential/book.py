"""The format of a book, and how its lines become a `Run`: what stands, what is void, which line is damaged."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from prequential.codelength import Tally, nats_to_bits
from prequential.errors import BookError
from prequential.run import Interval, Run

# Format numbers, newest first. A reader refuses a number it does not know.
#   3  2026-11  books have an id and may name an ancestor; carried sums; a rewind says which lines stand; error;
#              log points
#   2  2026-11  padding apart from masked tokens; rows, in any order; sums by source; weights and modes in the header
#   1  2026-11  first format
BOOK_FORMAT = 3
# What the audits on the end line must hold where there are any.
_AUDITS: dict[str, set[str]] = {
    "repeats": {"share"},
    "coverage": {"share", "once", "repeated"},
    "row_sampling": {"tokens", "standard_error"},
    "row_split": {"nats"},
    "rescored": {"nats", "standard_error", "batches", "share"},
}
_COUNTS_BELOW = 2**64  # fingerprints are the largest numbers of a book
TALLY_TYPES: dict[str, type] = {f.name: type(f.default) for f in fields(Tally)}


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a number that a book may hold")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # 1e999 is JSON
        _refuse_constant(text[:40])
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_HEADER_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)  # too slow for all lines


class Reader:
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
        self.charged_at: dict[str, int] = {}

    def run(self) -> Run:
        """Read all lines that stand.

        Raises:
            BookError: No book, an unknown format number, or a damaged line (with its number).
        """
        first, *records = self._records() or [{}]
        header = self._header(first)
        take: dict[str, Callable[[dict[str, Any]], None]] = {
            "sums": self._sums,
            "carried": self._carried,
            "event": self._event,
            "charge": self._charge,
            "rewind": self._rewind,
            "end": self._end,
        }
        for number, record in enumerate(records, start=2):
            kind = record.get("kind")
            if not isinstance(kind, str) or kind not in take:
                raise self._damaged(number, f"kind is {kind!r}")
        for number in self._standing(records):
            record = records[number - 2]
            kind = record["kind"]
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
            self.charged_at,
        )
        self._check_totals(run)
        return run

    def _standing(self, records: list[dict[str, Any]]) -> list[int]:
        """Numbers of the lines that no rewind voids, in order: found from the end, going back where a rewind leads.

        What a choice costs stays charged, whichever way training took.
        """
        numbers, number = [], len(records) + 1
        while number > 1:
            numbers.append(number)
            record = records[number - 2]
            if record["kind"] == "rewind" and "lines" in record:
                lines = record["lines"]
                if type(lines) is not int or not 0 < lines < number:
                    raise self._damaged(number, "rewind line has a bad or missing lines")
                charges = range(number - 1, lines, -1)
                numbers += [other for other in charges if records[other - 2]["kind"] == "charge"]
                number = lines
            else:
                number -= 1
        return numbers[::-1]

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

    def _carried(self, record: dict[str, Any]) -> None:
        self._sums(record)
        self.intervals[-1] = self.intervals[-1]._replace(carried=True)

    def _event(self, record: dict[str, Any]) -> None:
        if not all(isinstance(record[key], str) for key in ("event", "message")):
            raise TypeError("message")
        self.events.append(record)

    def _charge(self, record: dict[str, Any]) -> None:
        name, bits = record["name"], float(_typed(record["bits"], float))
        if not isinstance(name, str) or not 0 <= bits < math.inf:
            raise TypeError("bits")
        self.charges[name], self.charged_at[name] = bits, len(self.intervals)

    def _rewind(self, record: dict[str, Any]) -> None:
        step = _typed(record["step"], int)
        if "lines" in record:  # what is void was not even looked at
            return
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
            stated.get(name) == getattr(summed, name) for name, kind in TALLY_TYPES.items() if kind is int
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
    return Tally(**{name: _typed(value, TALLY_TYPES[name]) for name, value in record.items()})


def _typed(value: Any, kind: type) -> Any:
    """Return the value if it is a float (or an int in its place), or a count that is not negative, none too large."""
    if type(value) is int and abs(value) < _COUNTS_BELOW and (kind is float or value >= 0):
        return value
    if type(value) is float and kind is float:
        if math.isfinite(value):
            return value
        raise TypeError(f"number: {value} is beyond floating point")
    raise TypeError(repr(value)[:40])
