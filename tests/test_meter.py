"""The meter: logits and targets in, sums of -ln p out."""

import math
import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from prequential.codelength import Tally
from prequential.errors import MeasureError
from prequential.meter import Meter, on_device, read_sums
from prequential.scoring import nats_per_token, pair_sum, two_sum

VOCABULARY = 11


def in_float64(logits: torch.Tensor, targets: torch.Tensor, ignore_index: int = -100) -> float:
    """The oracle: torch's own summed loss, in float64."""
    return F.cross_entropy(logits.double(), targets, ignore_index=ignore_index, reduction="sum").item()


def test_uniform_logits_cost_log_v_a_token():
    """Five tokens under equal logits over 11 symbols cost 5 ln 11 nats."""
    meter = Meter()
    meter.update(logits=torch.zeros(5, VOCABULARY), targets=torch.tensor([0, 1, 2, 3, 4]))
    assert meter.read().nats == pytest.approx(5 * math.log(VOCABULARY), rel=1e-7)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_ten_million_tokens_equal_the_float64_sum(scale):
    """Over 10 million tokens, float32 logits give the float64 answer to 1e-9 relative."""
    generator = torch.Generator().manual_seed(0)
    meter, expected = Meter(), 0.0
    for _ in range(100):
        logits = torch.randn(100_000, 4, generator=generator) * scale
        targets = torch.randint(4, (100_000,), generator=generator)
        meter.update(logits=logits, targets=targets)
        expected += in_float64(logits, targets)
    tally = meter.read()
    assert tally.coded_tokens == 10_000_000
    assert tally.nats == pytest.approx(expected, rel=1e-9)


def test_a_surprise_of_200_nats_stays_finite():
    """A target whose logit is 200 below the others costs about 200 nats, not infinity."""
    logits = torch.tensor([[200.0, 0.0]])
    meter = Meter()
    meter.update(logits=logits, targets=torch.tensor([1]))
    assert meter.read().nats == pytest.approx(200.0, rel=1e-6)
    assert meter.read().nonfinite_tokens == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_upcast(dtype):
    """Half-precision logits are scored as the float32 numbers they stand for."""
    logits = torch.randn(64, VOCABULARY, generator=torch.Generator().manual_seed(1)).to(dtype)
    targets = torch.arange(64) % VOCABULARY
    assert nats_per_token(logits, targets).double().sum().item() == pytest.approx(in_float64(logits, targets), rel=1e-6)


def test_float64_logits_stay_float64():
    """Float64 logits are not rounded on the way: the difference of 1e-12 between two logits shows."""
    logits = torch.tensor([[0.0, 1e-12]], dtype=torch.float64)
    first, second = (nats_per_token(logits, torch.tensor([i])).item() for i in (0, 1))
    assert first - second == pytest.approx(1e-12, rel=1e-3)


def test_ignored_and_masked_targets_are_counted_apart():
    """Three of six targets are left: one is the ignore index, two are masked."""
    logits = torch.randn(6, VOCABULARY, generator=torch.Generator().manual_seed(2))
    targets = torch.tensor([0, -100, 2, 3, 4, 5])
    mask = torch.tensor([True, True, False, True, True, False])
    meter = Meter()
    meter.update(logits=logits, targets=targets, mask=mask)
    tally = meter.read()
    assert (tally.coded_tokens, tally.masked_tokens) == (3, 3)
    assert tally.nats == pytest.approx(in_float64(logits[[0, 3, 4]], targets[[0, 3, 4]]), rel=1e-6)


def test_bytes_come_from_the_table_and_masked_targets_have_none():
    """Tokens of 1, 2 and 3 bytes, one of them ignored, and one beyond the table: 1 + 3 bytes."""
    meter = Meter(token_bytes=[1, 2, 3])
    meter.update(logits=torch.zeros(4, 5), targets=torch.tensor([0, -100, 2, 4]))
    assert meter.read().raw_bytes == 4


