"""`load_run`: whatever a person points at, one run or one line that says why not."""

import json
from dataclasses import asdict

import pytest
from books import book, tallies

from prequential import load_run
from prequential.codelength import Tally, nats_to_bits
from prequential.errors import BookError
from prequential.ledger import Ledger


@pytest.fixture
def written(tmp_path):
    """Write a book of three intervals into ``logs/one/book.jsonl``."""
    return book(tmp_path / "logs/one/book.jsonl", tallies([3.0, 2.0, 1.0]), name="tiny")


@pytest.mark.parametrize("path", ["logs/one/book.jsonl", "logs/one", "logs", "."])
def test_a_book_is_found_by_its_file_its_folder_or_a_folder_above(written, path):
    run = load_run(path)
    assert run.name == "tiny"
    assert run.total.nats == 6000.0
    assert run.measured()["data_bits"] == nats_to_bits(6000.0)


def test_a_book_of_any_name_is_read(written):
    assert load_run(written.rename("logs/other.jsonl")).total.coded_tokens == 3000


@pytest.mark.parametrize("path", [".", "book.jsonl"])
def test_a_run_without_a_name_is_named_by_its_folder_from_within_too(written, monkeypatch, path):
    book("logs/two/book.jsonl", tallies([1.0]))
    monkeypatch.chdir("logs/two")
    assert load_run(path).name == "two"


def test_a_book_in_the_folder_itself_wins_over_those_below(written):
    book("logs/book.jsonl", tallies([1.0]), name="upper")
    assert load_run("logs").name == "upper"


def test_several_books_are_refused_and_a_few_of_them_named(written):
    for number in range(5):
        book(f"logs/more{number}/book.jsonl", tallies([1.0]))
    with pytest.raises(BookError, match=r"found 6 \(logs/more0/book.jsonl, .*, \.\.\.\): name one") as error:
        load_run("logs")
    assert "more3" not in str(error.value)


def _future(path):
    path.write_text(json.dumps({"kind": "header", "book": 99}) + "\n")


def _folder(path):
    path.mkdir()


BAD = {
    "missing": (lambda path: None, "No such file"),
    "empty": (lambda path: path.write_bytes(b""), "empty file"),
    "directory": (_folder, "found none"),
    "noise": (lambda path: path.write_bytes(bytes(range(256)) * 40), "no book header"),
    "lines of noise": (lambda path: path.write_bytes(b"\x00\xff\n" * 9), "no book header"),
    "a list": (lambda path: path.write_text("[1]\n"), "no book header"),
    "future": (_future, "got format 99"),
    "torn header": (lambda path: path.write_text('{"kind": "header"'), "no book header"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_book_is_refused_in_one_line(tmp_path, kind):
    make, message = BAD[kind]
    make(tmp_path / "x")
    with pytest.raises(BookError, match=message) as error:
        load_run(tmp_path / "x")
    assert "\n" not in str(error.value)


def test_a_name_that_no_file_can_have_is_refused():
    with pytest.raises(BookError, match="cannot"):
        load_run("a\0b")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ["x"]),
        ("grade", 3),
        ("vocab_size", "256"),
        ("vocab_size", -4),
        ("vocab_size", True),
        ("bytes_known", "yes"),
        ("bundle", [1]),
        ("bundle", {"bundle_bytes": "many"}),
        ("bundle", {"bundle_bytes": -1}),
        ("token_bytes", "bytes"),
        ("baselines", {"gzip": "small"}),
        ("baselines", [1]),
    ],
)
def test_a_header_of_the_wrong_types_is_refused(field, value):
    book("book.jsonl", tallies([1.0]), **{field: value})
    with pytest.raises(BookError, match=f"as {field}.*got .*damaged"):
        load_run("book.jsonl")


@pytest.mark.parametrize("stated", [{"answer": "surely"}, {}, "yes"])
def test_a_stated_verdict_of_another_kind_is_refused(stated):
    book("book.jsonl", tallies([1.0]), single_pass=stated)
    with pytest.raises(BookError, match="as single_pass"):
        load_run("book.jsonl")


def test_an_end_line_with_a_bundle_of_another_type_is_refused(tmp_path):
    ledger = Ledger("book.jsonl", {})
    ledger.end(0, "completed", tallies([1.0])[0], bundle=[1])
    with pytest.raises(BookError, match="bundle of the end line"):
        load_run("book.jsonl")


@pytest.mark.parametrize("lines", [["1e999"], ["1e308"] * 40, ["-1e999"]])
def test_sums_beyond_floating_point_are_refused(tmp_path, lines):
    sums = [f'{{"kind":"sums","step":1,"elapsed_s":0,"nats":{nats}}}\n' for nats in lines]
    (tmp_path / "x").write_text('{"kind":"header","book":1}\n' + "".join(sums))
    with pytest.raises(BookError, match="beyond floating point"):
        load_run("x")


def test_totals_that_are_no_numbers_are_refused(tmp_path):
    end = {"kind": "end", "step": 0, "status": "completed", "totals": {**asdict(Tally()), "nats": "x"}}
    (tmp_path / "x").write_text('{"kind":"header","book":1}\n' + json.dumps(end) + "\n")
    with pytest.raises(BookError, match="damaged"):
        load_run("x")
