"""The format of a book, and how its lines become a `Run`: what stands, what is void, which line is damaged."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from prequential.codelength import Tally, nats_to_bits
from prequential.errors import BookError
from prequential.intervals import Interval, Intervals
from prequential.run import DECODED, Run

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
_HEADER_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)  # views print what it holds


# Sums lines are nearly all of a book: blocks of them are decoded at once, without a dict or a tally for each.
_SUMS_START = b'{"kind":"sums",'
_COUNT = Annotated[int, msgspec.Meta(ge=0)]
_SUMS = msgspec.defstruct(
    "_SUMS",
    [
        ("step", _COUNT),
        ("elapsed_s", float),
        *((f.name, _COUNT if type(f.default) is int else float, f.default) for f in fields(Tally)),
        ("sources", dict[str, dict[str, Any]], {}),
        ("log_point", bool, False),
    ],
    tag="sums",
    tag_field="kind",
    forbid_unknown_fields=True,
    gc=False,
)
_SUMS_DECODER = msgspec.json.Decoder(_SUMS)


class Part(NamedTuple):
    """Lines of a book from one number to another: many sums lines as columns, or the record of one line."""

    first: int
    last: int
    content: Intervals | dict[str, Any]


class Reader:
    """Turns the lines of one book into a `Run`."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.lines = 0
        self.torn = False
        self.header: dict[str, Any] = {}
        self.parts: list[Part] = []
        self.intervals = Intervals()
        self.events: list[dict[str, Any]] = []
        self.end: dict[str, Any] | None = None
        self.warnings: list[str] = []
        self.charges: dict[str, float] = {}
        self.proofs: list[dict[str, Any]] = []
        self.charged_at: dict[str, int] = {}
        self.kinds: dict[str, Callable[[dict[str, Any]], None]] = {
            "sums": self._sums,
            "carried": self._carried,
            "event": self._event,
            "charge": self._charge,
            "rewind": self._rewind,
            "end": self._end,
        }

    def take(self, block: bytes) -> None:
        """Take the next lines, all whole but perhaps the last of the book.

        Raises:
            BookError: No book, an unknown format number, or a line that is none (with its number).
        """
        columns = _columns(block) if self.lines else None
        if columns is not None:
            self.parts.append(Part(self.lines + 1, self.lines + len(columns), columns))
            self.lines += len(columns)
            return
        *lines, rest = block.split(b"\n")  # every whole line ends with a newline
        self.torn = rest != b""
        for number, line in enumerate(lines, start=self.lines + 1):
            record = self._parsed(number, line)
            if number == 1:
                self.header = self._header(record)
                continue
            kind = record.get("kind")
            if not isinstance(kind, str) or kind not in self.kinds:
                raise self._damaged(number, f"kind is {kind!r}")
            self.parts.append(Part(number, number, record))
        self.lines += len(lines)

    def run(self) -> Run:
        """Read all lines that stand.

        Raises:
            BookError: No lines, or a damaged one (with its number).
        """
        if not self.lines and not self.torn:
            where = f"the empty file {self.source}"
            raise BookError(f"expected a book, got {where}: the run ended before its first log point")
        if not self.lines:
            raise self._no_book()
        for part in self._standing():
            if isinstance(part.content, Intervals):
                self.intervals.join(part.content)
                continue
            kind = part.content["kind"]
            try:
                self.kinds[kind](part.content)
            except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
                raise self._damaged(part.first, f"{kind} line has a bad or missing {error}") from error
        if self.torn:
            self.warnings.append("the last line is cut short and was left out: the run was killed while writing it")
        name, path = str(self.header.get("name") or self.source.parent.name), str(self.source)
        facts = (self.events, self.end, self.warnings, self.charges, self.charged_at, self.proofs)
        run = Run(name, path, self.header, self.intervals, *facts)
        self._check_totals(run)
        return run

    def _standing(self) -> list[Part]:
        """The lines that no rewind voids, in order: found from the end, going back where a rewind leads.

        What a choice costs stays charged, whichever way training took.
        """
        standing, last = [], self.lines
        for part in reversed(self.parts):
            if isinstance(part.content, Intervals):
                if part.first <= last:
                    standing.append(part._replace(content=part.content[: last + 1 - part.first]))
                continue
            if part.first <= last or part.content["kind"] == "charge":
                standing.append(part)
            if part.first <= last and part.content["kind"] == "rewind" and "lines" in part.content:
                last = part.content["lines"]
                if type(last) is not int or not 0 < last < part.first:
                    raise self._damaged(part.first, "rewind line has a bad or missing lines")
        return standing[::-1]

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = (_HEADER_DECODER if number == 1 else _DECODER).decode(line.decode())
        except (ValueError, RecursionError) as error:
            raise self._no_book() if number == 1 else self._damaged(number, "it is not JSON") from error
        if not isinstance(record, dict):
            raise self._no_book() if number == 1 else self._damaged(number, "it is not a JSON object")
        return record

    def _header(self, record: dict[str, Any]) -> dict[str, Any]:
        if record.get("kind") != "header" or "book" not in record:
            raise self._no_book()
        if type(record["book"]) is not int or not 1 <= record["book"] <= BOOK_FORMAT:
            raise BookError(
                f"expected book format 1 to {BOOK_FORMAT}, got format {record['book']!r} in {self.source}: "
                "read it with the version of prequential that wrote it, or a newer one"
            )
        return {key: value for key, value in record.items() if key not in ("kind", "book")}

    def _sums(self, record: dict[str, Any]) -> None:
        del record["kind"]
        step, elapsed_s = _typed(record.pop("step"), int), _typed(record.pop("elapsed_s"), float)
        sources = _by_name(record.pop("sources", {}))
        marks = {name: record.pop(name, False) is True for name in ("log_point", "carried")}
        self.intervals.append(Interval(step, elapsed_s, _tally_of(record), sources, **marks))

    def _carried(self, record: dict[str, Any]) -> None:
        self._sums({**record, "carried": True})

    def _event(self, record: dict[str, Any]) -> None:
        if not all(isinstance(record[key], str) for key in ("event", "message")):
            raise TypeError("message")
        if record["event"] == DECODED:
            proof = dict(record["certificate"])
            self.proofs.append(
                {
                    **proof,
                    **{name: _typed(proof[name], int) for name in ("raw_bytes", "total_bytes")},
                    "sha256": str(proof["sha256"]),
                }
            )
        else:
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
        steps, length = self.intervals.column("step"), len(self.intervals)
        while length and steps[length - 1] > step:
            length -= 1
        self.intervals.cut(length)
        self.end = None

    def _end(self, record: dict[str, Any]) -> None:
        record["status"], record["totals"] = str(record["status"]), dict(record["totals"])
        for audit in _AUDITS.keys() & record.keys():
            facts = dict(record[audit])
            record[audit] = {key: None if value is None else _typed(value, float) for key, value in facts.items()}
            for name in _AUDITS[audit]:
                _typed(facts[name], float)
        if "bitstream" in record:
            record["bitstream"] = _bitstream_of(dict(record["bitstream"]))
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