def test_a_table_longer_than_the_vocabulary_is_read_at_the_same_ids():
    """A masked target has no bytes even where the table is longer than the model's vocabulary."""
    meter = Meter(token_bytes=[1, 2, 3, 7, 9])
    meter.update(logits=torch.zeros(2, 3), targets=torch.tensor([2, -100]))
    assert meter.read().raw_bytes == 3


def test_nonfinite_calls_are_charged_by_the_uniform_code():
    """A call with a NaN costs ln V for each of its tokens, and later calls count as usual."""
    meter = Meter()
    broken = torch.zeros(3, VOCABULARY)
    broken[1, 0] = math.nan
    meter.update(logits=broken, targets=torch.tensor([0, 1, 2]))
    meter.update(logits=torch.zeros(2, VOCABULARY), targets=torch.tensor([0, -100]))
    tally = meter.read()
    assert (tally.coded_tokens, tally.nonfinite_tokens) == (4, 3)
    assert tally.nats == pytest.approx(4 * math.log(VOCABULARY), rel=1e-6)


def test_a_call_in_which_all_targets_are_ignored_costs_nothing():
    """The mean over no targets is 0/0: it adds neither nats nor tokens, and is no failure."""
    meter = Meter()
    targets = torch.tensor([-100, -100])
    loss = F.cross_entropy(torch.zeros(2, VOCABULARY), targets)
    meter.add(loss, targets, vocab_size=VOCABULARY, mean=True)
    assert meter.read() == Tally(masked_tokens=2, fingerprint=meter.read().fingerprint)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=60), st.data())
@settings(max_examples=50, deadline=None)
def test_the_fingerprint_does_not_depend_on_the_cut(values, data):
    """A stream of targets has the same fingerprint in one call as in two."""
    cut = data.draw(st.integers(0, len(values)))
    whole, parts = Meter(), Meter()
    whole.identify(torch.tensor(values))
    parts.identify(torch.tensor(values[:cut], dtype=torch.int64))
    parts.identify(torch.tensor(values[cut:], dtype=torch.int64))
    assert whole.read().fingerprint == parts.read().fingerprint


def test_the_fingerprint_tells_order_and_content_apart():
    """All orders of five targets, and a change of one of them, have fingerprints of their own."""
    from itertools import permutations

    streams = [*permutations([3, 1, 4, 5, 9]), (3, 1, 4, 5, 8)]
    seen = set()
    for stream in streams:
        meter = Meter()
        meter.identify(torch.tensor(stream))
        seen.add(meter.read().fingerprint)
    assert len(seen) == len(streams)


def test_taking_starts_again_from_zero_and_the_parts_add_up():
    """Sums taken in between and those left add up to the sums of a meter that was never emptied."""
    generator = torch.Generator().manual_seed(3)
    whole, parts, taken = Meter(), Meter(), []
    for _ in range(4):
        logits, targets = torch.randn(9, VOCABULARY, generator=generator), torch.arange(9)
        whole.update(logits=logits, targets=targets)
        parts.update(logits=logits, targets=targets)
        taken.append(parts.take())
    assert parts.read() == Tally()
    total = Tally.total(reading.tally for reading in read_sums(taken))
    assert total.fingerprint == whole.read().fingerprint
    assert total.nats == pytest.approx(whole.read().nats, rel=1e-12)


def test_a_pair_of_float32_keeps_what_one_float32_loses():
    """16,777,216 + 1 + 1 has no float32 sum, as a pair it is exact."""
    high, low = torch.tensor(2.0**24), torch.tensor(0.0)
    for _ in range(2):
        high, low = two_sum(high, low, torch.tensor(1.0))
    assert high.double().item() + low.double().item() == 2**24 + 2


@given(st.lists(st.floats(0, 1000, width=32), min_size=0, max_size=300))
@settings(max_examples=100, deadline=None)
def test_the_pair_sum_is_the_float64_sum(values):
    """Summing float32 numbers as a pair agrees with their exact sum to 1e-12 relative."""
    high, low = pair_sum(torch.tensor(values, dtype=torch.float32))
    assert high.double().item() + low.double().item() == pytest.approx(math.fsum(values), rel=1e-12, abs=1e-30)


