"""Comparisons: what may be compared, who wins, and whether the difference is noise."""

import json
import math
import random
import re
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from books import HEADER, TOKENS, book, tallies
from hypothesis import given, settings
from hypothesis import strategies as st

from prequential import Bundle, compare, load_run
from prequential.codelength import Tally
from prequential.comparison.alignment import Cells
from prequential.comparison.differences import leads_from
from prequential.comparison.groups import setting
from prequential.comparison.noise import half_width_nats, half_width_of, joined, student_t
from prequential.errors import ComparisonError
from prequential.run import Interval, Run

COLUMNS = ("seed", "masked_tokens", "uncoded_tokens", "uncoded_nats", "replayed_tokens", "nonfinite_tokens")
CURVES = Path(__file__).parents[2] / "shared" / "data" / "loss-curves"
LOSSES = [3 * (step + 1) ** -0.3 + 1 for step in range(60)]


def run(folder, nats_per_token=LOSSES, **options):
    """Make a run read back from a book; each interval has `TOKENS` tokens unless told otherwise."""
    columns = {key: options.pop(key) for key in COLUMNS if key in options}
    return load_run(book(f"{folder}/book.jsonl", tallies(nats_per_token, **columns), **options))


def lower(by, noise=0.0, seed=1):
    """Give the usual losses, lower by a constant but for noise."""
    rng = random.Random(seed)
    return [loss - by + rng.gauss(0, noise) for loss in LOSSES]


def bundle(bundle_bytes, **fields):
    return {**HEADER["bundle"], "bundle_bytes": bundle_bytes, **fields}


# -- the numbers ------------------------------------------------------------------------------------------------


def total_bytes(path):
    """Take the second route: compressed bytes from the lines of the book."""
    header, *lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    nats = math.fsum(line.get("nats", 0) + line.get("uncoded_nats", 0) for line in lines if line["kind"] == "sums")
    return nats / math.log(2) / 8 + header["bundle"]["bundle_bytes"]


def test_totals_are_those_of_the_lines_of_the_books():
    charged = {"uncoded_tokens": 1, "uncoded_nats": math.log(256)}
    runs = [run("a", **charged), run("b", lower(0.0, noise=0.5), bundle=bundle(5000), **charged)]
    for row in compare(runs).rows:
        assert row.quantities["compressed_bytes"] == pytest.approx(total_bytes(row.run.path), rel=1e-12)


def test_the_price_of_choosing_stands_in_the_verdict():
    """Rows are what each run says of itself and add up to the verdict, which holds log2 3 bits for the choice."""
    comparison = compare([run(name, lower(by)) for name, by in (("a", 0.0), ("b", 0.2), ("c", 0.1))])
    assert [row.name for row in comparison.rows] == ["b", "c", "a"]
    totals = [row.quantities["compressed_bytes"] for row in comparison.rows]
    assert totals == pytest.approx([total_bytes(f"{name}/book.jsonl") for name in "bca"], rel=1e-12)
    assert (comparison.verdict.winner, comparison.verdict.choice_bits) == ("b", math.log2(3))
    assert comparison.verdict.difference_bytes == totals[1] - totals[0]
    assert any("best of 3 runs, b costs log2 3 = 1.58 bits more" in note for note in comparison.notes)


def test_a_difference_that_the_choice_eats_up_is_a_tie():
    """Half a bit less is not worth the bit that says which."""
    half_a_bit = 0.5 * math.log(2) / 60_000
    verdict = compare([run("a"), run("b", [value - half_a_bit for value in lower(0.0)])]).verdict
    assert verdict.difference_bytes == pytest.approx(1 / 16, rel=1e-6)
    assert (verdict.winner, verdict.choice_bits) == (None, 0.0)


def test_a_smaller_program_can_win_with_a_higher_loss():
    """The answer by hand: 60,000 tokens at 0.001 nats are 11 bytes, the programs differ by 1,000."""
    comparison = compare([run("long", lower(0.001), bundle=bundle(1700)), run("short", bundle=bundle(700))])
    assert comparison.verdict.winner == "short"
    assert comparison.verdict.difference_bytes == pytest.approx(1000 - 60 / math.log(2) / 8)
    assert any("long has the lowest final loss, but short the shorter description" in n for n in comparison.notes)


def test_a_program_that_carries_the_data_gains_nothing():
    """Loss 0, but a bundle as large as the data."""
    comparison = compare([run("cheat", [0.0] * 60, bundle=bundle(60_000)), run("honest")])
    assert comparison.verdict.winner == "honest"
    assert comparison.rows[1].quantities["compression_ratio"] == 1.0


