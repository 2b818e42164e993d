"""The book: what is written is what is read, and no damage goes unnoticed or takes more than its own line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prequential import Ledger, Tally
from prequential.errors import BookError
from prequential.ledger import BOOK_FORMAT, charge_book, read_book


def a_tally(number=1):
    """A tally with every column in use."""
    return Tally(
        nats=1.5 * number,
        coded_tokens=number,
        uncoded_tokens=2,
        uncoded_nats=0.1,
        masked_tokens=3,
        replayed_tokens=4,
        replayed_nats=0.25,
        nonfinite_tokens=1,
        raw_bytes=5 * number,
        fingerprint=2**64 - number,
    )


def write_book(path="book.jsonl", intervals=3, ended=True, **header):
    """Write a book with an event and some intervals."""
    ledger = Ledger(path, {"name": "toy", "bytes_known": True, **header})
    for step in range(1, intervals + 1):
        ledger.sums(step, a_tally(step), elapsed_s=step / 3)
    ledger.event("doubt", "nothing is certain", step=intervals)
    if ended:
        ledger.end(intervals, "completed", Tally.total(a_tally(n) for n in range(1, intervals + 1)), complete=True)
    ledger.close()
    return Path(path)


def test_what_is_written_is_read():
    """Header, sums, events and end come back exactly, floats to the last bit."""
    run = read_book(write_book())
    assert (run.name, run.header) == ("toy", {"name": "toy", "bytes_known": True})
    assert [interval.tally for interval in run.intervals] == [a_tally(1), a_tally(2), a_tally(3)]
    assert [interval.step for interval in run.intervals] == [1, 2, 3]
    assert run.intervals[0].elapsed_s == 0.333
    assert [event["message"] for event in run.events] == ["nothing is certain"]
    assert (run.status, run.end["complete"], run.warnings) == ("completed", True, [])
    assert run.total == a_tally(1) + a_tally(2) + a_tally(3)


@given(st.lists(st.floats(0, 1e18, allow_nan=False), min_size=1, max_size=20), st.text(max_size=20))
def test_any_sums_and_any_text_survive(tmp_path_factory, nats, message):
    """Floats come back to the last bit, text as it was."""
    path = tmp_path_factory.mktemp("any") / "book.jsonl"
    ledger = Ledger(path, {"name": message})
    for step, value in enumerate(nats):
        ledger.sums(step, Tally(nats=value), 0.0)
    ledger.event("said", message, step=0)
    ledger.close()
    run = read_book(path)
    assert [interval.tally.nats for interval in run.intervals] == nats
    assert run.events[0]["message"] == message


def test_a_book_is_never_overwritten():
    """A second run with the same path is refused, and the first book stays."""
    before = write_book().read_bytes()
    with pytest.raises(BookError, match=r"expected a new path for the book, got the existing book\.jsonl"):
        Ledger("book.jsonl", {})
    assert Path("book.jsonl").read_bytes() == before


def test_a_book_cut_anywhere_is_read_up_to_there():
    """A run killed at any byte leaves all its whole lines readable, and the cut is reported."""
    path = write_book(ended=False)
    content = path.read_bytes()
    first_line = content.index(b"\n") + 1
    for length in range(first_line, len(content) + 1):
        path.write_bytes(content[:length])
        run = read_book(path)
        whole_lines = content[:length].count(b"\n") - 1
        assert len(run.intervals) + len(run.events) == whole_lines
        torn = not content[:length].endswith(b"\n")
        assert [("cut short" in warning) for warning in run.warnings] == [True] * torn
        assert run.status == "open"
    for length in range(1, first_line):
        path.write_bytes(content[:length])
        with pytest.raises(BookError, match="no book header"):
            read_book(path)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"\xff\xfe\x00", "not JSON"),
        (b'{"kind":"sums","step":2', "not JSON"),
        (b'{"kind":"sums","step":2,"elapsed_s":1,"nats":NaN}', "not JSON"),
        (b'{"kind":"sums","step":2,"elapsed_s":1,"nats":Infinity}', "not JSON"),
        (b'{"kind":"sums","step":2,"elapsed_s":1,"coded_tokens":-1}', "sums line has a bad"),
        (b'{"kind":"sums","step":2,"elapsed_s":1,"coded_tokens":1.5}', "sums line has a bad"),
        (b'{"kind":"sums","step":2,"elapsed_s":1,"tokens":1}', "sums line has a bad or missing 'tokens'"),
        (b'{"kind":"sums","elapsed_s":1}', "sums line has a bad or missing 'step'"),
        (b'{"kind":"sums","step":true,"elapsed_s":1}', "sums line has a bad"),
        (b'{"kind":"event","event":"x","step":1}', "event line has a bad or missing 'message'"),
        (b'{"kind":"charge","name":"luck","bits":-3}', "charge line has a bad"),
        (b'{"kind":"charge","name":"luck","bits":1e999}', "charge line has a bad"),
        (b'{"kind":"charge","name":7,"bits":1}', "charge line has a bad"),
        (b'{"kind":"end","step":1,"status":"completed","totals":{},"repeats":{"share":"x"}}', "end line has a bad"),
        (b'{"kind":"dance"}', "kind is 'dance'"),
        (b'{"kind":"carried","step":2}', "carried line has a bad or missing 'elapsed_s'"),
        (b'{"kind":"rewind","step":1,"lines":3}', "rewind line has a bad or missing lines"),
        (b'{"kind":"rewind","step":1,"lines":0}', "rewind line has a bad or missing lines"),
        (b'{"kind":"rewind","step":1,"lines":1.0}', "rewind line has a bad or missing lines"),
        (b'{"kind":["sums"]}', "kind is"),
        (b"[1,2]", "not a JSON object"),
        (b"1},{", "not JSON"),
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_damaged_line_is_named(line, why):
    """One line says which line is damaged and why."""
    lines = write_book().read_bytes().split(b"\n")
    lines[2] = line
    Path("book.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(BookError, match=why) as raised:
        read_book("book.jsonl")
    assert str(raised.value).startswith("line 3 of book.jsonl is damaged")
    assert "\n" not in str(raised.value)


def test_a_line_swallowing_its_neighbours_is_damage_too():
    """Lines that only parse when joined with others are refused: the count of lines must fit."""
    lines = write_book().read_bytes().split(b"\n")
    lines[1:3] = [b'{"kind":"event","a":[{}', b'{}],"event":"x","step":1,"message":"m"}']
    Path("book.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(BookError, match=r"line 2 of book\.jsonl is damaged: it is not JSON"):
        read_book("book.jsonl")


@pytest.mark.parametrize("number", [0, BOOK_FORMAT + 1, "1", None, 1.5])
def test_a_book_of_another_format_is_refused_by_name(number):
    """A book from the future says so, instead of being half understood."""
    Path("book.jsonl").write_text(json.dumps({"kind": "header", "book": number}) + "\n")
    with pytest.raises(BookError, match=f"expected book format 1 to {BOOK_FORMAT}, got format {number!r}"):
        read_book("book.jsonl")


@pytest.mark.parametrize("content", [b"\x00\x80" * 50, b"step,loss\n1,2\n", b"{}\n", b'"header"\n', b"\n\n"])
def test_what_is_no_book_is_told_apart_from_a_damaged_one(content):
    """Noise and other files are not books."""
    Path("book.jsonl").write_bytes(content)
    with pytest.raises(BookError, match=r"expected a book, but the first line of book\.jsonl is no book header"):
        read_book("book.jsonl")


def test_missing_and_empty_files_and_folders_are_errors_of_one_line():
    """Each says what is the matter."""
    with pytest.raises(BookError, match=r"expected a book, cannot read none\.jsonl: No such file"):
        read_book("none.jsonl")
    with pytest.raises(BookError, match="Is a directory"):
        read_book(".")
    Path("empty.jsonl").touch()
    with pytest.raises(BookError, match=r"the empty file empty\.jsonl"):
        read_book("empty.jsonl")


def test_a_rewind_voids_the_tail():
    """Training that resumes behind the third line takes back all that follows, but for what a choice costs."""
    ledger = Ledger("book.jsonl", {})
    for step in (1, 2, 2, 3, 4):  # of the two lines of step 2 the later one was written behind the checkpoint
        ledger.sums(step, Tally(nats=step), 0.0)
        if step == 1:
            ledger.event("early", "stands", step=1)
    ledger.event("late", "is void", step=4)
    ledger.charge("luck", 3)
    ledger.end(4, "failed", Tally(nats=12))
    ledger.rewind(2, lines=4)
    assert read_book("book.jsonl").status == "open"
    ledger.sums(3, Tally(nats=30), 0.0)
    ledger.end(3, "completed", Tally(nats=33))
    ledger.close()
    run = read_book("book.jsonl")
    assert [interval.tally.nats for interval in run.intervals] == [1, 2, 30]
    assert [event["event"] for event in run.events] == ["early"]
    assert run.charges == {"luck": 3.0}
    assert (run.status, run.warnings) == ("completed", [])


def test_a_rewind_can_lead_into_what_was_void():
    """A run that went back twice, the second time to a checkpoint of the way it had left."""
    ledger = Ledger("book.jsonl", {})
    for step in (1, 2, 3):
        ledger.sums(step, Tally(nats=step), 0.0)
    ledger.rewind(1, lines=2)
    ledger.sums(2, Tally(nats=20), 0.0)
    ledger.rewind(3, lines=4)
    ledger.sums(4, Tally(nats=4), 0.0)
    assert ledger.lines == 8
    ledger.close()
    assert [interval.tally.nats for interval in read_book("book.jsonl").intervals] == [1, 2, 3, 4]
    assert [interval.tally.nats for interval in read_book("book.jsonl", lines=6).intervals] == [1, 20]


def test_books_of_format_2_rewind_by_steps():
    """Without a number of lines all sums of later steps are void."""
    lines = [
        {"kind": "header", "book": 2},
        *({"kind": "sums", "step": step, "elapsed_s": 0.0, "nats": float(step)} for step in (1, 2, 3)),
        {"kind": "rewind", "step": 2},
        {"kind": "sums", "step": 3, "elapsed_s": 0.0, "nats": 30.0},
    ]
    Path("book.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [interval.tally.nats for interval in read_book("book.jsonl").intervals] == [1, 2, 30]


def test_a_book_that_goes_on_drops_the_line_that_was_cut_short():
    """What was never a whole line is not part of the book; whole lines stay as they are."""
    path = write_book(ended=False)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind":"su')
    ledger = Ledger.reopen(path)
    assert path.read_bytes() == whole
    assert ledger.lines == whole.count(b"\n")
    ledger.close()


def test_a_book_that_another_process_writes_is_left_to_it():
    """Two runs that go on in one book would mix their lines."""
    ledger = Ledger("book.jsonl", {})
    code = "from prequential import Ledger; Ledger.reopen('book.jsonl')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "BookError: expected a book that nobody writes, got book.jsonl" in done.stderr
    ledger.close()
    subprocess.run([sys.executable, "-c", code], check=True)


def test_carried_sums_stand_for_those_of_another_book():
    """They are one interval, by source as well."""
    ledger = Ledger("book.jsonl", {"ancestor": {"id": "ab", "step": 7}})
    ledger.carried(7, a_tally(7), 3.5, {"web": a_tally(7)})
    ledger.sums(8, a_tally(8), 4.0)
    ledger.close()
    run = read_book("book.jsonl")
    assert [(i.step, i.tally) for i in run.intervals] == [(7, a_tally(7)), (8, a_tally(8))]
    assert run.intervals[0].sources == {"web": a_tally(7)}


@pytest.mark.parametrize(
    ("old", "new"), [(b'"nats":3.0', b'"nats":3.1'), (b'"raw_bytes":10', b'"raw_bytes":11'), (b'"fingerprint":', b"")]
)
def test_a_line_that_was_changed_or_lost_shows_in_the_totals(old, new):
    """The end line's totals are held against the sums."""
    lines = write_book().read_bytes().split(b"\n")
    lines[2] = lines[2].replace(old, new) if new else lines[2]
    Path("book.jsonl").write_bytes(b"\n".join(lines if new else lines[:2] + lines[3:]))
    (warning,) = read_book("book.jsonl").warnings
    assert "not what the end line states" in warning


