"""What a data set shares with what was coded before it: by source, by rows, by a token count, or refused."""

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from books import HEADER, tallies
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from prequential import Ledger, load_run
from prequential.cli import main
from prequential.codelength import Tally
from prequential.comparison import shared
from prequential.errors import ComparisonError
from prequential.run import Interval, Run

ALONE = [2 + 3 * (step + 1) ** -0.4 for step in range(40)]


def recorded(name, parts, **header):
    """Write a book of parts, each a tally with the name of its source, or None; and read it."""
    ledger = Ledger(f"{name}/book.jsonl", {**HEADER, **header})
    for step, (tally, source) in enumerate(parts, start=1):
        ledger.sums(step, tally, float(step), None if source is None else {source: tally})
    ledger.end(len(parts), "completed", Tally.total(tally for tally, _ in parts), complete=True)
    ledger.close()
    return load_run(name)


def two_runs(*, sources=True, saved=0.5, noise=0.0, rows=0):
    """D2 alone, and D1, then D2 with the loss lower by ``saved`` but for noise."""
    rng = random.Random(0)
    second = [replace(t, rows=1, rows_fingerprint=rows * (n + 1)) for n, t in enumerate(tallies(ALONE, seed=5))]
    first = [replace(t, rows=1, rows_fingerprint=7 * rows) for t in tallies(ALONE[:20], seed=6)]
    after = [
        replace(t, nats=t.nats - 1000 * (saved + rng.gauss(0, noise)), fingerprint=n) for n, t in enumerate(second)
    ]
    names = ("web", "code") if sources else (None, None)
    alone = recorded("alone", [(t, names[1]) for t in second])
    return alone, recorded("after", [(t, names[0]) for t in first] + [(t, names[1]) for t in after])


@pytest.mark.parametrize("way", ["sources", "rows", "from_token"])
def test_the_saving_is_what_the_tokens_cost_less(way):
    """By hand: 40,000 tokens at half a nat less."""
    runs = two_runs(sources=way == "sources", rows=3 if way == "rows" else 0)
    found = shared(*runs, from_token=20_000 if way == "from_token" else None)
    assert found.saving.shared_bytes == pytest.approx(20_000 / math.log(2) / 8, rel=1e-9)
    assert found.saving.alone_bytes == pytest.approx(runs[0].measured()["data_bits"] / 8)
    assert (found.saving.tokens, found.before_tokens) == (40_000, 20_000)
    assert found.proved == (way == "rows")
    low, high = found.interval_bytes
    assert low == pytest.approx(high, abs=1e-6)


def test_noise_of_the_saving_is_in_its_interval():
    found = shared(*two_runs(saved=0.01, noise=0.2))
    low, high = found.interval_bytes
    assert low < 0.4 * 1000 / math.log(2) / 8 < high
    assert high - low > 50


def test_each_source_of_the_new_data_has_a_line():
    """Two sources, of which one is known before and one is not."""
    one, two = tallies(ALONE, seed=5), tallies(ALONE, seed=7)
    alone = recorded("alone", [*((t, "python") for t in one), *((t, "poems") for t in two)])
    known = [(replace(t, nats=t.nats - 300), "python") for t in one]
    after = recorded("after", [(t, "web") for t in tallies(ALONE, seed=6)] + known + [(t, "poems") for t in two])
    found = shared(alone, after)
    assert {name: saving.shared_bytes for name, saving in found.sources.items()} == pytest.approx(
        {"python": 40 * 300 / math.log(2) / 8, "poems": 0.0}
    )
    assert found.saving.shared_bytes == pytest.approx(sum(saving.shared_bytes for saving in found.sources.values()))


def test_a_source_can_be_named_where_the_first_book_has_none():
    second = tallies(ALONE, seed=5)
    alone = recorded("alone", [(t, None) for t in second])
    after = recorded("after", [(t, "web") for t in tallies(ALONE, seed=6)] + [(t, "code") for t in second])
    assert shared(alone, after, sources=["code"]).saving.shared_bytes == 0.0
    with pytest.raises(ComparisonError, match="expected source 'cod' in after, which has code, web"):
        shared(alone, after, sources=["cod"])


def test_what_is_no_d1_then_d2_is_refused_in_one_line():
    alone, after = two_runs(rows=3)
    mixed = [(t, "code" if n % 2 else "web") for n, t in enumerate(tallies(ALONE * 2))]
    plain = [(t, None) for t in tallies(ALONE * 2)]
    refused = {
        "expected D1 before D2 in mixed, got 98 %": (alone, recorded("mixed", mixed), {}),
        "expected the same coded_tokens of D2, got 40,000 in alone and 20,000": (
            alone,
            replace(after, intervals=after.intervals[:40]),
            {},
        ),
        "expected more tokens than the 60,000 of D2 in alone, got 40,000": (
            after,
            alone,
            {"from_token": None, "sources": ()},
        ),
        "expected an interval of after that ends at token 20,001.*20,000 and 21,000": (
            alone,
            after,
            {"from_token": 20_001},
        ),
        "that tells which part is D2.*--from-token": (alone, recorded("plain", plain), {}),
        "expected the same tokens of D2, got 40,000 in alone and 39,000": (alone, after, {"from_token": 21_000}),
    }
    for message, (first, second, options) in refused.items():
        with pytest.raises(ComparisonError, match=message) as error:
            shared(first, second, **options)
        assert "\n" not in str(error.value)


