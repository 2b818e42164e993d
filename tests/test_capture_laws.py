"""Random losses through the tap, held against scores computed in float64 by another way."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from prequential.capture import LossTap
from prequential.meter import Meter, read_sums

# A float32 loss is off by its last digits where a target is nearly certain: 1 + e is rounded before the logarithm.
ROUNDING_PER_TARGET = 2e-7

DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])
REDUCTIONS = st.sampled_from(["mean", "sum", "none"])
law = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def scored_targets(draw):
    """Logits (N, V, d...) or (V,) in any precision, targets with a random mask, and the mask's id."""
    symbols = draw(st.integers(2, 40))
    shape = draw(st.lists(st.integers(1, 7), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    scale, ignore_index = draw(st.sampled_from([0.0, 1.0, 8.0])), draw(st.sampled_from([-100, -1, 0]))
    logits = torch.randn(*shape[:1], symbols, *shape[1:], generator=generator) * scale
    targets = torch.randint(symbols, shape, generator=generator)
    masked = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.4, 1.0]))
    return logits.to(draw(DTYPES)), torch.where(masked, ignore_index, targets), ignore_index


def expected_nats(scores, targets, ignore_index):
    """Summed -log p of the targets in float64, by one gather over classes in the last place."""
    classes_last = scores.double().movedim(1 if scores.dim() > 1 else 0, -1).reshape(-1, scores.shape[scores.dim() > 1])
    flat = targets.reshape(-1)
    kept = flat != ignore_index
    return -torch.log_softmax(classes_last[kept], -1).gather(1, flat[kept, None]).sum().item(), int(kept.sum())


def seen(loss, *args, **options):
    """What the tap finds in one call."""
    meter = Meter()
    with LossTap(meter), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # options that a chunked loss cannot take
        loss(*args, **options)
    return read_sums([meter.peek()])[0]


def check(reading, nats, coded, positions, symbols):
    """Counts are exact, nats to 1e-6."""
    assert (reading.calls, reading.not_understood, reading.vocab_size) == (1, 0, symbols)
    assert (reading.tally.coded_tokens, reading.tally.masked_tokens) == (coded, positions - coded)
    assert reading.tally.nonfinite_tokens == 0
    assert reading.tally.nats == pytest.approx(nats, rel=1e-6, abs=ROUNDING_PER_TARGET * coded)


@law
@given(scored_targets(), REDUCTIONS, st.sampled_from([0.0, 0.1]), st.booleans())
def test_cross_entropy(scored, reduction, label_smoothing, weighted):
    """Any cross-entropy is turned into the nats of the plain softmax."""
    logits, targets, ignore_index = scored
    symbols = logits.shape[logits.dim() > 1]
    weight = torch.linspace(0.1, 3, symbols).to(logits.dtype) if weighted else None
    options = {"reduction": reduction, "label_smoothing": label_smoothing, "weight": weight}
    reading = seen(F.cross_entropy, logits, targets, ignore_index=ignore_index, **options)
    check(reading, *expected_nats(*scored), targets.numel(), symbols)


