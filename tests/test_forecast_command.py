"""The forecast of a run where a person looks for it: the command, its table and JSON, the band in the charts."""

import json
import math
import re

import numpy as np
import pytest
from books import book, tallies
from click.testing import CliRunner

from prequential import load_run
from prequential.cli import main
from prequential.forecast import forecast, forecast_run
from prequential.views.chart import run_chart
from prequential.views.page import page, picture

LOSSES = 1 + 3 * np.arange(1, 301) ** -0.3 + 0.05 * np.random.default_rng(0).standard_normal(300)


@pytest.fixture(autouse=True)
def run():
    """Three tenths of a run of a million tokens, each a byte."""
    return load_run(book("a/book.jsonl", tallies(LOSSES), name="rose", status=None, planned_tokens=1_000_000))


def call(*arguments):
    return CliRunner().invoke(main, ["forecast", *arguments])


def strict(text):
    return json.loads(text, parse_constant=lambda constant: pytest.fail(constant))


def test_the_json_holds_the_forecast_beside_the_quantities_so_far(run):
    """The second route for the data code: the arithmetic of `forecast` on plain arrays."""
    found = strict(call("a", "--tokens", "1000000", "--json").output)
    shown = strict(CliRunner().invoke(main, ["show", "a", "--json"]).output)
    assert {name: found[name] for name in shown} == shown
    plain = forecast(np.arange(1, 301) * 1000, LOSSES * 1000, 1_000_000)
    assert found["forecast_data_bits"] == pytest.approx(plain.nats / math.log(2), rel=1e-12)
    ends = [plain.low_nats / math.log(2), plain.high_nats / math.log(2)]
    assert found["forecast_data_bits_interval"] == pytest.approx(ends, rel=1e-12)
    assert found["forecast_compressed_bytes"] == pytest.approx(plain.nats / math.log(2) / 8 + 700, rel=1e-12)
    assert (found["forecast_tokens"], found["forecast_confidence"], found["forecast_raw_bytes"]) == (10**6, 0.9, 10**6)
    ratio = 10**6 / found["forecast_compressed_bytes"]
    assert found["forecast_compression_ratio"] == pytest.approx(ratio, rel=1e-12)
    low, high = found["forecast_compression_ratio_interval"]
    assert low < ratio < high


def test_the_table_says_that_it_is_an_estimate_and_how_sure(run):
    output = call("a").output
    found = forecast_run(run, 1_000_000)
    assert "rose (open): 30 % of 1,000,000 tokens seen" in output
    assert "estimate" in output
    assert "90 % interval" in output
    low, high = found["forecast_compressed_bytes_interval"]
    middle = found["forecast_compressed_bytes"]
    expected = [f"{math.ceil(middle):,}", f"{math.floor(low):,}", f"{math.ceil(high):,}"]
    row = next(line.split() for line in output.splitlines() if line.startswith("compressed bytes"))
    assert row[3:] == expected
    ratio = next(line.split() for line in output.splitlines() if line.startswith("compression ratio"))
    assert ratio[3] == f"{math.floor(1000 * found['forecast_compression_ratio']) / 1000:.3f}"
    assert "50 % interval" in call("a", "--confidence", "0.5").output


def test_a_forecast_that_is_too_early_says_so():
    for tokens, checked in (("3000000", True), ("3000001", False)):
        assert strict(call("a", "--tokens", tokens, "--json").output)["forecast_checked"] is checked
        assert ("Too early: less than a tenth" in call("a", "--tokens", tokens).output) is not checked