def test_a_finished_book_can_be_charged_for_a_choice():
    """One line is appended, nothing else changes, and the description grows by the bits."""
    path = write_book()
    before, bits = path.read_bytes(), read_book(path).measured()["description_bits"]
    charge_book(path, "best of 8 runs", 3)
    charge_book(path, "prompt", 0.5)
    assert path.read_bytes().startswith(before)
    run = read_book(path)
    assert run.charges == {"best of 8 runs": 3.0, "prompt": 0.5}
    assert run.measured()["choice_bits"] == 3.5
    assert run.measured()["description_bits"] == bits + 3.5
    assert (run.status, run.warnings) == ("completed", [])


@pytest.mark.parametrize("bits", [-1.0, float("nan"), float("inf")])
def test_a_charge_is_a_cost(bits):
    """Nothing is earned by a choice."""
    path = write_book()
    before = path.read_bytes()
    with pytest.raises(BookError, match="expected bits of 0 or more as the charge 'luck'"):
        charge_book(path, "luck", bits)
    assert path.read_bytes() == before


def test_a_charge_is_made_once_and_on_whole_lines_only():
    """The same name twice is refused; so is a book whose end was cut off, which would swallow the line."""
    path = write_book()
    charge_book(path, "best of 8 runs", 3)
    with pytest.raises(BookError, match="expected a new name, got 'best of 8 runs'"):
        charge_book(path, "best of 8 runs", 3)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(BookError, match="expected whole lines"):
        charge_book(path, "prompt", 1)


