"""A book that is being written, read on: the same run as one that reads it whole, whenever it looks."""

import json
import random
from pathlib import Path

import pytest
from books import HEADER, book, tallies
from hypothesis import given, settings
from hypothesis import strategies as st

import prequential.sources.tail as tail_module
from prequential import load_run
from prequential.codelength import Tally
from prequential.errors import BookError
from prequential.ledger import Ledger, read_book
from prequential.run import Interval
from prequential.sources.tail import Tail, joined


def same(run, whole):
    """Whether two runs tell the same, but for how finely."""
    sums, counts = ("nats", "uncoded_nats", "replayed_nats"), ("coded_tokens", "raw_bytes", "fingerprint", "tokens")
    assert [getattr(run.total, name) for name in counts] == [getattr(whole.total, name) for name in counts]
    assert [getattr(run.total, name) for name in sums] == pytest.approx([getattr(whole.total, n) for n in sums])
    assert (run.header, run.events, run.end, run.charges) == (whole.header, whole.events, whole.end, whole.charges)
    assert run.intervals[-1].step == whole.intervals[-1].step
    return True


def test_a_growing_book_is_read_on_at_every_byte_of_a_line(tmp_path):
    """A torn last line is a line that is being written: no warning, and nothing of it counts."""
    whole = book("a/book.jsonl", tallies([3.0, 2.0, 1.5]), events=[("doubt", "odd")], baselines={"xz": 9}).read_bytes()
    path = tmp_path / "grown.jsonl"
    tail = Tail(path)
    assert tail.read() is None
    for end in range(0, len(whole) + 1, 7):
        path.write_bytes(whole[:end])
        run = tail.read()
        lines = whole[:end].split(b"\n")[:-1]
        assert (run is None) is (not lines)
        assert run is None or len(run.intervals) == sum(b'"sums"' in line for line in lines)
        assert run is None or run.warnings == []
    path.write_bytes(whole)
    assert same(tail.read(), read_book("a/book.jsonl"))


def test_what_was_read_is_not_read_again(monkeypatch):
    """Each line is taken once, however often one looks."""
    path = book("a/book.jsonl", tallies([1.0] * 50), status=None)
    tail = Tail(path)
    tail.read()
    taken = []
    original = tail_module.read_lines
    monkeypatch.setattr(tail_module, "read_lines", lambda path, lines: taken.append(lines) or original(path, lines))
    ledger = Ledger.reopen(path)
    ledger.sums(51, Tally(nats=1.0, coded_tokens=1), 51.0)
    assert tail.read().total.coded_tokens == 50_001
    tail.read()
    assert [lines.count(b"\n") for lines in taken] == [2]  # the first line of the book, and the new one


def test_the_run_that_was_given_does_not_change_when_the_book_grows():
    path = book("a/book.jsonl", tallies([1.0] * 5), status=None)
    tail = Tail(path)
    before = tail.read()
    Ledger.reopen(path).sums(6, Tally(nats=1.0, coded_tokens=1), 6.0)
    assert len(tail.read().intervals) == 6
    assert len(before.intervals) == 5


def test_another_book_in_its_place_is_read_from_its_start():
    path = book("a/book.jsonl", tallies([1.0] * 20), status=None)
    tail = Tail(path)
    tail.read()
    path.unlink()
    assert tail.read() is None
    book("a/book.jsonl", tallies([2.0] * 30, seed=3), name="other")
    assert same(tail.read(), load_run("a"))
    path.write_bytes(path.read_bytes()[:900])  # cut in place
    assert len(tail.read().intervals) < 20