@pytest.mark.parametrize("order", list(permutations("abc")))
def test_the_order_of_the_runs_does_not_matter(order):
    for name, by in (("a", 0.0), ("b", 0.2), ("c", 0.1)):
        book(f"{name}/book.jsonl", tallies(lower(by, noise=0.01, seed=name)))
    expected = compare([load_run(name) for name in "abc"])
    found = compare([load_run(name) for name in order])
    assert [row.name for row in found.rows] == [row.name for row in expected.rows]
    assert found.verdict == expected.verdict
    assert sorted(found.notes) == sorted(expected.notes)


# -- ties and noise ---------------------------------------------------------------------------------------------


def test_the_same_run_twice_is_a_tie():
    verdict = compare([run("a"), run("b")]).verdict
    assert (verdict.winner, verdict.difference_bytes, verdict.interval_bytes) == (None, 0.0, (0.0, 0.0))
    assert verdict.difference.leads_from_tokens is None


def test_a_tie_charges_nobody():
    assert compare([run("a"), run("b", lower(0.0, noise=0.5))]).verdict.choice_bits == 0.0


def test_a_difference_within_noise_is_a_tie_and_a_larger_one_is_not():
    noisy = compare([run("a"), run("b", lower(0.01, noise=0.2))]).verdict
    assert noisy.winner is None
    low, high = noisy.interval_bytes
    assert low < 0 < high
    clear = compare([run("c"), run("d", lower(0.2, noise=0.02))]).verdict
    assert clear.winner == "d"
    assert 0 < clear.interval_bytes[0] < clear.difference_bytes < clear.interval_bytes[1]


def test_a_winner_must_be_told_from_every_other_run():
    """The second is as good as certainly worse, but the third scatters so much that it may be better."""
    comparison = compare([run("a", lower(0.1)), run("b", lower(0.09)), run("c", lower(0.0, noise=0.6, seed=5))])
    assert [row.name for row in comparison.rows] == ["a", "b", "c"]
    assert comparison.verdict.winner is None
    assert comparison.verdict.rival == "c"
    assert comparison.verdict.interval_bytes[0] < 0 < comparison.verdict.interval_bytes[1]
    assert any("a cannot be told from c" in note for note in comparison.notes)


def test_without_enough_common_boundaries_there_is_no_interval_and_the_notes_say_so():
    comparison = compare([run("a", LOSSES[:7]), run("b", lower(0.1)[:7])])
    assert comparison.verdict.winner == "b"
    assert comparison.verdict.interval_bytes is None
    assert any("whether it is noise is unknown" in note for note in comparison.notes)