def test_a_full_disk_leaves_whole_lines_only(monkeypatch):
    """Where the disk takes a part of a line, that part is taken back and the failure is raised."""
    ledger = Ledger("book.jsonl", {})
    ledger.sums(1, Tally(nats=1.0), 0.0)
    whole = Path("book.jsonl").read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:7]))
    with pytest.raises(OSError, match="wrote 7: is the disk full"):
        ledger.sums(2, Tally(nats=1.0), 0.0)
    assert Path("book.jsonl").read_bytes() == whole


def test_every_line_is_one_write_and_the_end_is_on_the_disk(monkeypatch):
    """One write a line; fsync at the end."""
    calls = []
    write, fsync = os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda fd, data: calls.append(data) or write(fd, data))
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append("fsync") or fsync(fd))
    lines = write_book().read_bytes().splitlines(keepends=True)
    assert calls == [*lines, "fsync"]


def test_a_book_never_holds_what_json_cannot(tmp_path):
    """NaN is refused when writing, so that no reader has to guess."""
    ledger = Ledger("book.jsonl", {})
    with pytest.raises(ValueError, match="JSON compliant"):
        ledger.sums(1, Tally(nats=float("nan")), 0.0)
    ledger.close()
    assert read_book("book.jsonl").intervals == []


def test_writing_to_a_closed_book_fails():
    """A closed ledger does not write into another file that got its descriptor."""
    ledger = Ledger("book.jsonl", {})
    ledger.close()
    ledger.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        ledger.sums(1, Tally(), 0.0)


def test_a_long_book_is_read_whole():
    """100,000 intervals come back as one sum."""
    line = json.dumps({"kind": "sums", "step": 1, "elapsed_s": 0.5, "nats": 0.1, "coded_tokens": 7, "fingerprint": 3})
    Path("book.jsonl").write_text('{"kind":"header","book":1}\n' + (line + "\n") * 100_000)
    total = read_book("book.jsonl").total
    assert (total.nats, total.coded_tokens, total.fingerprint) == (10_000.0, 700_000, 300_000)


def test_a_summary_does_not_flatter():
    """A ratio just under 1 is not written as 1."""
    ledger = Ledger("book.jsonl", {"bytes_known": True, "bundle": {"bundle_bytes": 100_000}})
    ledger.sums(1, Tally(coded_tokens=1, raw_bytes=99_996), 0.0)
    ledger.close()
    assert "99,996 raw bytes: 0.9999x" in read_book("book.jsonl").summary()[0]