def _bitstream_of(facts: dict[str, Any]) -> dict[str, Any]:
    """What the end line says of a bitstream: why it failed, or its counts."""
    if "failure" in facts:
        return {**facts, "failure": str(facts["failure"]), "whole": False}
    counts = {name: _typed(facts[name], int) for name in ("bytes", "uniform_tokens", "symbols")}
    if not counts["symbols"]:
        raise ValueError("symbols")
    bits = _typed(facts["frequency_bits"], float)
    return {**facts, **counts, "frequency_bits": bits, "whole": facts["whole"] is True}


def _columns(block: bytes) -> Intervals | None:
    """Decode a block of nothing but sums lines as we write them; None if one is odd or damaged."""
    number = block.count(b"\n")
    if not block.startswith(_SUMS_START) or block.count(b"\n" + _SUMS_START) + 1 != number or block[-1:] != b"\n":
        return None
    intervals = Intervals()
    try:
        lines: list[Any] = _SUMS_DECODER.decode_lines(block)
        if len(lines) != number:
            return None
        columns = {
            name: list(map(attrgetter(name), lines)) for name in ("step", "elapsed_s", "log_point", *TALLY_TYPES)
        }
        sources = {place: _by_name(line.sources) for place, line in enumerate(lines) if line.sources}
        intervals.extend(number, columns, sources)
    except (msgspec.MsgspecError, AttributeError, KeyError, OverflowError, TypeError, UnicodeDecodeError):
        return None
    return intervals


def _by_name(sources: Mapping[str, dict[str, Any]]) -> dict[str, Tally]:
    return {str(name): _tally_of(part) for name, part in sources.items()}


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