def simulated(rng, steps, sigma, fade=0.0):
    """Two runs of 100 tokens a step that share hard batches and differ by a trend and known noise.

    Returns the runs and what the noise added to the difference, in nats.
    """
    left, right, added = [], [], 0.0
    nats, width = [0.0, 0.0], 0
    for step in range(1, steps + 1):
        noise = rng.gauss(0, sigma) * step**-fade
        shared = 3 + 6 * step**-0.35 + rng.gauss(0, 1)
        nats = [nats[0] + 100 * (shared + noise + 2 * step**-0.35 - 1.5 * step**-0.3), nats[1] + 100 * shared]
        added, width = added + 100 * noise, width + 1
        if width >= max(1, min(step // 100, 50)) or step == steps:
            for side, total in ((left, nats[0]), (right, nats[1])):
                side.append(Interval(step, 0.0, Tally(nats=total, coded_tokens=100 * width)))
            nats, width = [0.0, 0.0], 0
    return Run("a", "", {}, left), Run("b", "", {}, right), added


@pytest.mark.parametrize(("steps", "fade"), [(40, 0.0), (400, 0.0), (400, 0.2)])
def test_the_interval_covers_the_truth_19_times_in_20(steps, fade):
    """Among 400 simulated pairs between 92 and 98.5 % are covered, and the width is not much above the least one."""
    rng = random.Random(steps)
    pairs = [simulated(rng, steps, 0.05, fade) for _ in range(400)]
    widths = [half_width_nats(left, right) for left, right, _ in pairs]
    covered = sum(abs(added) <= width for (_, _, added), width in zip(pairs, widths, strict=True)) / len(pairs)
    assert 0.92 <= covered <= 0.985
    deviation = math.sqrt(sum(added**2 for *_, added in pairs) / len(pairs))
    assert sum(widths) / len(widths) < 1.3 * 1.96 * deviation


@pytest.mark.parametrize(("steps", "correlation"), [(400, 0.5), (2000, 0.9), (4000, 0.95)])
def test_the_interval_covers_the_truth_of_noise_that_lasts(steps, correlation):
    """Noise alike over up to a 200th of the run: autoregressive, with a trend of learning curves beneath.

    Among 400 pairs at least 92 % are covered; resampling blocks would cover them all with intervals 1.5 to 7 times as
    wide, for the trend.
    """
    rng = np.random.default_rng(steps)
    step = np.arange(1, steps + 1)
    trend = 200 * step**-0.35 - 150 * step**-0.3
    covered, widths, errors = 0, [], []
    for _ in range(400):
        noise = autoregressive(rng, steps, correlation)
        width = half_width_of(Cells(100 * step, trend + noise))
        covered += abs(noise.sum()) <= width
        widths.append(width)
        errors.append(noise.sum())
    assert covered >= 0.92 * 400
    assert np.mean(widths) < 1.35 * 1.96 * np.std(errors)


def autoregressive(rng, steps, correlation):
    """Noise of which each step keeps a share of the one before, in its stationary distribution."""
    fresh = rng.normal(size=steps) * 5
    noise = [fresh[0]]
    for value in fresh[1:]:
        noise.append(correlation * noise[-1] + math.sqrt(1 - correlation**2) * value)
    return np.array(noise)


def test_noise_that_swings_over_a_part_of_the_run_is_beyond_the_interval():
    """What the page admits: alike over a 20th of the run, noise looks like trend, and the interval is too narrow."""
    rng, step = np.random.default_rng(0), np.arange(1, 401)
    noises = [autoregressive(rng, 400, 0.95) for _ in range(200)]
    covered = sum(abs(noise.sum()) <= half_width_of(Cells(100 * step, noise)) for noise in noises)
    assert 0.5 * 200 < covered < 0.85 * 200


@pytest.mark.skipif(not CURVES.exists(), reason="published loss curves are not there")
def test_published_runs_are_ranked_by_their_code_length_and_a_tie_is_called_one():
    """Four optimisers in MB as their logs add up to, all told apart; two widths that are 1.1 MB apart are not.

    One of eight workers logged its share of each batch, which is in the interval.
    """

    def log(name):
        given = {"measured_share": 1 / 8, "bytes_per_token": 4.0, "data_name": "web text"}
        return load_run(CURVES / f"{name}.csv", **given)

    names = [f"gpt124m-optimizers-{optimiser}" for optimiser in ("adam", "shampoo", "soap", "muon")]
    comparison = compare([log(name) for name in names])
    sizes = [row.quantities["compressed_bytes"] / 1e6 for row in comparison.rows]
    assert sizes == pytest.approx([1742.957, 1771.097, 1784.543, 1825.015], abs=1e-3)
    assert [row.name.split("-")[-1] for row in comparison.rows] == ["muon", "shampoo", "soap", "adam"]
    assert all(found.interval_bytes[0] > 0 for found in comparison.differences)
    assert comparison.verdict.winner == "gpt124m-optimizers-muon"
    assert compare([log("gpt-width768"), log("gpt-width1024")]).verdict.winner is None


def test_a_steady_advantage_is_no_noise():
    """Learning curves of other shape, without noise: the trend leaves an interval of under 2 % of the difference."""
    left, right, _ = simulated(random.Random(0), 2000, 0.0)
    shape = sum(i.tally.nats for i in left.intervals) - sum(i.tally.nats for i in right.intervals)
    assert half_width_nats(left, right) < 0.02 * abs(shape)


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.706205), (2, 4.302653), (3, 3.182446), (8, 2.306004), (30, 2.042272)]
)
def test_students_t_is_that_of_the_tables(freedom, expected):
    assert student_t(freedom) == pytest.approx(expected, abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=200), st.sampled_from([8, 16, 32]))
def test_blocks_hold_all_cells_once(sizes, number):
    """Joining loses no token and keeps the order: each cell costs what it holds, so that blocks must as well."""
    cells = Cells(np.cumsum(sizes), np.array(sizes, float))
    blocks = joined(cells, number)
    assert blocks.tokens.sum() == sum(sizes)
    assert blocks.tokens.tolist() == blocks.nats.tolist()
    assert set(blocks.tokens.cumsum().tolist()) <= set(cells.ends.tolist())


@settings(deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=200))
def test_blocks_are_as_long_as_they_must_be_and_no_longer(sizes):
    """The rule in one loop, cell by cell."""
    blocks, start, tokens = [], 0, 0
    for size in sizes:
        tokens += size
        if tokens >= min(sum(sizes) / 32, start / 4):
            blocks.append(tokens)
            start, tokens = start + tokens, 0
    if tokens:
        blocks[-1] += tokens
    assert joined(Cells(np.cumsum(sizes), np.zeros(len(sizes))), 32).tokens.tolist() == blocks


