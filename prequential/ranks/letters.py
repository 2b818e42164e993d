"""Letters of a rank to the one that keeps the book, and the bytes that they are sent as.

Numbers travel as arrays of the smallest type that holds them, one for each column over all micro-batches of a letter:
of a row that is only to be told apart 8 bytes, its hash.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from prequential.codelength import Tally
from prequential.columns.replay import SeenRows, names_of, numbers_of
from prequential.columns.watch import Seen
from prequential.meter import Reading
from prequential.ranks.interval import Interval

Array = npt.NDArray[Any]

_COUNTS = 9  # of `FirstTokens`


@dataclass(frozen=True)
class Letter:
    """What a rank has to say at one moment.

    Attributes:
        kind: ``route`` (of the first micro-batch), ``step``, ``epoch`` (its end), ``state`` (a checkpoint), ``end`` or
            ``failed``.
        turn: Optimiser steps of this pass over the data so far.
        intervals: What was summed since the last letter.
        notes: Events and messages since then.
        facts: More, by name: what stands in the values of JSON.
    """

    kind: str
    turn: int = 0
    intervals: Sequence[Interval] = ()
    notes: Sequence[tuple[str, str]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Pack it."""
        arrays: dict[str, Array] = {}
        if self.intervals:
            arrays.update(_of_intervals(self.intervals))
        seen = [one for interval in self.intervals for one in interval.seen]
        arrays.update(_of_seen(seen))
        arrays.update(_of_rows([one.rows for one in seen]))
        head = {"kind": self.kind, "turn": self.turn, "notes": list(self.notes), "facts": dict(self.facts)}
        return _packed(head, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> Letter:
        """Unpack what `to_bytes` packed."""
        head, arrays = _unpacked(data)
        notes = [(str(event), str(message)) for event, message in head["notes"]]
        return cls(head["kind"], head["turn"], _intervals(arrays), notes, head["facts"])


def _of_intervals(intervals: Sequence[Interval]) -> dict[str, Array]:
    tallies = [interval.reading.tally for interval in intervals]
    counts = [
        (
            *(interval.step, interval.replay, len(interval.seen), len(interval.expected)),
            *(tally.coded_tokens, tally.masked_tokens, tally.raw_bytes, tally.nonfinite_tokens),
            *(interval.reading.calls, interval.reading.vocab_size or 0, interval.reading.not_understood),
        )
        for interval, tally in zip(intervals, tallies, strict=True)
    ]
    return {
        "counts": np.array(counts, np.int64).T,
        "floats": np.array([(i.elapsed_s, t.nats) for i, t in zip(intervals, tallies, strict=True)]),
        "fingerprints": np.array([tally.fingerprint for tally in tallies], np.uint64),
        "expected": np.array([value for interval in intervals for value in interval.expected], np.int64),
    }


def _of_seen(seen: Sequence[Seen]) -> dict[str, Array]:
    if not seen:
        return {}
    columns = {
        "padding": np.array([-1 if one.padding is None else one.padding for one in seen], np.int64),
        "samples_count": np.array([len(one.samples) for one in seen], np.int64),
        "samples": np.array([value for one in seen for value in one.samples], np.int64),
    }
    if seen[0].first_tokens is not None:
        columns["first_tokens"] = np.array([one.first_tokens for one in seen], np.int64)
    return columns


def _of_rows(rows: Sequence[SeenRows | None]) -> dict[str, Array]:
    there = [part for part in rows if part is not None]
    if not there:
        return {}
    columns: dict[str, Array] = {
        "rows": np.array([-1 if part is None else len(part.hashes) for part in rows], np.int64),
        "lengths": np.array([(part.length, part.resolved) for part in there], np.int64).T,
        "hashes": np.concatenate([part.hashes for part in there]),
    }
    sums = [part.sums for part in there if part.sums is not None]
    if len(sums) == len(there):
        together = np.concatenate(sums, axis=1)
        if all(part.resolved for part in there):
            columns["row_counts"], together = together[:2].astype(np.int64), together[2:]
        columns["row_sums"] = together
        columns["row_first_tokens"] = np.concatenate([part.first_tokens for part in there], axis=1)
    if there[0].sources is not None:
        names, which = np.unique(np.concatenate([names_of(part.sources) for part in there]), return_inverse=True)
        columns["source_names"] = np.frombuffer(json.dumps(names.tolist()).encode(), np.uint8)
        columns["sources"] = which
    if there[0].starts is not None:
        columns["starts"] = np.concatenate([numbers_of(part.starts) for part in there])
    return columns


def _intervals(arrays: Mapping[str, Array]) -> list[Interval]:
    if "counts" not in arrays:
        return []
    seen, expected = iter(_seen(arrays)), iter(arrays["expected"].tolist())
    found = []
    for counts, (elapsed_s, nats), fingerprint in zip(
        arrays["counts"].T.tolist(), arrays["floats"].tolist(), arrays["fingerprints"].tolist(), strict=True
    ):
        step, replay, batches, width, coded, masked, raw_bytes, nonfinite, calls, vocab_size, unclear = counts
        tally = Tally(
            nats=nats,
            coded_tokens=coded,
            masked_tokens=masked,
            raw_bytes=raw_bytes,
            nonfinite_tokens=nonfinite,
            fingerprint=fingerprint,
        )
        reading = Reading(tally, calls, vocab_size or None, unclear)
        showed, positions = [next(seen) for _ in range(batches)], [next(expected) for _ in range(width)]
        found.append(Interval(step, elapsed_s, bool(replay), reading, showed, positions))
    return found


def _seen(arrays: Mapping[str, Array]) -> Iterable[Seen]:
    if "padding" not in arrays:
        return
    first = arrays["first_tokens"].tolist() if "first_tokens" in arrays else None
    samples = iter(arrays["samples"].tolist())
    counts = arrays["samples_count"].tolist()
    rows = _rows(arrays)
    for number, padding in enumerate(arrays["padding"].tolist()):
        yield Seen(
            None if first is None else first[number],
            None if padding < 0 else padding,
            list(islice(samples, counts[number])),
            next(rows) if "rows" in arrays else None,
        )


def _rows(arrays: Mapping[str, Array]) -> Any:
    if "rows" not in arrays:
        return
    sizes = arrays["rows"].tolist()
    lengths = iter(arrays["lengths"].T.tolist())
    sums = arrays.get("row_sums")
    if sums is not None and "row_counts" in arrays:
        sums = np.concatenate([arrays["row_counts"], sums])
    names = np.array(json.loads(arrays["source_names"].tobytes())) if "sources" in arrays else None
    begin = 0
    for size in sizes:
        if size < 0:
            yield None
            continue
        mine = slice(begin, begin + size)
        begin = mine.stop
        length, resolved = next(lengths)
        yield SeenRows(
            arrays["hashes"][mine],
            None if sums is None else sums[:, mine].astype(float),
            bool(resolved),
            np.zeros((_COUNTS, size), np.int64) if sums is None else arrays["row_first_tokens"][:, mine].astype(int),
            None if names is None else names[arrays["sources"][mine]].tolist(),
            arrays["starts"][mine].tolist() if "starts" in arrays else None,
            length,
        )


def _packed(head: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """JSON with the shapes of the arrays, its length in front, and the arrays behind it."""
    small = {name: _smallest(array) for name, array in arrays.items()}
    shapes = {name: [array.dtype.str, list(array.shape)] for name, array in small.items()}
    text = json.dumps({**head, "arrays": shapes}, separators=(",", ":")).encode()
    return b"".join([len(text).to_bytes(4, "little"), text, *(array.tobytes() for array in small.values())])


def _unpacked(data: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    end = 4 + int.from_bytes(data[:4], "little")
    head, arrays = json.loads(data[4:end]), {}
    for name, (kind, shape) in head["arrays"].items():
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(data, np.dtype(kind), count, end).reshape(shape)
        end += arrays[name].nbytes
    return head, arrays


def _smallest(array: Array) -> Array:
    """The same integers in the smallest type that holds them; other arrays as they are."""
    if array.dtype.kind != "i":
        return array
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    types = (np.int8, np.int16, np.int32, np.int64) if low < 0 else (np.uint8, np.uint16, np.uint32, np.int64)
    return array.astype(next(kind for kind in types if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max))