@law
@given(scored_targets(), REDUCTIONS, st.sampled_from([0.0, 0.1]), st.booleans(), st.booleans())
def test_cross_entropy_held_back(scored, reduction, label_smoothing, weighted, with_batch):
    """A call that is held back until it is settled counts for the same, whatever was returned and the batch held."""
    logits, targets, ignore_index = scored
    symbols = logits.shape[logits.dim() > 1]
    weight = torch.linspace(0.1, 3, symbols).to(logits.dtype) if weighted else None
    meter = Meter()
    tap = LossTap(meter, hold=True)
    batch = (targets != ignore_index, targets) if with_batch else None
    with tap.on(None, batch):
        loss = F.cross_entropy(
            logits,
            targets,
            weight,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
    tap.settle(batch, loss if loss.dim() == 0 else None)
    check(read_sums([meter.peek()])[0], *expected_nats(*scored), targets.numel(), symbols)


@law
@given(scored_targets(), st.booleans(), st.sampled_from([0.0, 0.1]), st.integers(0, 2**32))
def test_a_mask_is_proved_or_not_assumed(scored, over_all, label_smoothing, seed):
    """Losses times a random mask: its positions are masked, or all are coded and the script is known to reduce."""
    logits, targets = scored[0].float(), scored[1].clamp(min=0)
    mask = (torch.rand(targets.shape, generator=torch.Generator().manual_seed(seed)) < 0.5).float()
    meter = Meter()
    tap = LossTap(meter, hold=True)
    batch = (targets, mask)
    with tap.on(None, batch):
        losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
        loss = (losses * mask).sum() / (mask.numel() if over_all else mask.sum().clamp(min=1))
    reduced_by = tap.settle(batch, loss)
    kept = torch.where(mask > 0, targets, -100) if reduced_by == "mask" else targets
    check(
        read_sums([meter.peek()])[0],
        *expected_nats(logits, kept, -100),
        targets.numel(),
        logits.shape[logits.dim() > 1],
    )
    assert reduced_by in (("mask", "script") if losses.dim() else ("calls",))


@law
@given(scored_targets(), REDUCTIONS, st.booleans())
def test_nll_loss(scored, reduction, weighted):
    """Log-probabilities are taken as they are, in whatever precision they come."""
    logits, targets, ignore_index = scored
    log_probs = F.log_softmax(logits, 1 if logits.dim() > 1 else 0)
    symbols = logits.shape[logits.dim() > 1]
    weight = torch.linspace(0.1, 3, symbols).to(logits.dtype) if weighted else None
    reading = seen(F.nll_loss, log_probs, targets, weight, ignore_index=ignore_index, reduction=reduction)
    rows = log_probs.double().movedim(1 if logits.dim() > 1 else 0, -1).reshape(-1, symbols)
    flat = targets.reshape(-1)
    nats = -sum(rows[i, id].item() for i, id in enumerate(flat.tolist()) if id != ignore_index)
    check(reading, nats, int((flat != ignore_index).sum()), targets.numel(), symbols)


@law
@given(scored_targets(), REDUCTIONS, st.booleans(), st.floats(0.1, 1.0))
def test_scores_that_do_not_sum_to_one_are_refused(scored, reduction, above, by):
    """Log-probabilities that are off by more than their rounding are no code length, on any target that counts."""
    logits, targets, ignore_index = scored
    log_probs = F.log_softmax(logits, 1 if logits.dim() > 1 else 0) + (by if above else -by)
    reading = seen(F.nll_loss, log_probs, targets, ignore_index=ignore_index, reduction=reduction)
    assert reading.not_understood == bool((targets != ignore_index).any())
    assert (reading.tally.coded_tokens, reading.tally.nats) == (0, 0)


@law
@given(scored_targets(), REDUCTIONS, st.booleans(), st.booleans())
def test_bits(scored, reduction, weighted, as_probabilities):
    """Hard targets of a binary cross-entropy cost the nats of one of two symbols each."""
    logits = scored[0]
    bits = (torch.arange(logits.numel()).reshape(logits.shape) % 3 == 0).to(logits.dtype)
    weight = torch.full_like(logits, 0.3) if weighted else None
    pair = torch.stack([torch.zeros_like(logits, dtype=torch.float64), logits.double()], -1)
    log_p = torch.log_softmax(pair, -1)
    if as_probabilities:  # of the given precision, and neither 0 nor 1, which cost infinity
        ones = logits.sigmoid().clamp(0.01, 0.98)
        log_p = torch.stack([1 - ones.double(), ones.double()], -1).log()
        reading = seen(F.binary_cross_entropy, ones, bits, weight, reduction=reduction)
    else:
        options = {"reduction": reduction, "pos_weight": weight}
        reading = seen(F.binary_cross_entropy_with_logits, logits, bits, weight, **options)
    nats = -log_p.gather(-1, bits.long()[..., None]).sum().item()
    check(reading, nats, bits.numel(), bits.numel(), 2)


@law
@given(scored_targets(), st.integers(0, 10_000), st.floats(0.01, 0.99))
def test_one_soft_bit_is_refused(scored, place, value):
    """A single target between 0 and 1 makes the call no code length."""
    targets = torch.zeros_like(scored[0])
    targets.view(-1)[place % targets.numel()] = value
    reading = seen(F.binary_cross_entropy_with_logits, scored[0], targets)
    assert (reading.not_understood, reading.tally.coded_tokens, reading.tally.nats) == (1, 0, 0)


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="new in torch 2.13")
@law
@given(
    st.integers(1, 30),
    st.integers(2, 40),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    REDUCTIONS,
    st.sampled_from([0.0, 0.1]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 4, 64]),
    st.integers(0, 2**32),
)
def test_linear_cross_entropy(rows, symbols, dtype, reduction, smoothing, weighted, biased, chunk, seed):
    """The nats are those of the logits that the loss forms by itself, whole or in chunks."""
    torch.manual_seed(seed)
    features, matrix = torch.randn(rows, 6, dtype=dtype), torch.randn(symbols, 6, dtype=dtype)
    bias = torch.randn(symbols, dtype=dtype) if biased else None
    targets = torch.where(torch.rand(rows) < 0.3, -100, torch.randint(symbols, (rows,)))
    options = {
        "linear_bias": bias,
        "reduction": reduction,
        "label_smoothing": smoothing,
        "weight": torch.linspace(0.1, 3, symbols).to(dtype) if weighted else None,
        "options": None if chunk is None else torch.nn.LinearCrossEntropyOptions(batch_chunk_size=chunk),
    }
    reading = seen(F.linear_cross_entropy, features, matrix, targets, **options)
    check(reading, *expected_nats(F.linear(features, matrix, bias), targets, -100), rows, symbols)