# -- what may be compared ---------------------------------------------------------------------------------------

OTHER_TABLE = {"kind": "bytes", "name": "other", "vocab_size": 256, "sha256": "01" * 32}

REFUSED = {
    "fewer tokens": ({"nats_per_token": LOSSES[:50]}, "same tokens, got 60,000 in a and 50,000 in b.*common_prefix"),
    "other data": ({"seed": 2}, "same data fingerprint, got [0-9a-f]{16} in a and [0-9a-f]{16} in b"),
    "other scheme": ({"fingerprint_scheme": "batch"}, "same fingerprint_scheme, got targets in a and batch in b"),
    "other masks": ({"masked_tokens": 2}, "same masked_tokens, got 0 in a and 120 in b"),
    "other tokenizer": ({"token_bytes": OTHER_TABLE}, r"same tokenizer, got bytes \(ef+.*\) in a and other \(01"),
    "other rule": ({"bundle": bundle(700, rule="zip")}, "same bundle rule, got xz -9e in a and zip in b"),
    "no bundle": ({"bundle": None}, "same bundle rule, got xz -9e in a and no bundle in b"),
    "given weights": ({"weights": {"sha256": "ab12", "rule": None}}, "same given weights, got none in a and ab12 in b"),
    "surrogate": ({"grade": "surrogate"}, "same grade, got a code length in a and surrogate in b"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("common_prefix", [False, True])
def test_the_incomparable_is_refused_with_the_field_and_both_values(kind, common_prefix):
    options, message = REFUSED[kind]
    if common_prefix and kind == "fewer tokens":  # that is what the prefix is for
        assert compare([run("a"), run("b", **options)], common_prefix=True).rows[0].quantities["tokens"] == 50_000
        return
    with pytest.raises(ComparisonError, match=message) as error:
        compare([run("a"), run("b", **options)], common_prefix=common_prefix)
    assert "\n" not in str(error.value)


def test_raw_bytes_that_differ_on_the_same_tokens_are_refused():
    parts = [replace(part, raw_bytes=2 * part.raw_bytes) for part in tallies(LOSSES)]
    with pytest.raises(ComparisonError, match="same raw_bytes, got 60,000 in a and 120,000 in b"):
        compare([run("a"), load_run(book("b/book.jsonl", parts))])


def test_one_run_is_no_comparison():
    with pytest.raises(ComparisonError, match="two runs or more, got 1"):
        compare([run("a")])


def test_data_that_nothing_identifies_is_refused_unless_it_has_a_name():
    parts = [replace(part, fingerprint=0) for part in tallies(LOSSES)]
    runs = [load_run(book(f"{name}/book.jsonl", parts)) for name in "ab"]
    with pytest.raises(ComparisonError, match="no fingerprint"):
        compare(runs)
    named = [load_run(book(f"{name}/book.jsonl", parts, data_name="enwik8")) for name in "cd"]
    assert compare(named).verdict.winner is None


def test_a_declared_name_and_equal_raw_bytes_stand_in_for_fingerprints():
    """Rows cut differently: other fingerprints, other padding, other tokens even, but the same source."""
    parts = tallies(lower(0.2), tokens=TOKENS // 2, seed=3, masked_tokens=7)
    parts = [replace(part, raw_bytes=TOKENS) for part in parts]
    other = load_run(book("b/book.jsonl", parts, data_name="corpus", token_bytes=OTHER_TABLE))
    comparison = compare([run("a", data_name="corpus"), other])
    assert comparison.verdict.winner == "b"
    assert any("rests on the declared data_name 'corpus'" in note for note in comparison.notes)
    assert any("tokenizer differs" in note for note in comparison.notes)


def test_a_declared_name_is_not_enough_without_equal_raw_bytes():
    with pytest.raises(ComparisonError, match=r"same raw_bytes, got 60,000 in a and 50,000 in b.*data_name 'corpus'"):
        compare([run("a", data_name="corpus"), run("b", LOSSES[:50], data_name="corpus", seed=2)])
    with pytest.raises(ComparisonError, match="data fingerprint"):
        compare([run("c", data_name="corpus"), run("d", data_name="other corpus", seed=2)])
    with pytest.raises(ComparisonError, match="data fingerprint"):
        compare([run("e", data_name="corpus"), run("f", data_name="corpus", bytes_known=False, seed=2)])
    with pytest.raises(ComparisonError, match="data fingerprint"):
        compare([run("g", data_name="corpus"), run("h", data_name="corpus", seed=2)], common_prefix=True)


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"replayed_tokens": 3}, "b is not a single pass: 180 tokens were scored again"),
        ({"events": [("not_single_pass", "epoch 2 began")]}, "b is not a single pass: epoch 2 began"),
        ({"status": "interrupted"}, r"b did not complete \(status interrupted\)"),
        ({"status": None}, r"b did not complete \(status open\)"),
        ({"nonfinite_tokens": 2}, "b has 120 tokens without a finite code length"),
        ({"grade": "estimate"}, "b is an estimate"),
        ({"grade": "coded"}, r"grade differs \(a: ideal, b: coded\)"),
        ({"grade": "estimate"}, r"grade differs \(a: ideal, b: estimate\)"),
        ({"vocab_size": 300}, r"vocab_size differs \(a: 256, b: 300\)"),
        ({"measure": "outputs"}, r"measure differs \(a: capture, b: outputs\)"),
        ({"bytes_known": False, "token_bytes": None}, r"tokenizer differs \(a: bytes .*, b: unknown\)"),
    ],
)
def test_what_weakens_a_comparison_is_noted(options, note):
    notes = compare([run("a"), run("b", **options)]).notes
    assert any(re.search(note, found) for found in notes), notes


