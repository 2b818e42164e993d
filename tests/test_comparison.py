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
from hypothesis import given
from hypothesis import strategies as st

from prequential import compare, load_run
from prequential.codelength import Tally
from prequential.comparison.alignment import Cells
from prequential.comparison.noise import half_width_nats, half_width_of, joined, student_t
from prequential.errors import ComparisonError
from prequential.run import Interval, Run

COLUMNS = ("seed", "masked_tokens", "uncoded_tokens", "uncoded_nats", "replayed_tokens", "nonfinite_tokens")
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


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=200), st.sampled_from([8, 16, 32]))
def test_blocks_hold_all_cells_once(sizes, number):
    """Joining loses no token and keeps the order: each cell costs what it holds, so that blocks must as well."""
    cells = Cells(np.cumsum(sizes), np.array(sizes, float))
    blocks = joined(cells, number)
    assert blocks.tokens.sum() == sum(sizes)
    assert blocks.tokens.tolist() == blocks.nats.tolist()
    assert set(blocks.tokens.cumsum().tolist()) <= set(cells.ends.tolist())


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
