"""The arithmetic: laws of the tally, worked answers from published numbers, one name for each quantity."""

import gzip
import lzma
import math
import struct
from dataclasses import fields, replace
from functools import reduce
from operator import add
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prequential import REGISTRY, Meter, Tally
from prequential.codelength import nats_to_bits, quantities

DATA = Path(__file__).parents[2] / "shared" / "data"

counts = st.integers(0, 2**62)
# Multiples of 2**-10 up to 2**20: their sums are exact in float64, so that the laws can be held to equality.
exact_nats = st.integers(0, 2**30).map(lambda n: n / 1024)
tallies = st.builds(
    Tally,
    **{
        field.name: exact_nats if isinstance(field.default, float) else counts
        for field in fields(Tally)
        if field.name != "fingerprint"
    },
    fingerprint=st.integers(0, 2**64 - 1),
)


@given(tallies, tallies, tallies)
def test_tallies_add_in_any_order_and_grouping(a, b, c):
    """``+`` is associative and commutative, and the total is the same."""
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert Tally.total([c, a, b]) == a + b + c


@given(tallies)
def test_the_empty_tally_is_neutral(tally):
    """Adding nothing changes nothing."""
    assert tally + Tally() == Tally() + tally == tally == Tally.total([tally])
    assert Tally.total([]) == Tally()


@given(tallies)
def test_the_columns_add_up_to_the_positions(tally):
    """Every position lies in exactly one column."""
    ignored = tally.masked_tokens + tally.padding_tokens
    columns = tally.coded_tokens + tally.uncoded_tokens + ignored + tally.replayed_tokens
    assert tally.positions == columns
    assert tally.tokens == columns - ignored - tally.replayed_tokens


@given(tallies)
def test_replay_is_free_and_loses_no_position(tally):
    """Every position is still in one column, and nothing is charged but what nothing predicted."""
    replay = tally.as_replay()
    assert replay.positions == tally.positions
    assert (replay.nats, replay.coded_tokens, replay.raw_bytes, replay.fingerprint) == (0.0, 0, 0, 0)
    assert replay.nats + replay.replayed_nats == tally.nats + tally.replayed_nats
    assert replay.as_replay() == replay


def test_a_tally_adds_to_nothing_else():
    """Adding a number is an error, not a surprise."""
    with pytest.raises(TypeError):
        Tally() + 1.0


def test_many_small_sums_lose_nothing():
    """A million intervals that a plain sum would round are added exactly."""
    tenths = [0.1] * 1_000_000
    assert Tally.total(Tally(nats=tenth) for tenth in tenths).nats == math.fsum(tenths) == 100_000
    assert reduce(add, tenths) != 100_000


def measured(tally, **options):
    """Quantities with the options that most tests share."""
    return quantities(tally, **{"bundle_bytes": 0, "bytes_known": True, "vocab_size": None, **options})


def test_llama_65b_is_a_compressor_of_fourteen_to_one():
    """1.4 T tokens at 1.584 nats, 4 bytes a token, 1 MB of code: 400 GB and 14.0x (Rae, Compression for AGI)."""
    tokens = 1_400_000_000_000
    tally = Tally(nats=1.584 * tokens, coded_tokens=tokens, raw_bytes=4 * tokens)
    values = measured(tally, bundle_bytes=1_000_000, vocab_size=32_000)
    assert values["compressed_bytes"] == pytest.approx(400e9, rel=0.001)
    assert values["raw_bytes"] == 5.6e12
    assert round(values["compression_ratio"], 1) == 14.0
    assert values["bits_per_byte"] == pytest.approx(1.584 / math.log(2) / 4)
    larger_area = measured(replace(tally, nats=1.62 * tokens), bundle_bytes=1_000_000)
    assert larger_area["compression_ratio"] < values["compression_ratio"]


def test_the_description_length_is_the_sum_of_its_charges():
    """Data, uncoded tokens, choices and the bundle, against a sum written out by hand."""
    tally = Tally(nats=800 * math.log(2), coded_tokens=100, uncoded_tokens=3, uncoded_nats=3 * math.log(256))
    values = measured(tally, bundle_bytes=7, choice_bits=3.0, bytes_known=False, vocab_size=256)
    assert values["description_bits"] == pytest.approx(800 + 3 * 8 + 3 + 8 * 7, abs=1e-9)
    assert values["compressed_bytes"] == values["description_bits"] / 8
    assert values["uniform_bytes"] == 103
    assert values["uniform_ratio"] == pytest.approx(103 / (883 / 8))
    assert values["compression_ratio"] is values["bits_per_byte"] is values["raw_bytes"] is None


def test_nothing_measured_is_unknown_not_a_division_by_zero():
    """An empty run has a size of its bundle alone and no rates."""
    values = measured(Tally(), bundle_bytes=10)
    assert values["compressed_bytes"] == 10
    assert values["bits_per_byte"] is values["bits_per_token"] is None
    assert measured(Tally())["compression_ratio"] is None


@given(st.binary(min_size=1, max_size=4000))
def test_a_bundle_that_contains_the_data_gains_nothing(data):
    """|f| >= |D|, whatever the loss: the ratio of incompressible data carried in the program is at most 1."""
    program = b"print(" + data + b")"
    values = measured(Tally(coded_tokens=len(data), raw_bytes=len(data)), bundle_bytes=len(program))
    assert values["data_bits"] == 0
    assert values["compression_ratio"] <= 1


def test_the_uniform_code_costs_log2_v_a_token():
    """60,000 labels in 10 classes: 199,315.7 bits, by the meter and by the formula."""
    labels = torch.arange(60_000) % 10
    meter = Meter()
    for start in range(0, 60_000, 4096):
        part = labels[start : start + 4096]
        meter.update(logits=torch.zeros(len(part), 10), targets=part)
    bits = nats_to_bits(meter.read().nats)
    assert bits == pytest.approx(60_000 * math.log2(10), rel=1e-9)
    assert round(bits, 1) == 199_315.7


@pytest.mark.skipif(not DATA.exists(), reason="the folder of real data is not here")
def test_the_uniform_code_over_the_real_labels_of_mnist():
    """The same on the labels themselves."""
    content = lzma.decompress((DATA / "images" / "mnist-train-labels-idx1-ubyte.xz").read_bytes())
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    magic, count = struct.unpack(">II", content[:8])
    assert (magic, count) == (2049, 60_000)
    labels = torch.frombuffer(bytearray(content[8:]), dtype=torch.uint8).long()
    meter = Meter()
    meter.update(logits=torch.full((count, 10), -3.0), targets=labels)
    reading = meter.read()
    assert reading.coded_tokens == 60_000
    assert round(nats_to_bits(reading.nats), 1) == 199_315.7


def test_the_registry_names_every_quantity_once():
    """What is measured is registered under its own name, in order, with a sentence."""
    assert all(name == quantity.name for name, quantity in REGISTRY.items())
    values = list(measured(Tally()))
    assert values == [name for name in REGISTRY if name in values]
    unmeasured = set(REGISTRY) - set(values)
    estimates = {name for name in unmeasured if name.startswith("forecast_")} | {
        "model_bits_estimate",
        "planned_tokens",
    }
    assert unmeasured - estimates == {"interval_bits_per_byte", "interval_bits_per_token", "final_nats_per_token"}
    for quantity in REGISTRY.values():
        assert quantity.sentence.endswith(".")
        assert quantity.better in ("lower", "higher", "")
