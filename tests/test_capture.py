"""The tap: -log p of every target, found in loss calls of code that knows nothing of it."""

import math

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import cross_entropy as imported_by_another_name
from torch.utils.checkpoint import checkpoint

from prequential.batches import integer_tensors
from prequential.capture import LossTap, declared
from prequential.errors import MeasureError
from prequential.meter import Meter, read_sums
from prequential.route import settle_route

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
    "not reduced": lambda x, y: F.cross_entropy(x, y, reduce=False),
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


def in_bits(logits, targets):
    """The oracle for bits: the summed plain loss in float64."""
    return F.binary_cross_entropy_with_logits(logits.detach().double(), targets.double(), reduction="sum").item()


LOG_LIKELIHOODS = {
    "mean": lambda x, y: F.nll_loss(x, y),
    "module": lambda x, y: nn.NLLLoss(reduction="sum")(x, y),
    "none": lambda x, y: F.nll_loss(x, y, reduction="none"),
    "class weights": lambda x, y: F.nll_loss(x, y, torch.linspace(0.1, 2, VOCABULARY)),
    "old arguments": lambda x, y: F.nll_loss(x, y, None, False),
}


@pytest.mark.filterwarnings("ignore:size_average")
@pytest.mark.parametrize("name", LOG_LIKELIHOODS)
def test_log_probabilities_are_gathered(name, tapped, scored):
    """Whatever `nll_loss` makes of them, the nats are those of the log-probabilities."""
    meter, tap = tapped
    logits, targets = scored
    with tap:
        LOG_LIKELIHOODS[name](F.log_softmax(logits, 1), targets)
    assert (meter.read().coded_tokens, meter.read().masked_tokens) == (38, 2)
    assert meter.read().nats == pytest.approx(in_float64(logits, targets), rel=2e-7)


def test_log_probabilities_may_have_classes_in_the_second_dimension(tapped):
    """Maps of log-probabilities are scored point by point."""
    meter, tap = tapped
    logits, targets = torch.randn(2, VOCABULARY, 9, 10), torch.randint(VOCABULARY, (2, 9, 10))
    with tap:
        F.nll_loss(F.log_softmax(logits, 1), targets)
    assert meter.read().coded_tokens == 180
    assert meter.read().nats == pytest.approx(in_float64(logits, targets), rel=2e-7)