def test_uncharged_uncoded_tokens_are_noted_and_unknown():
    comparison = compare([run(name, uncoded_tokens=1, vocab_size=None) for name in ("d", "e")])
    assert [row.quantities["uncoded_bits"] for row in comparison.rows] == [None, None]
    assert any("d was not charged for its 60 uncoded tokens" in note for note in comparison.notes)


def test_without_any_bundle_the_programs_are_unknown_not_free():
    comparison = compare([run("a", bundle=None), run("b", bundle=None)])
    assert [row.quantities["bundle_bytes"] for row in comparison.rows] == [None, None]
    assert any("no run has a bundle" in note for note in comparison.notes)


def test_names_that_repeat_get_their_folder_and_then_a_number():
    names = [row.name for row in compare([run("a", name="x"), run("b", name="x"), run("c", name="y")]).rows]
    assert sorted(names) == ["x (a)", "x (b)", "y"]
    again = compare([load_run("a"), load_run("a"), load_run("c")])
    assert sorted(row.name for row in again.rows) == ["x (a) #1", "x (a) #2", "y"]


def test_books_in_the_current_folder_are_named_by_it(monkeypatch):
    run("a", name="x"), run("b", name="x")
    monkeypatch.chdir("a")
    names = {row.name for row in compare([load_run("book.jsonl"), load_run("../b")]).rows}
    assert names == {"x (a)", "x (b)"}


# -- the common prefix ------------------------------------------------------------------------------------------


def recorded(name, stream, cuts):
    """Record a run over a stream of (token, nats), one interval between cuts; fingerprint as a sum over positions."""
    intervals, start = [], 0
    for cut in [*sorted(cuts), len(stream)]:
        part = stream[start:cut]
        fingerprint = sum(token * pow(3, start + i, 2**64) for i, (token, _) in enumerate(part)) % 2**64
        nats = math.fsum(nats for _, nats in part)
        intervals.append(Interval(cut, 0.0, Tally(nats=nats, coded_tokens=len(part), fingerprint=fingerprint)))
        start = cut
    return Run(name, f"{name}/book.jsonl", {"fingerprint_scheme": "targets"}, intervals)


@st.composite
def two_books(draw):
    """Two runs on one stream of tokens, stopped and cut at places of their own."""
    length = draw(st.integers(2, 40))
    tokens = draw(st.lists(st.integers(1, 9), min_size=length, max_size=length))
    books = []
    for name in "ab":
        nats = draw(st.lists(st.integers(0, 640), min_size=length, max_size=length))
        stop = draw(st.integers(1, length))
        cuts = draw(st.sets(st.integers(1, stop - 1))) if stop > 1 else set()
        books.append((name, [(token, n / 64) for token, n in zip(tokens, nats, strict=True)][:stop], cuts))
    return books


@given(two_books())
def test_a_common_prefix_is_the_sum_of_its_tokens_or_is_refused(books):
    """Against the streams themselves: the longest prefix at whose end both books have a boundary, exactly."""
    runs = [recorded(*parts) for parts in books]
    common = set.intersection(*({*cuts, len(stream)} for _, stream, cuts in books))
    if not common:
        with pytest.raises(ComparisonError, match="boundary"):
            compare(runs, common_prefix=True)
        return
    found = {row.name: row.quantities for row in compare(runs, common_prefix=True).rows}
    for name, stream, _ in books:
        assert found[name]["tokens"] == max(common)
        assert found[name]["nats"] == math.fsum(nats for _, nats in stream[: max(common)])


