"""Views: every figure is there and true, whatever the width and whoever wrote the text."""

import math
import re
import subprocess
import sys

import pytest
from books import HEADER, book, tallies
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from prequential import REGISTRY, compare, load_run
from prequential.views import (
    baselines_table,
    bundle_table,
    comparison_record,
    comparison_table,
    run_record,
    run_table,
)
from prequential.views.figures import cost, count, gain, safe

LOSSES = [3 * (step + 1) ** -0.3 + 1 for step in range(60)]
DASH = "\N{EN DASH}"
EVIL = "[bold red]x[/] [/nope] \x1b[31m\x1b]8;;http://x\x07 \u202eabc\ud800 line\nbreak"


def drawn(renderable, width=80):
    """Draw what a terminal of this width shows, without styles."""
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable, crop=False)
    return capture.get()


def run(folder="a", losses=LOSSES, tokens=1000, **options):
    columns = {key: options.pop(key) for key in list(options) if key.endswith(("_tokens", "_nats"))}
    return load_run(book(f"{folder}/book.jsonl", tallies(losses, tokens=tokens, **columns), **options))


def row_of(text, label):
    """Words of the first line that begins with a label, after it."""
    return next(line.strip()[len(label) :].split() for line in text.splitlines() if line.strip().startswith(label))


# -- figures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (cost(1000.0), "1,000"),
        (cost(1000.0000001), "1,001"),
        (cost(0.1, 1), "0.1"),
        (cost(1e21), "1,000,000,000,000,000,000,000"),
        (gain(0.99996, 3), "0.999"),
        (gain(1.99999, 3), "1.999"),
        (gain(2.0, 3), "2.000"),
        (gain(-0.5), "-1"),
        (cost(None), DASH),
        (gain(None, 3), DASH),
        (count(None), DASH),
        (count(0), "0"),
        (count(1_400_000_000_000), "1,400,000,000,000"),
    ],
)
def test_figures_are_written_so_that_they_do_not_flatter(shown, expected):
    assert shown == expected


@given(st.floats(0, 1e18), st.integers(0, 6))
def test_costs_are_never_below_and_gains_never_above_the_value(value, digits):
    """And neither is further off than one unit of the last digit, but for what a float can hold."""
    up, down = (float(write(value, digits).replace(",", "")) for write in (cost, gain))
    assert down <= value <= up
    assert up - down <= 10**-digits + 4 * math.ulp(value)


def test_strangers_text_is_spelt_out():
    text = safe(EVIL).plain
    assert text.isprintable()
    assert text.startswith("[bold red]x[/] [/nope] \\x1b[31m")
    assert "line\\nbreak" in text


# -- one run ----------------------------------------------------------------------------------------------------


def test_every_column_of_the_accounting_is_on_the_balance_sheet():
    """The expected figures by hand: 60,000 nats and 3 uncoded tokens an interval at 8 bits, 700 bytes of bundle."""
    one = run(
        losses=[1.0] * 60,
        uncoded_tokens=3,
        uncoded_nats=3 * math.log(256),
        masked_tokens=5,
        replayed_tokens=7,
        nonfinite_tokens=2,
    )
    text = drawn(run_table(one))
    data_bits = 60_000 / math.log(2)
    assert row_of(text, "coded") == ["60,000", f"{math.ceil(data_bits):,}", f"{math.ceil(data_bits / 8):,}"]
    assert row_of(text, "uncoded") == ["180", "1,440", "180"]
    assert row_of(text, "bundle (xz -9e)") == ["5,600", "700"]
    total_bits = data_bits + 1440 + 5600
    total = ["60,180", f"{math.ceil(total_bits):,}", f"{math.ceil(total_bits / 8):,}"]
    assert row_of(text, "total") == total
    assert row_of(text, "masked") == ["300", "free", "free"]
    assert row_of(text, "replayed") == ["420", "free", "free"]
    assert row_of(text, "non-finite (in coded)") == ["120"]
    assert row_of(text, "compression ratio")[0] == f"{math.floor(60_000 / (total_bits / 8) * 1000) / 1000:.3f}"
    assert row_of(text, "bits per byte")[0] == f"{math.ceil((data_bits + 1440) / 60_000 * 10_000) / 10_000:.4f}"
    assert row_of(text, "final loss")[0] == "1.0000"
    assert f"{total[2]} compressed bytes = " in text


def test_how_far_to_trust_a_run_is_said():
    text = drawn(run_table(run(events=[("doubt", "the loss was odd")], status=None)), width=200)
    assert row_of(text, "grade") == ["ideal"]
    assert row_of(text, "single pass")[0] == "unknown:"
    assert row_of(text, "measured by") == ["capture"]
    assert "step 60: the loss was odd" in text
    assert "a (open)" in text