def test_what_stands_in_ignored_rows_need_not_be_probabilities(tapped, scored):
    """Rows without a target may hold anything."""
    meter, tap = tapped
    logits, targets = scored
    with tap:
        F.nll_loss(F.log_softmax(logits, 1) * (targets >= 0)[:, None], targets)
    assert read_sums([meter.peek()])[0].not_understood == 0
    assert meter.read().nats == pytest.approx(in_float64(logits, targets), rel=2e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounded_log_probabilities_are_still_probabilities(dtype, tapped):
    """Half-precision log-probabilities over 50,000 symbols are not taken for scores that do not sum to one."""
    meter, tap = tapped
    log_probs = F.log_softmax(torch.randn(64, 50_000), 1).to(dtype)
    with tap:
        F.nll_loss(log_probs, torch.arange(64))
        F.nll_loss(log_probs + 0.2, torch.arange(64))
    assert read_sums([meter.peek()])[0].not_understood == 1
    assert meter.read().nats == pytest.approx(-log_probs.double().diag().sum().item(), rel=1e-9)


def test_a_nan_is_no_code_length_but_no_misunderstanding(tapped, scored):
    """Log-probabilities that are NaN are charged by the uniform code."""
    meter, tap = tapped
    with tap:
        F.nll_loss(torch.full_like(scored[0], math.nan), scored[1])
    reading = read_sums([meter.peek()])[0]
    assert (reading.not_understood, reading.tally.nonfinite_tokens) == (0, 38)
    assert reading.tally.nats == pytest.approx(38 * math.log(VOCABULARY))


BITS = {
    "logits": lambda x, y: F.binary_cross_entropy_with_logits(x, y),
    "module": lambda x, y: nn.BCEWithLogitsLoss(reduction="sum")(x, y),
    "weights": lambda x, y: F.binary_cross_entropy_with_logits(x, y, torch.rand(VOCABULARY), pos_weight=torch.ones(1)),
    "probabilities": lambda x, y: F.binary_cross_entropy(torch.sigmoid(x), y),
    "probabilities module": lambda x, y: nn.BCELoss(weight=torch.rand(VOCABULARY))(torch.sigmoid(x), y),
}


@pytest.mark.parametrize("name", BITS)
def test_bits_are_scored_one_by_one(name, tapped, scored):
    """Each hard target of a binary cross-entropy is one of two symbols."""
    meter, tap = tapped
    logits, targets = scored[0].double(), (torch.rand(40, VOCABULARY) < 0.3).double()
    with tap:
        BITS[name](logits, targets)
    reading = read_sums([meter.peek()])[0]
    assert (reading.tally.coded_tokens, reading.vocab_size, reading.not_understood) == (40 * VOCABULARY, 2, 0)
    assert reading.tally.nats == pytest.approx(in_bits(logits, targets), rel=1e-9)


FUSED = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "ignored": {"ignore_index": 3},
    "smoothing": {"label_smoothing": 0.1},
    "class weights": {"weight": torch.linspace(0.1, 2, VOCABULARY)},
    "bias": {"linear_bias": torch.linspace(-1, 1, VOCABULARY), "label_smoothing": 0.1},
}


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="new in torch 2.13")
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FUSED)
@pytest.mark.filterwarnings("ignore:linear_cross_entropy. ``options`` ignored")
def test_a_loss_that_keeps_its_logits_to_itself_is_scored(name, dtype, chunked, tapped):
    """`linear_cross_entropy` gives the nats of the logits that it would form, once."""
    meter, tap = tapped
    rows, weight, targets = torch.randn(40, 8), torch.randn(VOCABULARY, 8), torch.randint(VOCABULARY, (40,))
    rows, weight = rows.to(dtype), weight.to(dtype)
    options = {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in FUSED[name].items()}
    logits = F.linear(rows, weight, options.get("linear_bias"))
    chunks = {"options": nn.LinearCrossEntropyOptions(batch_chunk_size=16)} if chunked else {}
    with tap:
        F.linear_cross_entropy(rows, weight, targets, **options, **chunks)
    ignore_index = options.get("ignore_index", -100)
    reading = read_sums([meter.peek()])[0]
    assert (reading.calls, reading.vocab_size, reading.not_understood) == (1, VOCABULARY, 0)
    assert reading.tally.coded_tokens == (targets != ignore_index).sum()
    assert reading.tally.nats == pytest.approx(in_float64(logits, targets, ignore_index), rel=2e-7)


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="new in torch 2.13")
def test_logits_not_formed_are_scored_by_blocks_of_rows(tapped):
    """More rows than a block, with targets in two dimensions."""
    meter, tap = tapped
    rows, weight, targets = torch.randn(2500, 8), torch.randn(VOCABULARY, 3, 8), torch.randint(VOCABULARY, (2500, 3))
    with tap:
        F.linear_cross_entropy(rows, weight, targets, label_smoothing=0.1)
    logits = torch.einsum("nf,vdf->nvd", rows.double(), weight.double())
    assert meter.read().coded_tokens == 7500
    assert meter.read().nats == pytest.approx(in_float64(logits, targets), rel=2e-7)


