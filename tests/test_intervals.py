"""Columns of intervals: they hold what a list of intervals holds, and a book is read into the same by either way."""

import json
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prequential.codelength import Tally
from prequential.errors import BookError
from prequential.intervals import Interval, Intervals
from prequential.ledger import Ledger, read_book

COUNT, NATS = st.integers(0, 2**62), st.floats(0, 1e300)
TALLY = st.builds(
    Tally,
    nats=NATS,
    coded_tokens=COUNT,
    uncoded_tokens=st.just(0) | COUNT,
    uncoded_nats=st.just(0.0) | NATS,
    raw_bytes=COUNT,
    fingerprint=st.integers(0, 2**64 - 1),
    rows_fingerprint=st.just(0) | st.integers(0, 2**64 - 1),
)
SOURCES = st.just({}) | st.dictionaries(st.sampled_from(["web", "code"]), TALLY, max_size=2)
INTERVAL = st.builds(Interval, COUNT, NATS, TALLY, SOURCES)


@settings(deadline=None)
@given(st.lists(INTERVAL, max_size=8), st.data())
def test_they_are_a_list_of_intervals(parts, data):
    """Items, slices, reversed, joined in two steps, cut, and all sums."""
    found = Intervals(parts)
    assert (list(found), len(found), list(reversed(found))) == (parts, len(parts), parts[::-1])
    first, last = (data.draw(st.integers(-9, 9)) for _ in range(2))
    step = data.draw(st.sampled_from([None, 1, 2, -1, -3]))
    assert found[first:last:step] == parts[first:last:step]
    assert found[:last].total() == Tally.total(part.tally for part in parts[:last])
    again = Intervals(parts[:3])
    again.append(*parts[3:])
    assert again == found
    again.cut(max(first, 0))
    assert again == parts[: max(first, 0)]
    names = sorted({name for part in parts for name in part.sources})
    sums = {name: Tally.total(part.sources[name] for part in parts if name in part.sources) for name in names}
    assert found.by_source() == sums
    with pytest.raises(IndexError):
        found[len(parts)]


@pytest.mark.parametrize("length", [0, 1, 2, 5])
def test_every_slice_is_that_of_a_list(length):
    """All starts, ends and steps around the edges."""
    parts = [Interval(n, 0.0, Tally(nats=1.0 + n)) for n in range(length)]
    found, places = Intervals(parts), [None, *range(-7, 8)]
    for first, last, step in product(places, places, [None, -3, -2, -1, 1, 2, 3]):
        assert found[first:last:step] == parts[first:last:step]


@settings(deadline=None)
@given(st.lists(INTERVAL, min_size=1, max_size=8), st.integers(0, 8))
def test_a_book_reads_the_same_in_one_block_and_line_by_line(parts, odd):
    """Lines as we write them are decoded at once; a blank more, and each is decoded by itself."""
    Path("book.jsonl").unlink(missing_ok=True)
    ledger = Ledger("book.jsonl", {"name": "x"})
    for part in parts:
        ledger.sums(part.step, part.tally, part.elapsed_s, part.sources)
    ledger.close()
    lines = Path("book.jsonl").read_text().splitlines(keepends=True)
    whole = read_book("book.jsonl")
    Path("odd.jsonl").write_text(
        "".join(line.replace(":", ": ", 1) if n >= odd else line for n, line in enumerate(lines))
    )
    assert read_book("odd.jsonl").intervals == whole.intervals
    assert [i.tally for i in whole.intervals] == [part.tally for part in parts]
    assert [i.sources for i in whole.intervals] == [part.sources for part in parts]


def test_lines_as_we_write_them_are_not_taken_one_by_one(monkeypatch):
    """What makes long books fast."""
    monkeypatch.setattr("prequential.book.Reader._sums", lambda *_: 1 / 0)
    ledger = Ledger("book.jsonl", {"name": "x"})
    for step in range(100):
        ledger.sums(step, Tally(nats=1.0, coded_tokens=1), 0.1)
    ledger.close()
    Path("odd.jsonl").write_text(Path("book.jsonl").read_text().replace(":", ": "))
    with pytest.raises(ZeroDivisionError):  # a line with blanks would be
        read_book("odd.jsonl")
    assert read_book("book.jsonl").total == Tally(nats=100.0, coded_tokens=100)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        ({"coded_tokens": -1}, "-1"),
        ({"coded_tokens": True}, "True"),
        ({"nats": "5"}, "'5'"),
        ({"step": None}, "None"),
        ({"rubbish": 1}, "rubbish"),
        ({"coded_tokens": 2**63}, "int too"),
        ({"sources": {"web": {"rows": -1}}}, "-1"),
        ({"sources": {"web": 5}}, "items"),
        ({"sources": 5}, "items"),
    ],
)
def test_a_damaged_line_in_a_block_is_named(damage, word):
    """By its number, among whole ones."""
    lines = [{"kind": "header", "book": 2}]
    lines += [{"kind": "sums", "step": n, "elapsed_s": 0.5, "nats": 1.0, "coded_tokens": 2} for n in range(1, 50)]
    lines[30] |= damage
    Path("book.jsonl").write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    with pytest.raises(BookError, match=r"line 31 of book\.jsonl is damaged") as error:
        read_book("book.jsonl")
    assert word in str(error.value)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["sums", "sums", "sums", "rewind", "charge"]), max_size=30), st.data())
def test_lines_that_a_rewind_voids_are_left_out_of_blocks(kinds, data):
    """Against what stood after each line, written down while writing: a rewind goes back to that; charges stay."""
    Path("book.jsonl").unlink(missing_ok=True)
    ledger = Ledger("book.jsonl", {"name": "x"})
    stood, charges = [[], []], {}
    for step, kind in enumerate(kinds):
        stood.append([*stood[-1]])
        if kind == "sums":
            ledger.sums(step, Tally(nats=float(step)), 0.0)
            stood[-1].append(step)
        elif kind == "charge":
            ledger.charge(str(step), 1.0)
            charges[str(step)] = 1.0
        else:
            lines = data.draw(st.integers(1, step + 1))
            ledger._write({"kind": "rewind", "step": 0, "lines": lines})
            stood[-1] = [*stood[lines]]
    ledger.close()
    run = read_book("book.jsonl")
    assert ([interval.step for interval in run.intervals], run.charges) == (stood[-1], charges)
