"""The tap: -log p of every target, found in loss calls of code that knows nothing of it."""

import math

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import cross_entropy as imported_by_another_name
from torch.utils.checkpoint import checkpoint

from prequential.capture import LossTap, declared, integer_tensors
from prequential.errors import MeasureError
from prequential.meter import Meter, read_sums

VOCABULARY = 13


def in_float64(logits, targets, ignore_index=-100):
    """The oracle: the summed plain loss in float64."""
    return F.cross_entropy(logits.detach().double(), targets, ignore_index=ignore_index, reduction="sum").item()


@pytest.fixture
def tapped():
    """A meter and the tap that feeds it."""
    meter = Meter()
    return meter, LossTap(meter)


@pytest.fixture
def scored():
    """Logits and targets with two targets ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, VOCABULARY, generator=generator) * 3
    targets = torch.randint(VOCABULARY, (40,), generator=generator)
    targets[[3, 30]] = -100
    return logits, targets


CALLS = {
    "mean": lambda x, y: F.cross_entropy(x, y),
    "sum": lambda x, y: F.cross_entropy(x, y, reduction="sum"),
    "none": lambda x, y: F.cross_entropy(x, y, reduction="none"),
    "module": lambda x, y: nn.CrossEntropyLoss()(x, y),
    "module sum": lambda x, y: nn.CrossEntropyLoss(reduction="sum")(x, y),
    "other name": lambda x, y: imported_by_another_name(x, y),
    "keywords": lambda x, y: F.cross_entropy(target=y, input=x),
    "label smoothing": lambda x, y: F.cross_entropy(x, y, label_smoothing=0.2),
    "class weights": lambda x, y: F.cross_entropy(x, y, weight=torch.linspace(0.1, 2, VOCABULARY)),
    "weights by position": lambda x, y: F.cross_entropy(x, y, torch.linspace(0.1, 2, VOCABULARY)),
    "old arguments": lambda x, y: F.cross_entropy(x, y, None, False),
    "positional": lambda x, y: F.cross_entropy(x, y, None, None, -100, None, "sum"),
    "half precision": lambda x, y: F.cross_entropy(x.bfloat16(), y),
}


@pytest.mark.filterwarnings("ignore:size_average")
@pytest.mark.parametrize("name", CALLS)
def test_every_form_of_the_call_gives_plain_nats(name, tapped, scored):
    """Reduction, weights, smoothing and calling convention change the loss, not the nats."""
    meter, tap = tapped
    logits, targets = scored
    if name == "half precision":
        logits = logits.bfloat16()
    with tap:
        CALLS[name](logits, targets)
    tally = meter.read()
    assert (tally.coded_tokens, tally.masked_tokens) == (38, 2)
    assert tally.nats == pytest.approx(in_float64(logits, targets), rel=2e-7)


def test_the_ignore_index_may_be_any_id(tapped, scored):
    """A pad id inside the vocabulary is left out."""
    meter, tap = tapped
    logits, targets = scored[0], scored[1].clamp(min=7)
    with tap:
        F.cross_entropy(logits, targets, ignore_index=7)
    assert meter.read().coded_tokens == int((targets != 7).sum())
    assert meter.read().nats == pytest.approx(in_float64(logits, targets, 7), rel=2e-7)


def test_classes_may_stand_in_the_second_dimension(tapped):
    """Logits of shape (N, V, d) with targets (N, d) are scored position by position."""
    meter, tap = tapped
    logits, targets = torch.randn(4, VOCABULARY, 5), torch.randint(VOCABULARY, (4, 5))
    with tap:
        F.cross_entropy(logits, targets, label_smoothing=0.1)
    assert meter.read().coded_tokens == 20
    assert meter.read().nats == pytest.approx(in_float64(logits, targets), rel=2e-7)


def test_chunks_of_a_loss_add_up(tapped, scored):
    """Four calls on quarters of the rows give the nats of one call."""
    meter, tap = tapped
    logits, targets = scored
    with tap:
        for rows, ids in zip(logits.chunk(4), targets.chunk(4), strict=True):
            F.cross_entropy(rows, ids)
    assert meter.read().nats == pytest.approx(in_float64(logits, targets), rel=2e-7)
    assert tap.calls == [f"cross_entropy on (10, {VOCABULARY})"] * 4


def test_the_result_and_the_gradient_are_untouched(scored):
    """With the tap, loss and gradient are bit for bit the same."""
    logits, targets = scored
    results = []
    for tap in (None, LossTap(Meter())):
        x = logits.clone().requires_grad_()
        if tap is None:
            loss = F.cross_entropy(x, targets)
        else:
            with tap:
                loss = F.cross_entropy(x, targets)
        loss.backward()
        results.append((loss.detach(), x.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize(
    "call",
    [
        lambda x, y: F.cross_entropy(x, torch.softmax(x, 1)),
        lambda x, y: F.nll_loss(torch.log_softmax(x, 1), y.clamp(0)),
        lambda x, y: F.binary_cross_entropy_with_logits(x, torch.zeros_like(x)),
    ],
)
def test_other_likelihoods_are_counted_as_not_understood(call, tapped, scored):
    """Soft targets and other losses add no nats, and are not overlooked either."""
    from prequential.meter import read_sums

    meter, tap = tapped
    with tap:
        call(*scored)
    (reading,) = read_sums([meter.peek()])
    assert reading.not_understood == 1
    assert reading.tally.coded_tokens == 0


def test_calls_outside_are_not_seen(tapped, scored):
    """What is scored before and after the tap is active does not count."""
    meter, tap = tapped
    F.cross_entropy(*scored)
    with tap:
        pass
    F.cross_entropy(*scored)
    assert meter.read().positions == 0


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_step_is_seen_in_one_graph_without_a_break(backend):
    """Twelve compiled steps give exact nats from a single graph."""
    torch._dynamo.reset()
    meter = Meter(token_bytes=[2] * VOCABULARY)
    tap = LossTap(meter)
    layer = nn.Linear(8, VOCABULARY)
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    step = torch.compile(lambda x, y: F.cross_entropy(layer(x), y), backend=counter, fullgraph=True)
    expected, stream = 0.0, []
    for _ in range(12):
        x, y = torch.randn(16, 8), torch.randint(VOCABULARY, (16,))
        with tap:
            step(x, y).backward()
        expected += in_float64(layer(x), y)
        stream.append(y)
    assert meter.read().nats == pytest.approx(expected, rel=2e-7)
    assert meter.read().raw_bytes == 2 * 12 * 16
    assert counter.frame_count == 1
    eager = Meter()
    eager.identify(torch.cat(stream))
    assert meter.read().fingerprint == eager.read().fingerprint


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_does_not_count_twice(reentrant, tapped):
    """A loss inside a checkpoint is run again in the backward pass but counted once."""
    meter, tap = tapped
    layer = nn.Linear(8, VOCABULARY)
    x, y = torch.randn(16, 8, requires_grad=True), torch.randint(VOCABULARY, (16,))
    with tap:
        loss = checkpoint(lambda a: F.cross_entropy(layer(a), y), x, use_reentrant=reentrant)
    loss.backward()
    assert meter.read().coded_tokens == 16


def test_autocast_is_seen_in_float32(tapped):
    """Under bfloat16 autocast the loss is computed in float32 and its nats agree with the bfloat16 logits."""
    meter, tap = tapped
    layer = nn.Linear(8, VOCABULARY)
    x, y = torch.randn(32, 8), torch.randint(VOCABULARY, (32,))
    with torch.autocast("cpu", dtype=torch.bfloat16), tap:
        logits = layer(x)
        F.cross_entropy(logits, y)
    assert logits.dtype == torch.bfloat16
    assert meter.read().nats == pytest.approx(in_float64(logits, y), rel=1e-6)


def test_where_the_meter_fails_the_step_goes_on_and_it_is_counted(tapped):
    """Under vmap nothing can be added in place: the losses are right, and the call is counted as not understood."""
    meter, tap = tapped
    logits, targets = torch.randn(5, 4, VOCABULARY), torch.randint(VOCABULARY, (5, 4))
    with tap:
        losses = torch.func.vmap(F.cross_entropy)(logits, targets)
    assert losses.tolist() == pytest.approx(
        [F.cross_entropy(x, y).item() for x, y in zip(logits, targets, strict=True)]
    )
    reading = read_sums([meter.take()])[0]
    assert (reading.calls, reading.not_understood) == (0, 1)


def test_declared_sums_are_taken_as_they_are():
    """A step that returns nats and tokens is believed; one that returns a plain loss declares nothing."""
    sums = declared({"loss": torch.tensor(1.0), "nats": torch.tensor(6.5), "tokens": 4})
    assert (float(sums.nats), sums.tokens, sums.raw_bytes, sums.targets) == (6.5, 4, None, None)
    assert declared({"loss": torch.tensor(1.0)}) is None
    assert declared(torch.tensor(1.0)) is None
    assert declared(None) is None


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"loss": 1.0, "nats": 2.0}, r"got only \['loss', 'nats'\]"),
        ({"nats": torch.ones(3), "tokens": 3}, r"expected one number as 'nats', got a tensor of shape \(3,\)"),
    ],
)
def test_half_a_declaration_is_refused(outputs, message):
    """Nats without tokens, or one number a token, are named in the error."""
    with pytest.raises(MeasureError, match=message):
        declared(outputs)


def test_integer_tensors_are_found_in_nested_batches():
    """Ids and masks are found in dicts and tuples, floats are left out."""
    ids, mask, image = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 9)
    assert [leaf.shape for leaf in integer_tensors({"a": (ids, [image]), "b": mask, "c": "text"})] == [(2, 3), (2, 3)]
    assert math.prod(integer_tensors(ids)[0].shape) == 6