def test_a_prefix_of_other_data_is_refused():
    """Token 7 of 20 differs, so that the books agree at 5 only; they are cut at 10."""
    stream = [(n % 5 + 1, 1.0) for n in range(20)]
    other = [*stream[:6], (9, 1.0), *stream[7:15]]
    runs = [recorded("a", stream, {5, 10}), recorded("b", other, {5, 10})]
    with pytest.raises(ComparisonError, match="data fingerprint"):
        compare(runs, common_prefix=True)


def test_equal_runs_have_themselves_as_common_prefix():
    runs = [run("a"), run("b", lower(0.2))]
    whole, cut = compare(runs), compare(runs, common_prefix=True)
    assert cut.verdict == whole.verdict
    assert [row.quantities for row in cut.rows] == [row.quantities for row in whole.rows]
    assert cut.notes[0].startswith("compared at the first 60,000 tokens (a has 60,000, b has 60,000)")


def intervals(*parts):
    """Make a run of one interval a part, which is (coded tokens, nats, other columns)."""
    return [
        Interval(n, 0.0, Tally(coded_tokens=t, nats=x, fingerprint=t, **more)) for n, (t, x, more) in enumerate(parts)
    ]


def test_replay_behind_the_last_boundary_stays_on_the_books():
    """An interval without tokens of the data belongs to the boundary before it."""
    parts = [(5, 9.0, {}), (5, 8.0, {}), (0, 0.0, {"replayed_tokens": 10})]
    runs = [Run(name, f"{name}/x", {}, intervals(*parts)) for name in "ab"]
    rows = compare(runs, common_prefix=True).rows
    assert [row.quantities["replayed_tokens"] for row in rows] == [10, 10]


def test_an_empty_start_is_no_common_prefix():
    empty = (0, 0.0, {"masked_tokens": 4})
    left, right = intervals(empty, (5, 9.0, {})), intervals(empty, (7, 9.0, {}))
    with pytest.raises(ComparisonError, match="boundary"):
        compare([Run("a", "a/x", {}, left), Run("b", "b/x", {}, right)], common_prefix=True)


def test_noise_in_the_charge_for_uncoded_tokens_counts():
    rng = random.Random(0)
    left = intervals(*((5, 9.0, {"uncoded_tokens": 1, "uncoded_nats": rng.random()}) for _ in range(20)))
    right = intervals(*((5, 9.0, {"uncoded_tokens": 1, "uncoded_nats": 0.5}) for _ in range(20)))
    assert half_width_nats(Run("a", "", {}, left), Run("b", "", {}, right)) > 0


def test_runs_of_other_lengths_have_no_interval():
    left, right = (Run("", "", {}, intervals(*[(5, 9.0, {})] * count)) for count in (20, 30))
    assert half_width_nats(left, right) is None
    assert half_width_nats(right, left) is None


def test_the_interval_is_in_bytes():
    runs = [run("a"), run("b", lower(0.2, noise=0.1))]
    low, high = compare(runs).verdict.interval_bytes
    assert high - low == pytest.approx(2 * half_width_nats(*runs) / math.log(2) / 8)


# -- other codes ------------------------------------------------------------------------------------------------


def test_baselines_that_all_runs_carry_stand_beside_them():
    sizes = {"xz -9e": 15_000, "uniform": 60_000}
    found = compare([run("a", baselines=sizes), run("b", baselines=sizes)]).baselines
    assert list(found) == ["xz -9e", "raw", "uniform"]
    assert found["xz -9e"] == {"compressed_bytes": 15_000, "compression_ratio": 4.0, "bits_per_byte": 2.0}
    assert found["raw"]["compression_ratio"] == 1.0


def test_baselines_of_other_data_are_left_out():
    sizes = {"xz -9e": 15_000}
    assert compare([run("a", baselines=sizes), run("b")]).baselines == {}
    cut = compare([run("c", baselines=sizes), run("d", baselines=sizes)], common_prefix=True)
    assert cut.baselines == {}


# -- since when, and of what -------------------------------------------------------------------------------------