def test_what_is_no_code_length_or_starts_from_other_weights_is_refused():
    alone, after = two_runs()
    surrogate = replace(after, header={**after.header, "grade": "surrogate"})
    with pytest.raises(ComparisonError, match="expected code lengths, got the surrogate after"):
        shared(alone, surrogate)
    given_weights = replace(after, header={**after.header, "weights": {"sha256": "ab12", "rule": None}})
    with pytest.raises(ComparisonError, match="same given weights, got none in alone and ab12 in after"):
        shared(alone, given_weights)


def test_rows_that_differ_are_refused():
    alone, after = two_runs(sources=False, rows=3)
    other = replace(alone, intervals=[i._replace(tally=replace(i.tally, rows_fingerprint=1)) for i in alone.intervals])
    with pytest.raises(ComparisonError, match="expected the rows of alone from token 20,000 on in after, got others"):
        shared(other, after, from_token=20_000)


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_the_saving_is_exact_at_whatever_boundaries_books_have(first, second):
    """Against the sums themselves: D2 cut in its own way in each book, D1 before it."""
    total = sum(first)
    second = [*second, total] if sum(second) != total else second
    second = second[:-1] + ([total - sum(second[:-1])] if total > sum(second[:-1]) else [])
    if sum(second) != total:
        return
    alone = Run("alone", "a", {}, [Interval(n, 0.0, Tally(nats=2.0 * t, coded_tokens=t)) for n, t in enumerate(first)])
    parts = [Interval(0, 0.0, Tally(nats=99.0, coded_tokens=5))]
    parts += [Interval(n, 0.0, Tally(nats=1.5 * t, coded_tokens=t)) for n, t in enumerate(second, start=1)]
    found = shared(alone, Run("after", "b", {}, parts), from_token=5)
    assert found.saving.shared_bytes == pytest.approx(0.5 * total / math.log(2) / 8)


def test_the_command_prints_the_table_and_the_record():
    two_runs(noise=0.01)
    table = CliRunner().invoke(main, ["shared", "alone", "after"])
    assert (table.exit_code, "shared information (95 % interval" in table.output) == (0, True)
    record = json.loads(CliRunner().invoke(main, ["shared", "alone", "after", "--json"]).output)
    assert set(record) == {
        *("alone", "after", "tokens", "alone_bytes", "conditional_bytes", "shared_bytes", "shared_part"),
        *("interval_bytes", "before_tokens", "proved", "sources", "notes"),
    }
    assert record["shared_bytes"] == record["alone_bytes"] - record["conditional_bytes"]
    assert CliRunner().invoke(main, ["shared", "alone", "after", "--from-token", "5", "--source", "x"]).exit_code == 2
    assert CliRunner().invoke(main, ["shared", "after", "alone", "--source", "code"]).exit_code == 1


def cut(nats, ends):
    """Intervals that end after so many steps of 100 tokens each."""
    begins = [0, *ends[:-1]]
    parts = [Tally(nats=float(nats[i:j].sum()), coded_tokens=100 * (j - i)) for i, j in zip(begins, ends, strict=True)]
    return [Interval(j, 0.0, part) for j, part in zip(ends, parts, strict=True)]


def test_books_cut_at_other_places_have_the_interval_of_those_cut_alike():
    """After D1 the intervals of D2 are longer, and hardly any ends at a boundary of the first book.

    Over 60 pairs 90 % or more of either are right; they are equally wide, as wide as the noise that was put in says.
    """
    grids = {"alike": list(range(10, 4001, 10)), "other": [*range(7, 4000, 33), 4000]}
    widths, right = {name: [] for name in grids}, dict.fromkeys(grids, 0)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        alone, after = rng.normal(300, 30, 4000), rng.normal(290, 30, 4000)
        one = Run("alone", "a", {}, cut(alone, grids["alike"]))
        for name, ends in grids.items():
            parts = [Interval(0, 0.0, Tally(nats=99.0, coded_tokens=70)), *cut(after, ends)]
            found = shared(one, Run("after", "b", {}, parts), from_token=70)
            low, high = found.interval_bytes
            assert (low + high) / 2 == pytest.approx(found.saving.shared_bytes, rel=1e-9)
            widths[name].append(high - low)
            right[name] += low <= 40_000 / math.log(2) / 8 <= high
    assert min(right.values()) >= 54
    assert np.mean(widths["other"]) == pytest.approx(np.mean(widths["alike"]), rel=0.1)
    assert np.mean(widths["alike"]) == pytest.approx(2 * 1.96 * 30 * math.sqrt(8000) / math.log(2) / 8, rel=0.2)