def test_what_is_unknown_is_a_dash():
    one = run(bundle=None, bytes_known=False, vocab_size=None, uncoded_tokens=1)
    text = drawn(run_table(one))
    for label in ("raw bytes", "compression ratio", "bits per byte", "uniform code", "ratio to uniform"):
        assert row_of(text, label)[0] == DASH, label
    assert row_of(text, "bundle") == [DASH, DASH]
    assert row_of(text, "uncoded") == ["60", DASH, DASH]
    assert "the total lacks the training program" in text


def test_baselines_are_sorted_by_size_with_this_run_among_them():
    total = run().measured()["compressed_bytes"]
    text = drawn(run_table(run("b", baselines={"big": 10**6, "tiny": 5, "middle": int(total) - 1})))
    lines = text[text.index("same data under") :].splitlines()
    names = [re.split(r"\s{2,}", line.strip())[0] for line in lines[2:6]]
    assert names == ["tiny", "middle", "this run", "big"]


@pytest.mark.parametrize("grade", ["estimate", "surrogate"])
def test_an_estimate_says_so_wherever_its_total_is_shown(grade):
    one = run(grade=grade, baselines={"big": 10**6})
    text = drawn(run_table(one))
    total = cost(one.measured()["compressed_bytes"])
    assert all(
        "(estimate)" in line for line in text.splitlines() if total in line and not line.strip().startswith("total")
    )
    other = run("b", grade=grade)
    assert drawn(comparison_table(compare([one, other])), 120).count("(estimate)") == 2


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_no_figure_is_cut_at_any_width(width):
    """Not even 14-digit ones in a narrow terminal: then the table is wider than it."""
    runs = [run(name, tokens=20_000_000_000, name=f"run_{name}_" + "long_name_" * 12) for name in "ab"]
    text = drawn(comparison_table(compare(runs)), width)
    values = runs[0].measured()
    assert text.count(cost(values["compressed_bytes"])) == 2
    assert text.count(cost(values["final_nats_per_token"], 4)) == 2
    assert "…" not in text
    text = drawn(run_table(runs[0]), width)
    assert cost(values["description_bits"]) in text
    assert width < 40 or cost(values["uniform_bytes"]) in text
    assert "…" not in text


def test_tables_with_usual_figures_fit_80_columns():
    runs = [run(name, tokens=2_000_000, name=f"run-{name}-" + "long-" * 9) for name in "ab"]
    text = drawn(comparison_table(compare(runs))) + drawn(run_table(runs[0]))
    assert max(map(len, text.splitlines())) <= 80


def test_text_from_outside_is_shown_as_it_is_and_runs_nothing():
    one = run(name=EVIL, measure=EVIL, grade=EVIL, baselines={EVIL: 5}, events=[("doubt", EVIL)])
    one.warnings.append(EVIL)
    other = run("b", name=EVIL + "2", grade=EVIL, measure=EVIL)
    evil_bundle = {
        **HEADER["bundle"],
        "files": [{"name": EVIL, "bytes": 1}],
        "packages": {EVIL: EVIL},
        "warnings": [EVIL],
    }
    for table in (
        run_table(one),
        comparison_table(compare([one, other])),
        bundle_table(evil_bundle),
        baselines_table({EVIL: 1}),
    ):
        text = drawn(table, 400)
        assert "[bold red]x[/] [/nope] \\x1b[31m" in text
        assert all(character.isprintable() for line in text.split("\n") for character in line)


# -- comparisons ------------------------------------------------------------------------------------------------


def test_the_verdict_is_a_sentence_with_the_interval():
    runs = [run(), run("b", [loss - 0.1 for loss in LOSSES])]
    comparison = compare(runs)
    text = drawn(comparison_table(comparison), 200)
    saved = math.floor(comparison.verdict.difference_bytes)
    low, high = comparison.verdict.interval_bytes
    assert f"Winner: b, by {saved:,} bytes over a (95 % interval {math.floor(low):,} to {math.ceil(high):,})." in text
    assert "reported as the best of 2 runs, b costs" in text


def test_a_tie_is_called_within_noise():
    text = drawn(comparison_table(compare([run(), run("b")])), 200)
    assert "Tie: a needs 0 bytes less than b, within noise (95 % interval 0 to 0)." in text


def test_without_raw_bytes_runs_are_held_against_the_uniform_code():
    options = {"bytes_known": False, "token_bytes": None}
    runs = [run("a", **options), run("best", [loss - 0.1 for loss in LOSSES], **options)]
    text = drawn(comparison_table(compare(runs)))
    values = compare(runs).rows[0].quantities
    assert row_of(text, "best")[3:5] == [gain(values["uniform_ratio"], 3), cost(values["bits_per_token"], 4)]
    assert "ratio of uniform to total bytes" in text
    assert "token" in text