def test_the_winner_leads_from_the_token_at_which_the_totals_cross():
    """By hand: 20 intervals at +55 nats, then -200 each; ahead after 25.5, with 1,109 nats more program after 31.05."""
    slow = [loss + (0.055 if number < 20 else -0.2) for number, loss in enumerate(LOSSES)]
    verdict = compare([run("a"), run("b", slow, bundle=bundle(900))]).verdict
    assert verdict.winner == "b"
    found = verdict.difference
    assert (found.leads_from_tokens_without_bundle, found.leads_from_tokens) == (26_000, 32_000)
    assert found.area_bytes == pytest.approx((40 * 200 - 20 * 55) / math.log(2) / 8, rel=1e-9)
    assert (found.bundle_bytes, found.charges_bytes) == (-200, 0.0)
    assert found.difference_bytes == pytest.approx(found.area_bytes - 200, rel=1e-12)


def test_who_wins_by_the_program_alone_does_not_lead_without_it():
    found = compare(
        [run("long", lower(0.001), bundle=bundle(1700)), run("short", bundle=bundle(700))]
    ).verdict.difference
    assert (found.leads_from_tokens, found.leads_from_tokens_without_bundle) == (1000, None)
    assert (found.bundle_bytes, found.area_bytes < 0) == (1000, True)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 64), st.integers(0, 64)), min_size=1, max_size=30), st.integers(-400, 400))
def test_leads_are_those_of_a_plain_loop(pairs, bundle_bytes):
    """From which common boundary on the running totals never meet again, in exact numbers: nats by the ln 2."""
    runs = [
        Run(name, name, {}, intervals(*((1, math.log(2) * pair[side], {}) for pair in pairs)))
        for side, name in enumerate("ab")
    ]
    since, ahead = None, bundle_bytes
    for number, (ours, theirs) in enumerate(pairs, start=1):
        ahead += theirs - ours
        since = None if ahead <= 0 else since or number
    slack = 0.25  # no total is a fraction of a bit: what is 0 stays clearly at or below it
    assert leads_from(*runs, bundle_bytes - slack) == since


def test_charges_are_a_part_of_their_own():
    one, other = run("a"), run("b", lower(0.2))
    other = replace(other, charges={"switch": 80.0})
    found = compare([one, other]).verdict.difference
    assert found.charges_bytes == -10.0
    assert found.difference_bytes == pytest.approx(found.area_bytes + found.charges_bytes + found.bundle_bytes)


def test_there_is_a_difference_for_every_run_but_the_first():
    comparison = compare([run(name, lower(by)) for name, by in (("a", 0.0), ("b", 0.2), ("c", 0.1))])
    totals = [row.quantities["compressed_bytes"] for row in comparison.rows]
    assert [found.rival for found in comparison.differences] == ["c", "a"]
    assert [found.difference_bytes for found in comparison.differences] == [size - totals[0] for size in totals[1:]]
    assert comparison.verdict.difference == comparison.differences[0]


# -- what is forced ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", REFUSED)
def test_who_forces_a_comparison_gets_it_with_the_field_and_both_values(kind):
    options, message = REFUSED[kind]
    comparison = compare([run("a"), run("b", **options)], force=True)
    field = re.search("same ([a-z_ ]+), got", message)[1]
    mismatch = next(mismatch for mismatch in comparison.forced if mismatch.field == field)
    assert set(mismatch.values) == {"a", "b"}
    assert len(set(mismatch.values.values())) == 2
    assert comparison.verdict.difference_bytes >= 0


def test_data_that_nothing_identifies_can_be_forced():
    parts = [replace(part, fingerprint=0) for part in tallies(LOSSES)]
    runs = [load_run(book(f"{name}/book.jsonl", parts)) for name in "ab"]
    (mismatch,) = compare(runs, force=True).forced
    assert (mismatch.field, mismatch.values) == ("data fingerprint", {"a": "unknown", "b": "unknown"})


def test_what_need_not_be_forced_is_not_marked():
    runs = [run("a"), run("b", lower(0.2))]
    assert compare(runs, force=True) == compare(runs)


# -- the best of N -----------------------------------------------------------------------------------------------


def test_the_best_of_n_is_charged_in_its_own_row():
    """8 runs were tried, two are shown: 3 bits on the first, which the verdict counts."""
    runs = [run("a"), run("b", lower(0.2))]
    plain, charged = compare(runs), compare(runs, best_of=8)
    assert charged.rows[0].quantities["choice_bits"] == 3.0
    assert charged.rows[0].run.charges == {"best of 8 runs": 3.0}
    assert charged.rows[1].quantities == plain.rows[1].quantities
    assert charged.verdict.difference_bytes == pytest.approx(plain.verdict.difference_bytes - 3 / 8)
    assert (charged.verdict.choice_bits, charged.verdict.charged) == (3.0, True)
    assert any("b is charged log2 8 = 3 bits for having been chosen" in note for note in charged.notes)