def test_a_meter_without_float64_gives_the_same_sums():
    """On a device without float64 the pair of float32 sums agrees to 1e-9 over 2,000 calls."""
    generator = torch.Generator().manual_seed(4)
    exact, paired = Meter(), Meter()
    paired._nats = torch.zeros(2, dtype=torch.float32)
    for _ in range(2_000):
        nats, targets = torch.rand(50, generator=generator) * 10, torch.zeros(50, dtype=torch.int64)
        exact.add(nats, targets, vocab_size=2)
        paired.add(nats, targets, vocab_size=2)
    assert paired.read().nats == pytest.approx(exact.read().nats, rel=1e-9)


def test_reading_is_the_only_wait_for_the_device(monkeypatch):
    """No call of `update` turns a tensor into a Python number or copies one to the host."""

    def refuse(*args, **kwargs):
        raise AssertionError("the host waited for the device")

    meter = Meter(token_bytes=[1] * VOCABULARY)
    for name in ("item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    meter.update(logits=torch.zeros(3, VOCABULARY), targets=torch.tensor([0, 1, -100]))
    with pytest.raises(AssertionError, match="waited"):
        meter.read()


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (torch.zeros(3, 4), torch.zeros(2, dtype=torch.int64), "one row of logits a target"),
        (torch.zeros(3, 4), torch.zeros(3), "expected integer target ids"),
    ],
)
def test_input_that_does_not_fit_is_refused(logits, targets, message):
    """Shapes that do not match and targets that are no ids are named in one line."""
    with pytest.raises(MeasureError, match=message) as caught:
        Meter().update(logits=logits, targets=targets)
    assert "\n" not in str(caught.value)


# -- calls that are kept ---------------------------------------------------------------------------------------------


def readings(seed, *, keeps_calls):
    """Read a meter that took in calls of many shapes, in places where it may be read; the calls are overwritten."""
    generator, choose = torch.Generator().manual_seed(seed), random.Random(seed)
    meter, parts = Meter(token_bytes=torch.randint(1, 9, (20,), generator=generator).tolist()), []
    meter.keeps_calls = keeps_calls
    for _ in range(40):
        targets = torch.randint(20, (choose.choice([5, 5, 5, 9]),), generator=generator)
        targets[: choose.choice([0, 0, 0, 1, len(targets)])] = -100
        mean = choose.random() < 0.5
        nats = torch.rand(() if mean else choose.choice([(), targets.shape]), generator=generator)
        nats = nats * choose.choice([1, 1, 1, 1, float("inf")])
        meter.add(nats, targets, vocab_size=choose.choice([20, 20, 30]), mean=mean)
        nats.zero_()
        targets.zero_()
        after = choose.choice([None, None, None, "identify", "on the device", "peek", "take", "read"])
        if after == "identify":
            meter.identify(torch.arange(7))
        elif after == "on the device":
            parts.append(on_device(meter.peek()))
        elif after in ("peek", "take"):
            parts.append(getattr(meter, after)())
        elif after == "read":
            read_sums(parts[-1:])
    return read_sums([*parts, meter.take()])


@pytest.mark.parametrize("largest", [9, 5])
@pytest.mark.parametrize("seed", range(20))
def test_calls_that_are_kept_come_to_the_same(seed, largest, monkeypatch):
    """Bit for bit, whatever was changed in place after the call, in whatever order sums are read, and beside others."""
    monkeypatch.setattr("prequential.meter._KEPT_TARGETS", largest)
    assert readings(seed, keeps_calls=True) == readings(seed, keeps_calls=False)


def test_calls_that_are_kept_take_bounded_room(monkeypatch):
    """Beyond a number of them they are summed on the device, without waiting for it."""
    monkeypatch.setattr("prequential.meter._WAITING", 4)
    meter = Meter()
    meter.keeps_calls = True
    for _ in range(10):
        meter.add(torch.ones(()), torch.zeros(3, dtype=torch.int64), vocab_size=2)
    sums = meter.peek()
    assert sum(call.group is None for call in sums.calls) < 4
    assert read_sums([sums])[0].tally.coded_tokens == 30