def test_no_interval_is_said():
    runs = [run(losses=LOSSES[:4]), run("b", [loss - 0.1 for loss in LOSSES[:4]])]
    assert "over a (no interval)" in drawn(comparison_table(compare(runs)), 200)


def test_the_table_says_since_when_the_winner_leads_and_of_what_the_difference_is():
    """The figures are those of the comparison; what is gained is rounded down."""
    comparison = compare(
        [run(), run("b", [loss - 0.1 for loss in LOSSES], bundle={**HEADER["bundle"], "bundle_bytes": 900})]
    )
    text = drawn(comparison_table(comparison), 200)
    found = comparison.verdict.difference
    area = math.floor(found.area_bytes)
    assert f"Area {area:,} bytes, bundle -200; b leads from token {found.leads_from_tokens:,} on, " in text
    assert f"without the bundle from token {found.leads_from_tokens_without_bundle:,} on." in text


def test_three_runs_have_a_table_of_how_far_each_is_behind():
    comparison = compare([run(), run("b", [loss - 0.1 for loss in LOSSES]), run("c", [loss - 0.05 for loss in LOSSES])])
    text = drawn(comparison_table(comparison), 200)
    lines = text[text.index("behind from") :].splitlines()
    rows = [line.split() for line in lines if line.startswith(("a ", "c "))]
    for row, found in zip(rows, comparison.differences, strict=True):
        low, high = found.interval_bytes
        expected = [gain(found.difference_bytes), gain(low), cost(high), gain(found.area_bytes), "0", "1,000"]
        assert row == [found.rival, *expected]


def test_a_forced_comparison_is_marked_in_table_and_record():
    comparison = compare([run(), run("b", LOSSES[:50], name=EVIL)], force=True)
    text = drawn(comparison_table(comparison), 400)
    assert "FORCED: these runs are not comparable, they differ in tokens, data fingerprint and raw_bytes." in text
    assert re.search(r"tokens: 60,000 in a, 50,000 in \[bold red\]x", text) or re.search(
        r"tokens: 50,000 in .*, 60,000 in a", text
    )
    assert [mismatch["field"] for mismatch in comparison_record(comparison)["forced"]] == [
        "tokens",
        "data fingerprint",
        "raw_bytes",
    ]


def test_groups_have_a_table():
    runs = [
        run(name, [loss - by for loss in LOSSES], seed=seed)
        for name, by, seed in (("a", 0, 1), ("b", 0.1, 1), ("c", 0.2, 2))
    ]
    comparison = compare(runs, group_by="seed")
    text = drawn(comparison_table(comparison), 200)
    total = {row.name: cost(row.quantities["compressed_bytes"]) for row in comparison.rows}
    assert ["seed", "runs", "lowest", "median", "highest"] in [line.split() for line in text.splitlines()]
    assert ["2", "1", total["c"], total["c"], total["c"]] in [line.split() for line in text.splitlines()]
    record = comparison_record(comparison)
    assert (record["group_by"], [group["runs"] for group in record["groups"]]) == ("seed", [["c"], ["b", "a"]])


