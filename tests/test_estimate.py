"""A description length from published figures: the arithmetic by hand, and runs that stand beside others."""

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from prequential import compare, load_run
from prequential.cli import main
from prequential.errors import SourceError
from prequential.sources.published import published_run

LLAMA = ["--tokens", "1.4e12", "--nats-per-token", "1.584", "--bundle-bytes", "1e6"]


def estimate(*arguments):
    result = CliRunner().invoke(main, ["estimate", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_llama_65b_is_14_to_1():
    """400 GB and 1 MB for 5.6 TB; the mixture of the paper, 5.24 TB of epochs, makes 13.1."""
    record = json.loads(estimate(*LLAMA, "--raw-bytes", "5.6e12", "--json"))
    assert record["compressed_bytes"] == pytest.approx(1.4e12 * 1.584 / math.log(2) / 8 + 1e6, rel=1e-15)
    assert record["compressed_bytes"] == pytest.approx(400e9 + 1e6, rel=3e-4)
    assert record["compression_ratio"] == pytest.approx(14.0, abs=0.005)
    assert record["bundle_bytes"] == 1_000_000
    mixture = json.loads(estimate(*LLAMA, "--raw-bytes", "5.24e12", "--json"))
    assert mixture["compression_ratio"] == pytest.approx(13.1, abs=0.005)


def test_it_is_an_estimate_that_claims_no_more_than_it_knows():
    """Grade, verdict on passes, and no loss at the end of training, of which the mean says nothing."""
    record = json.loads(estimate(*LLAMA, "--json"))
    assert (record["grade"], record["single_pass"], record["compression_ratio"]) == ("estimate", "unknown", None)
    assert record["final_nats_per_token"] is None
    assert "cannot prove" in " ".join(record["warnings"])


def test_the_last_digit_is_taken_for_rounded():
    """A figure of three decimals is uniform within half a thousandth: its standard error is 0.001 / sqrt 12."""
    run = published_run(tokens=1000, nats_per_token=1.584)
    assert run.nats_standard_error == pytest.approx(1000 * 0.001 / math.sqrt(12))
    assert published_run(tokens=1000, nats_per_token=2.0).nats_standard_error == pytest.approx(100 / math.sqrt(12))


def test_books_of_estimates_compare():
    """The same program and data at a higher loss is the worse compressor, by the difference of two products."""
    data = ["--raw-bytes", "5.6e12", "--data-name", "LLaMA's mixture"]
    estimate(*LLAMA, *data, "--name", "65B", "-o", "65B")
    estimate("--tokens", "1.4e12", "--nats-per-token", "1.65", "--bundle-bytes", "1e6", *data, "-o", "33B")
    verdict = compare([load_run("33B"), load_run("65B")]).verdict
    assert verdict.winner == "65B"
    assert verdict.difference_bytes == pytest.approx(1.4e12 * 0.066 / math.log(2) / 8, rel=1e-9)
    assert (
        load_run("65B").measured()
        == published_run(tokens=1.4e12, nats_per_token=1.584, bundle_bytes=1e6, raw_bytes=5.6e12).measured()
    )


def test_a_program_that_carries_the_data_gains_nothing():
    """Loss 0, and a bundle of the data's size: the ratio is 1."""
    run = published_run(tokens=1e9, nats_per_token=0.0, bundle_bytes=4e9, raw_bytes=4e9)
    assert run.measured()["compression_ratio"] == 1.0


@pytest.mark.parametrize(
    ("figures", "named"),
    [
        ({"tokens": 0}, "tokens"),
        ({"tokens": 0.5}, "tokens"),
        ({"tokens": math.inf}, "tokens"),
        ({"nats_per_token": -1.0}, "nats_per_token"),
        ({"nats_per_token": math.nan}, "nats_per_token"),
        ({"raw_bytes": -1}, "raw_bytes"),
        ({"bundle_bytes": math.nan}, "bundle_bytes"),
    ],
)
def test_figures_that_make_no_sense_are_refused_by_name(figures, named):
    with pytest.raises(SourceError, match=f"expected.*{named}"):
        published_run(**{"tokens": 10, "nats_per_token": 1.0, **figures})


def test_an_existing_book_is_left_alone():
    estimate(*LLAMA, "-o", "run")
    before = Path("run/book.jsonl").read_bytes()
    result = CliRunner().invoke(main, ["estimate", *LLAMA, "-o", "run"])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert Path("run/book.jsonl").read_bytes() == before