def test_planned_tokens_are_the_default_and_raw_bytes_may_be_told():
    by_plan, told = (strict(call("a", *more, "--json").output) for more in ([], ["--tokens", "1000000"]))
    assert by_plan == told
    half = strict(call("a", "--raw-bytes", "500000", "--json").output)
    assert half["forecast_compression_ratio"] == pytest.approx(by_plan["forecast_compression_ratio"] / 2)
    assert half["forecast_data_bits"] == by_plan["forecast_data_bits"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--tokens", "5"], "at least the 300,000 seen, got 5"),
        (["a", "--tokens", "9" * 400], "at least the 300,000 seen, got 2,000,000"),
        (["a", "--raw-bytes", "5"], "raw_bytes of at least the 300,000 seen"),
        (["a", "--confidence", "1"], "confidence above 0 and below 1"),
        (["a", "--confidence", "nan"], "confidence above 0 and below 1"),
        (["a", "--decay-share", "2"], "decay_share above 0"),
        (["unplanned"], "expected --tokens N: unplanned/book.jsonl does not say"),
        (["short"], "at least 6 intervals"),
        (["empty"], "nothing was seen yet"),
        (["nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_forecast_is_one_line(arguments, message):
    book("unplanned/book.jsonl", tallies(LOSSES), status=None)
    book("short/book.jsonl", tallies(LOSSES[:4]), planned_tokens=10**6)
    book("empty/book.jsonl", [], status=None, planned_tokens=10**6)
    result = call(*arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert message in result.stderr


def test_a_run_without_bytes_has_no_ratio():
    book("tokens/book.jsonl", tallies(LOSSES), status=None, planned_tokens=10**6, bytes_known=False)
    found = strict(call("tokens", "--json").output)
    assert (found["forecast_compression_ratio"], found["forecast_raw_bytes"]) == (None, None)
    assert "ratio" not in call("tokens").output
    assert "compression ratio" in call("tokens", "--raw-bytes", "1000000").output


def test_the_error_of_an_imported_sum_widens_the_interval():
    """In quadrature, from the normal distribution: 1.6449 standard errors on each side of 90 %."""
    plain = forecast(np.arange(1, 301) * 1000, LOSSES * 1000, 1_000_000)
    wide = forecast(np.arange(1, 301) * 1000, LOSSES * 1000, 1_000_000, standard_error_nats=50_000.0)
    half, wider = plain.high_nats - plain.nats, wide.high_nats - wide.nats
    assert wider == pytest.approx(math.hypot(half, 1.6448536 * 50_000), rel=1e-6)
    book("log/book.jsonl", tallies(LOSSES), status=None, nats_standard_error=50_000.0)
    found = forecast_run(load_run("log"), 1_000_000)
    assert found["forecast_data_bits_interval"][1] == pytest.approx(wide.high_nats / math.log(2))
    at_end = forecast_run(load_run("log"), 300_000)
    assert at_end["forecast_data_bits_interval"][0] < at_end["forecast_data_bits"]


class TestCharts:
    def test_the_band_begins_at_the_run_and_ends_at_its_forecast(self, run):
        rows = run_chart([run])["datasets"]["ahead"]
        now, found = run.measured(), forecast_run(run, 1_000_000)
        size = now["compressed_bytes"]
        assert [rows[0][name] for name in ("tokens", "compressed_low", "compressed", "compressed_high")] == [
            300_000,
            *[size] * 3,
        ]
        assert rows[-1]["tokens"] == 1_000_000
        assert rows[-1]["compressed"] == found["forecast_compressed_bytes"]
        assert [rows[-1][f"compressed_{end}"] for end in ("low", "high")] == found["forecast_compressed_bytes_interval"]
        assert [rows[-1][f"ratio_{end}"] for end in ("low", "high")] == found["forecast_compression_ratio_interval"]
        assert all(row["compressed_low"] <= row["compressed"] <= row["compressed_high"] for row in rows)

    def test_a_run_that_has_ended_or_has_no_plan_has_no_band(self):
        ended = load_run(book("b/book.jsonl", tallies(LOSSES), planned_tokens=10**6))
        unplanned = load_run(book("c/book.jsonl", tallies(LOSSES), status=None))
        short = load_run(book("d/book.jsonl", tallies(LOSSES[:3]), status=None, planned_tokens=10**4))
        for one in (ended, unplanned, short):
            assert "ahead" not in run_chart([one])["datasets"]
            assert "forecast" not in json.dumps(run_chart([one]))

    def test_page_and_picture_draw_it(self, run):
        (specification,) = re.findall(r'id="specification">(.*?)</script>', page([run]), flags=re.DOTALL)
        assert json.loads(specification)["datasets"]["ahead"]
        assert picture([run], "png").startswith(b"\x89PNG")
        assert "forecast (dotted) with its 90 % band" in picture([run], "svg").decode()