def test_chunks_of_a_loss_add_up(tapped, scored):
    """Four calls on quarters of the rows give the nats of one call."""
    meter, tap = tapped
    logits, targets = scored
    with tap:
        for rows, ids in zip(logits.chunk(4), targets.chunk(4), strict=True):
            F.cross_entropy(rows, ids)
    assert meter.read().nats == pytest.approx(in_float64(logits, targets), rel=2e-7)
    assert list(map(str, tap.calls)) == [f"cross_entropy on (10, {VOCABULARY})"] * 4


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
        lambda x, y: F.nll_loss(x, y),
        lambda x, y: F.nll_loss(torch.log_softmax(x, 1) * 0.9, y, reduction="sum"),
        lambda x, y: F.binary_cross_entropy_with_logits(x, torch.full_like(x, 0.1)),
        lambda x, y: F.binary_cross_entropy(x.sigmoid(), torch.full_like(x, 0.1)),
    ],
)
def test_what_is_no_likelihood_is_counted_as_not_understood(call, tapped, scored):
    """Soft targets and scores that do not sum to one add no nats, and are not overlooked either."""
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


COMPILED = {
    "nll_loss": lambda x, y: F.nll_loss(F.log_softmax(x, 1), y),
    "bits": lambda x, y: F.binary_cross_entropy_with_logits(x, F.one_hot(y, VOCABULARY).float()),
    "smoothing": lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1),
    "linear_cross_entropy": lambda x, y: F.linear_cross_entropy(x, torch.eye(VOCABULARY), y),
}


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", COMPILED)
def test_every_likelihood_is_seen_in_one_graph(name, backend):
    """Twelve compiled steps give what twelve plain steps give, from a single graph without a break."""
    if name == "linear_cross_entropy" and not hasattr(F, name):
        pytest.skip("new in torch 2.13")
    torch._dynamo.reset()
    meters = Meter(), Meter()
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    steps = torch.compile(COMPILED[name], backend=counter, fullgraph=True), COMPILED[name]
    taps = LossTap(meters[0]), LossTap(meters[1])
    for _ in range(12):
        x, y = torch.randn(16, VOCABULARY, requires_grad=True), torch.randint(VOCABULARY, (16,))
        for step, tap in zip(steps, taps, strict=True):
            with tap:
                step(x, y).backward()
    compiled, eager = read_sums([meter.peek() for meter in meters])
    assert counter.frame_count == 1
    assert compiled.tally.nats == pytest.approx(eager.tally.nats, rel=2e-7)
    assert compiled.tally.coded_tokens == eager.tally.coded_tokens > 0
    assert (compiled.calls, compiled.not_understood) == (12, 0)


def test_a_compiled_call_that_is_no_likelihood_is_noticed():
    """The doubt is decided by values, inside the graph."""
    torch._dynamo.reset()
    meter = Meter()
    step = torch.compile(lambda x, y: F.nll_loss(x, y), backend="aot_eager", fullgraph=True)
    with LossTap(meter):
        step(torch.randn(16, VOCABULARY), torch.randint(VOCABULARY, (16,)))
    reading = read_sums([meter.peek()])[0]
    assert (reading.not_understood, reading.tally.coded_tokens) == (1, 0)


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


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="new in torch 2.13")
def test_a_compiled_chunked_loss_is_refused_since_it_is_not_seen():
    """The compiler turns it into one opaque operator: that is noticed in the first batch."""
    torch._dynamo.reset()
    meter = Meter()
    options = nn.LinearCrossEntropyOptions(allow_retain_graph=True)
    loss = lambda x, y: F.linear_cross_entropy(x, torch.eye(VOCABULARY), y, options=options)  # noqa: E731
    step = torch.compile(loss, backend="aot_eager", fullgraph=True)
    targets = torch.randint(VOCABULARY, (16,))
    with LossTap(meter):
        step(torch.randn(16, VOCABULARY, requires_grad=True), targets).backward()
    with pytest.raises(MeasureError, match="saw none"):
        settled(meter, [], targets)


@pytest.fixture
def mesh(tmp_path):
    """A device mesh of this one process."""
    from torch.distributed.device_mesh import init_device_mesh

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


SHARDED = {
    "mean": lambda x, y: F.cross_entropy(x, y),
    "smoothing": lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1),
    "nll_loss": lambda x, y: F.nll_loss(F.log_softmax(x, 1), y),
}