@pytest.mark.parametrize("most", [20, 8192])
def test_rewinds_void_what_they_void_however_much_was_joined(monkeypatch, most):
    """Training goes back to steps in the middle of what had been joined, again and again."""
    monkeypatch.setattr(tail_module, "_MOST_INTERVALS", most)
    monkeypatch.setattr(tail_module, "_BLOCK_BYTES", 1500)
    monkeypatch.setattr(tail_module, "_OF_ALL", 0.2)
    monkeypatch.setattr(tail_module, "_OF_THOSE_BEFORE", 0.5)
    generator = random.Random(3)
    ledger = Ledger("a/book.jsonl", HEADER)
    tail, step, ends = Tail(ledger.path), 0, {}
    for _ in range(12):
        for _ in range(generator.randrange(1, 60)):
            step += 1
            ledger.sums(step, Tally(nats=generator.random(), coded_tokens=generator.randrange(1, 9)), float(step))
            ends[step] = ledger.lines
        assert same(tail.read(), read_book(ledger.path))
        step = generator.randrange(1, step + 1)
        ledger.rewind(step, ends[step])
        assert same(tail.read(), read_book(ledger.path))
    assert (len(tail.read().intervals) < len(read_book(ledger.path).intervals)) is (most == 20)


def test_a_long_book_becomes_a_run_of_few_intervals_with_the_same_curve(monkeypatch):
    monkeypatch.setattr(tail_module, "_BLOCK_BYTES", 100_000)
    lines = [{"kind": "header", "book": 2, **HEADER}]
    lines += [
        {"kind": "sums", "step": n, "elapsed_s": n, "nats": 100 * n**-0.3, "coded_tokens": 100}
        for n in range(1, 60_001)
    ]
    with open("book.jsonl", "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    run, whole = Tail(Path("book.jsonl")).read(), load_run("book.jsonl")
    assert len(run.intervals) <= 8192
    assert same(run, whole)
    assert run.final_nats_per_token == pytest.approx(whole.final_nats_per_token, rel=1e-3)
    assert run.intervals[:90] == whole.intervals[:90]  # where the curve is steep nothing is joined


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 50), st.sampled_from("ab")), min_size=1, max_size=200))
def test_joining_keeps_every_sum(parts):
    """By source as well, with intervals of nothing among them."""
    intervals = [
        Interval(step, float(step), Tally(nats=nats / 7, coded_tokens=tokens), {name: Tally(coded_tokens=tokens)})
        for step, (nats, tokens, name) in enumerate(parts, start=1)
    ]
    found = joined(intervals)
    assert sum(i.tally.coded_tokens for i in found) == sum(i.tally.coded_tokens for i in intervals)
    assert Tally.total(i.tally for i in found).nats == pytest.approx(Tally.total(i.tally for i in intervals).nats)
    for name in "ab":
        assert sum(i.sources[name].coded_tokens for i in found if name in i.sources) == sum(
            i.sources[name].coded_tokens for i in intervals if name in i.sources
        )
    assert found[-1].step == intervals[-1].step


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"what\n", "no book header"),
        (b'{"kind":"header","book":99}\n', "expected book format"),
        (b'{"kind":"header","book":2}\n{"kind":"sums"}\n', "line 2 of"),
        (
            b'{"kind":"header","book":2}\n{"kind":"sums","step":1,"elapsed_s":1,"nats":1e308}\n'
            + b'{"kind":"sums","step":2,"elapsed_s":1,"nats":1e308}\n',
            "beyond floating point",
        ),
        (b'{"kind":"header","book":2,"planned_tokens":-3}\n', "planned_tokens"),
        (b'{"kind":"header","book":2,"planned_steps":"many"}\n', "planned_steps"),
    ],
)
def test_what_is_no_book_is_one_line(tmp_path, content, message):
    path = tmp_path / "book.jsonl"
    path.write_bytes(content)
    with pytest.raises(BookError, match=message):
        Tail(path).read()


def test_a_damaged_line_is_named_by_its_number_in_the_whole_book():
    path = book("a/book.jsonl", tallies([1.0] * 5), status=None)
    tail = Tail(path)
    tail.read()
    with open(path, "ab") as file:
        file.write(b'{"kind":"sums","step":6,"elapsed_s":6}\nnonsense\n')
    with pytest.raises(BookError, match="line 8 of"):
        tail.read()