def test_a_choice_that_costs_more_than_it_saves_is_a_tie():
    """One bit less, chosen among four: two bits."""
    one_bit = math.log(2) / 60_000
    runs = [run("a"), run("b", [value - one_bit for value in LOSSES])]
    assert compare(runs, best_of=4).verdict.winner is None
    assert compare(runs, best_of=4).verdict.difference_bytes == pytest.approx(-1 / 8)


def test_a_choice_is_charged_once_and_among_no_fewer_than_are_there():
    runs = [run("a"), run("b", lower(0.2))]
    with pytest.raises(ComparisonError, match="best of 2 runs or more, as so many are given, got 1"):
        compare(runs, best_of=1)
    runs[1] = replace(runs[1], charges={"best of 8 runs": 3.0})
    with pytest.raises(ComparisonError, match="whose book charges 'best of 8 runs'"):
        compare(runs, best_of=8)


# -- groups ------------------------------------------------------------------------------------------------------


def test_runs_are_grouped_by_a_setting_of_the_head():
    """Five runs of two precisions: lowest, middle and highest of each; the group with the shorter middle first."""
    sizes = {"a": 0.3, "b": 0.2, "c": 0.1, "d": 0.25, "e": 0.0}
    runs = [run(name, lower(by), precision="bf16" if name in "abc" else 32) for name, by in sizes.items()]
    comparison = compare(runs, group_by="precision")
    total = {row.name: row.quantities["compressed_bytes"] for row in comparison.rows}
    assert [(group.value, group.runs) for group in comparison.groups] == [("bf16", ("a", "b", "c")), ("32", ("d", "e"))]
    bf16, other = comparison.groups
    assert (bf16.lowest_bytes, bf16.median_bytes, bf16.highest_bytes) == (total["a"], total["b"], total["c"])
    assert other.median_bytes == pytest.approx((total["d"] + total["e"]) / 2)


def test_runs_are_grouped_by_the_configuration_in_their_bundle():
    """As a door writes it beside the book; a bundle that is not the one of the book is not believed."""
    runs = []
    for name, width in (("a", 8), ("b", 16)):
        packed = Bundle({"config.json": json.dumps({"module": {"width": width}}).encode()})
        packed.write(Path(name) / "bundle.tar.xz")
        manifest = packed.manifest() if name == "a" else bundle(700)
        runs.append(run(name, bundle=manifest))
    assert setting(runs[0], "module.width") == 8
    with pytest.raises(
        ComparisonError, match=r"expected a setting 'module.width' in b, which has name, grade, .*, \.\.\."
    ):
        compare(runs, group_by="module.width", force=True)


@pytest.mark.parametrize(
    ("key", "value"), [("a.b", 1), ("c.d", 2), ("c.e.f", 3), ("c", {"d": 2, "e.f": 3}), ("none", None)]
)
def test_a_dotted_path_finds_names_that_hold_dots(key, value):
    header = {"a.b": 1, "c": {"d": 2, "e.f": 3}, "none": None}
    assert setting(Run("x", "x", header, []), key) == value


# -- other sources -----------------------------------------------------------------------------------------------


def as_log(loaded):
    """Write what a door logs to a CSV logger at each interval; and read it. A log holds no rule of its bundle."""
    names = ("tokens", "nats", "coded_tokens", "raw_bytes", "bundle_bytes", "compressed_bytes")
    lines = [",".join(["step", *(f"prequential/{name}" for name in names)])]
    for number in range(1, len(loaded.intervals) + 1):
        values = replace(loaded, intervals=loaded.intervals[:number]).measured()
        lines.append(",".join([str(number), *(repr(values[name]) for name in names)]))
    path = Path(f"{loaded.name}.csv")
    path.write_text("\n".join(lines) + "\n")
    return load_run(path, data_name="corpus")


def test_books_and_the_logs_of_the_same_runs_have_one_verdict():
    """Winner, difference, interval, lead and parts; the log proves its data by its declared name."""
    runs = [run("a", data_name="corpus"), run("b", lower(0.2, noise=0.05), bundle=bundle(900), data_name="corpus")]
    books, logs = compare(runs).verdict, compare([as_log(loaded) for loaded in runs]).verdict
    assert (logs.winner, logs.rival) == (books.winner, books.rival) == ("b", "a")
    ours, theirs = (verdict.difference for verdict in (books, logs))
    for name in ("difference_bytes", "area_bytes", "interval_bytes"):
        assert getattr(theirs, name) == pytest.approx(getattr(ours, name), rel=1e-6), name
    for name in ("bundle_bytes", "leads_from_tokens", "leads_from_tokens_without_bundle"):
        assert getattr(theirs, name) == getattr(ours, name), name