COLD = """
import sys
from prequential.cli import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    assert not done.code, done.code
heavy = {"torch", "lightning", "wandb", "scipy", "pandas", "transformers", "altair", "vl_convert"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "arguments", [("show", "a"), ("compare", "a", "b"), ("shared", "a", "b", "--from-token", "60000")]
)
def test_tables_wait_for_no_heavy_package(arguments):
    """From a cold start, to the last line."""
    run(), run("b", [*LOSSES, *LOSSES] if arguments[0] == "shared" else LOSSES)
    subprocess.run([sys.executable, "-c", COLD, *arguments], check=True, capture_output=True)


# -- bundles and baselines --------------------------------------------------------------------------------------


def test_a_bundle_shows_files_sizes_packages_and_warnings():
    manifest = {**HEADER["bundle"], "packages": {"torch": "2.13.0"}, "warnings": ["x looks like data"]}
    text = drawn(bundle_table(manifest))
    assert row_of(text, "train.py") == ["1,500"]
    assert [row_of(text, rule) for rule in ("raw", "zip", "zstd -22")] == [["2,048"], ["900"], ["750"]]
    assert "700 bundle bytes under xz -9e" in text
    assert "torch 2.13.0" in text
    assert "x looks like data" in text


def test_long_file_names_fold_and_keep_every_character():
    name = "/".join(f"folder{n}" for n in range(30)) + "/train.py"
    text = drawn(bundle_table({**HEADER["bundle"], "files": [{"name": name, "bytes": 123_456}]}))
    assert "123,456" in text
    assert name in re.sub(r"[\s]|123,456", "", text)


def test_baselines_are_sorted_by_size():
    text = drawn(baselines_table({"uniform": 900, "xz -9e": 30, "gzip -9": 400}))
    assert text.index("xz -9e") < text.index("gzip -9") < text.index("uniform")


# -- records ----------------------------------------------------------------------------------------------------

DOCUMENTED = {
    "charges",
    "length",
    "sources",
    "rescore",
    "rescored",
    "nats_standard_error",
    "name",
    "grade",
    "status",
    "single_pass",
    "single_pass_reasons",
    "given_weights",
    "measure",
    "bundle_sha256",
    "warnings",
    "baselines",
    "model_bits_in_sample",
    "catch_up",
}


def test_the_keys_of_records_are_those_of_the_registry_and_a_few_documented_words():
    one, other = run(), run("b")
    assert set(run_record(one)) - set(REGISTRY) == DOCUMENTED
    record = comparison_record(compare([one, other]))
    assert set(record) == {
        *("runs", "verdict", "differences", "forced", "group_by", "groups", "notes", "baselines"),
    }
    difference = {
        *("rival", "difference_bytes", "interval_bytes", "area_bytes", "charges_bytes", "bundle_bytes"),
        *("leads_from_tokens", "leads_from_tokens_without_bundle"),
    }
    assert set(record["verdict"]) == {"winner", "choice_bits", "choice_charged", *difference}
    assert [set(found) for found in record["differences"]] == [difference]
    for row in record["runs"]:
        assert set(row) - set(REGISTRY) == {"name"}


def test_what_is_unknown_is_none_in_records():
    record = run_record(run(bundle=None, bytes_known=False, vocab_size=None, uncoded_tokens=1))
    unknown = {"bundle_bytes", "bundle_sha256", "uncoded_bits", "raw_bytes", "compression_ratio", "uniform_ratio"}
    assert {name for name in unknown if record[name] is None} == unknown


def test_a_run_reads_the_same_alone_and_in_a_comparison_that_ends_in_a_tie():
    one, other = run(), run("b")
    rows = comparison_record(compare([one, other]))["runs"]
    for row, alone in zip(rows, (run_record(one), run_record(other)), strict=True):
        assert row == {name: alone[name] for name in row}


def test_other_codes_stand_among_the_runs_by_size():
    """A code between two runs is printed between them, without a bundle and a loss."""
    sizes = {"xz -9e": 17_000}
    comparison = compare([run(baselines=sizes), run("b", [loss / 2 for loss in LOSSES], baselines=sizes)])
    b, a = (row.quantities["compressed_bytes"] for row in comparison.rows)
    assert b < 17_000 < a < 60_000
    lines = [line.split() for line in drawn(comparison_table(comparison), 200).splitlines()]
    assert [line[0] for line in lines if line and line[0] in ("a", "b", "xz", "raw")] == ["b", "xz", "a", "raw"]
    assert ["xz", "-9e", "17,000", "3.529", "2.2667"] in lines


def test_the_model_bits_are_those_of_the_floor_that_is_named():
    """By hand: the area above the mean of the last 5 %, three intervals of 60; the lowest such mean while it runs."""
    losses = [*LOSSES[:57], 2.5, 2.5, 2.5]  # it rises at the end
    lowest = (LOSSES[54] + LOSSES[55] + LOSSES[56]) / 3
    bits = [1000 * (math.fsum(losses) - 60 * floor) / math.log(2) for floor in (2.5, lowest)]
    ended, open_ = run(losses=losses), run("b", losses=losses, status=None)
    for one, expected, words in (
        (ended, bits[0], "above the final loss (est"),
        (open_, bits[1], "above the lowest loss so"),
    ):
        text = drawn(run_table(one))
        assert row_of(text, "model bits")[0] == (f"{math.ceil(expected):,}")
        assert words in text
    records = run_record(ended), run_record(open_)
    assert records[0]["model_bits_in_sample"] == pytest.approx(bits[0])
    assert records[1]["model_bits_in_sample"] is None
    assert records[1]["model_bits_estimate"] == pytest.approx(bits[1])


def test_from_which_token_on_a_run_is_shorter_than_other_codes():
    """By hand: 60,000 raw bytes, bundle 700; xz at 30,000 bytes is 0.5 a byte, gzip is never reached."""
    lead = [0.5 * 1000 * (n + 1) - 700 - 1000 * math.fsum(LOSSES[: n + 1]) / math.log(2) / 8 for n in range(60)]
    since = 1000 * (max(n for n in range(60) if lead[n] <= 0) + 2)
    one = run(baselines={"xz -9e": 30_000, "gzip -9": 100, "uniform": 60_000})
    text = drawn(run_table(one))
    assert row_of(text, "xz -9e") == ["30,000", f"{since:,}"]
    assert row_of(text, "gzip -9") == ["100", DASH]
    assert "shorter from" in text
    found = {code["name"]: code["tokens"] for code in run_record(one)["catch_up"]}
    assert (found["xz -9e"], found["gzip -9"]) == (since, None)