@pytest.mark.parametrize("name", SHARDED)
@pytest.mark.parametrize("dimension", [None, 0])
def test_distributed_tensors_are_seen_whole(name, dimension, mesh, tapped, scored):
    """Logits and targets that are DTensors give the nats of the full tensors."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    meter, tap = tapped
    placement = [Replicate() if dimension is None else Shard(dimension)]
    logits, targets = (distribute_tensor(tensor, mesh, placement) for tensor in scored)
    with tap:
        SHARDED[name](logits, targets)
    reading = read_sums([meter.peek()])[0]
    assert (reading.tally.coded_tokens, reading.not_understood) == (38, 0)
    assert reading.tally.nats == pytest.approx(in_float64(*scored), rel=2e-7)


def test_a_functional_gradient_is_left_alone(tapped, scored):
    """Under `torch.func.grad` nothing can be added in place: the gradient is right and the call is noticed."""
    meter, tap = tapped
    logits, targets = scored
    with tap:
        found = torch.func.grad(F.cross_entropy)(logits, targets)
    assert torch.equal(found, torch.func.grad(F.cross_entropy)(logits, targets))
    with tap:
        pass
    assert read_sums([meter.peek()])[0].not_understood == 1


TINY = {
    "gpt2": {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 16},
    "llama": {
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "hidden_size": 8,
        "intermediate_size": 16,
    },
}


def tiny(family, kind, **options):
    """A tiny random Hugging Face model; nothing is downloaded."""
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(family, vocab_size=29, pad_token_id=0, **TINY[family], **options)
    torch.manual_seed(0)
    return getattr(transformers, f"AutoModelFor{kind}").from_config(config).eval()


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("items", [None, 17])
def test_a_hugging_face_language_model_is_scored_on_its_shifted_labels(family, items, tapped):
    """Labels are shifted inside the model and the loss may be divided by any number: the nats are exact."""
    meter, tap = tapped
    model, ids = tiny(family, "CausalLM"), torch.randint(1, 29, (3, 10))
    labels = ids.clone()
    labels[0, :4] = -100
    with tap:
        output = model(input_ids=ids, labels=labels, num_items_in_batch=items)
    assert meter.read().coded_tokens == 3 * 9 - 3
    assert meter.read().nats == pytest.approx(in_float64(output.logits[:, :-1].mT, labels[:, 1:]), rel=1e-6)


@pytest.mark.parametrize("family", TINY)
def test_hugging_face_classifiers_are_scored(family, tapped):
    """One label a sequence, and one a token."""
    meter, tap = tapped
    ids, classes = torch.randint(1, 29, (3, 10)), torch.tensor([0, 4, 2])
    tags = torch.where(torch.rand(3, 10) < 0.3, -100, torch.randint(5, (3, 10)))
    with tap:
        by_row = tiny(family, "SequenceClassification", num_labels=5)(input_ids=ids, labels=classes)
        by_token = tiny(family, "TokenClassification", num_labels=5)(input_ids=ids, labels=tags)
    assert meter.read().coded_tokens == 3 + (tags != -100).sum()
    expected = in_float64(by_row.logits, classes) + in_float64(by_token.logits.mT, tags)
    assert meter.read().nats == pytest.approx(expected, rel=1e-6)


def test_a_hugging_face_classifier_of_many_labels_is_scored_in_bits(tapped):
    """Float labels make the model use binary cross-entropy."""
    meter, tap = tapped
    labels = torch.randint(2, (3, 5)).float()
    model = tiny("gpt2", "SequenceClassification", num_labels=5, problem_type="multi_label_classification")
    with tap:
        output = model(input_ids=torch.randint(1, 29, (3, 10)), labels=labels)
    assert meter.read().coded_tokens == 15
    assert meter.read().nats == pytest.approx(in_bits(output.logits, labels), rel=1e-6)


IDS = torch.arange(24).reshape(2, 12) % VOCABULARY
BATCHES = {"tokens": (IDS, IDS), "labels": (IDS, torch.tensor([1, 2])), "floats": (torch.rand(2, 12), IDS.float())}
BATCHES["points"] = (torch.rand(2, 2), torch.tensor([1, 2]))


def loss_of(targets, symbols=VOCABULARY):
    """One cross-entropy over these targets under arbitrary logits."""
    return F.cross_entropy(torch.randn(targets.numel(), symbols), targets.flatten() % symbols)


def bits_of(targets):
    """One binary cross-entropy over these targets."""
    return F.binary_cross_entropy_with_logits(torch.randn(targets.shape), (targets > 5).float())


SEVERAL = {
    "two heads": ("tokens", lambda: [loss_of(IDS), loss_of(IDS)]),
    "two heads over few labels": ("labels", lambda: [loss_of(IDS[:, 0]), loss_of(IDS[:, 0])]),
    "multi-token prediction": ("tokens", lambda: [loss_of(IDS[:, 1:]), loss_of(IDS[:, 2:])]),
    "two heads beside floats": ("points", lambda: [loss_of(IDS[:, 0]), loss_of(IDS[:, 0])]),
    "two heads in one call": ("tokens", lambda: [loss_of(torch.cat([IDS, IDS]))]),
    "auxiliary loss": ("labels", lambda: [loss_of(IDS), loss_of(IDS[:, 0], 3)]),
    "auxiliary loss that fills the gap": ("tokens", lambda: [loss_of(IDS[:, 1:]), loss_of(IDS[:, 0], 4)]),
    "auxiliary loss with a whole mean": ("tokens", lambda: [loss_of(IDS[:, 1:]), loss_of(IDS[:, 0], 3)]),
    "bits and symbols": ("tokens", lambda: [loss_of(IDS[:, 6:], 2), bits_of(IDS[:, :6])]),
    "two heads of bits": ("floats", lambda: [bits_of(IDS), bits_of(IDS)]),
}


@pytest.mark.parametrize(
    ("name", "compiled"),
    # bits and two symbols look the same where no name is seen
    [
        (name, compiled)
        for name in SEVERAL
        for compiled in (False, True)
        if (name, compiled) != ("bits and symbols", True)
    ],
)
def test_several_likelihoods_in_one_step_are_never_summed_silently(name, compiled, tapped):
    """More than one term a target, or terms among different numbers of symbols, need a choice."""
    meter, tap = tapped
    batch, step = SEVERAL[name]
    with tap:
        step()
    calls = [] if compiled else tap.calls  # no call is listed where the step is compiled
    with pytest.raises(
        MeasureError, match="compiled calls" if compiled else r"cross_entropy.* on \(\d+, .*measure=function"
    ):
        settled(meter, calls, BATCHES[batch])


def settled(meter, calls, batch):
    """The route for this batch."""
    return settle_route("auto", read_sums([meter.peek()])[0], calls, None, batch, None, None)


CHUNKED = {
    "chunks of rows": ("tokens", lambda: [loss_of(rows) for rows in IDS.chunk(2)]),
    "uneven chunks": ("tokens", lambda: [loss_of(rows) for rows in IDS.flatten().split(7)]),
    "chunks of shifted labels": ("tokens", lambda: [loss_of(rows) for rows in IDS[:, 1:].flatten().split(9)]),
    "one call": ("tokens", lambda: [loss_of(IDS)]),
    "bits": ("floats", lambda: [bits_of(IDS)]),
    "chunks of bits": ("floats", lambda: [bits_of(rows) for rows in IDS.chunk(2)]),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", CHUNKED)
def test_chunks_over_one_tensor_of_the_batch_are_one_loss(name, compiled, tapped):
    """Calls that together cover a tensor of the batch are taken, without a doubt."""
    meter, tap = tapped
    batch, step = CHUNKED[name]
    with tap:
        step()
    route = settled(meter, [] if compiled else tap.calls, BATCHES[batch])
    assert (route.name, route.doubts) == ("capture", {})


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
