"""Which of the loss calls that are seen count: passes, masks, updates, and what no call covered."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prequential.batches import TargetCoverage
from prequential.capture import LossTap
from prequential.errors import MeasureError
from prequential.integrations.loop import Recording
from prequential.meter import Meter, read_sums
from prequential.remarks import returned_loss
from prequential.route import settle_route

SYMBOLS, WIDTH = 7, 5


def in_float64(logits, targets):
    """The oracle: the summed plain loss in float64."""
    return F.cross_entropy(logits.detach().double(), targets, reduction="sum").item()


@pytest.fixture
def module():
    """A model of one layer."""
    torch.manual_seed(1)
    return nn.Linear(WIDTH, SYMBOLS)


@pytest.fixture
def batch():
    """Features and targets."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(8, WIDTH, generator=generator), torch.randint(SYMBOLS, (8,), generator=generator)


class Watched:
    """Steps of a script under a tap that settles after the first, as a recorder does it."""

    def __init__(self, module):
        self.module, self.meter = module, Meter()
        self.tap, self.settled, self.reduced_by = LossTap(self.meter, hold=True), False, ""

    def __call__(self, step, batch):
        with self.tap.on(self.module, batch):
            loss = step(self.module, *batch)
        if not self.settled:
            self.reduced_by, self.settled = self.tap.settle(batch, returned_loss(loss)), True
        return loss

    @property
    def reading(self):
        return read_sums([self.meter.peek()])[0]


def learn(module, loss, *, by="step"):
    """Move the weights by the gradient of a loss."""
    module.zero_grad()
    loss.backward()
    if by == "step":
        torch.optim.SGD(module.parameters(), lr=0.5).step()
    elif by == "fused step":
        torch.optim.AdamW(module.parameters(), lr=0.5, fused=True).step()
    else:
        with torch.no_grad():
            module.weight.add_(module.weight.grad, alpha=0.5)


@pytest.mark.parametrize("by", ["step", "fused step", "hand"])
def test_a_second_pass_over_the_same_targets_is_no_code(by, module, batch):
    """Whatever moved the weights between two passes: the first counts, in every step."""

    def twice(module, x, y):
        learn(module, F.cross_entropy(module(x), y), by=by)
        loss = F.cross_entropy(module(x), y)
        learn(module, loss, by=by)
        return loss

    watched, expected = Watched(module), 0.0
    for _ in range(3):
        expected += in_float64(module(batch[0]), batch[1])
        watched(twice, batch)
    assert watched.reading.tally.coded_tokens == 24
    assert watched.reading.tally.nats == pytest.approx(expected, rel=1e-6)
    assert not watched.tap.late


def test_a_second_pass_over_one_half_is_no_code_of_the_other(module, batch):
    """The same memory is the same targets, even where two halves would look like the whole."""

    def half_twice(module, x, y):
        learn(module, F.cross_entropy(module(x[:4]), y[:4]))
        learn(module, F.cross_entropy(module(x[:4]), y[:4]))

    watched = Watched(module)
    expected = in_float64(module(batch[0][:4]), batch[1][:4])
    watched(half_twice, batch)
    assert watched.reading.tally.coded_tokens == 4
    assert watched.reading.tally.nats == pytest.approx(expected, rel=1e-6)


def test_small_steps_through_a_batch_are_code_even_where_targets_are_equal(module, batch):
    """Each part is scored before it is learnt from; equal labels are no second pass."""

    def by_halves(module, x, y):
        for part in range(2):
            learn(module, F.cross_entropy(module(x.chunk(2)[part]), y.chunk(2)[part]))

    watched = Watched(module)
    for _ in range(2):
        watched(by_halves, (batch[0], torch.zeros(8, dtype=torch.int64)))
    assert watched.reading.tally.coded_tokens == 16
    assert not watched.tap.late


def normalised(module, x):
    """A layer that normalises its weights in place before it uses them, and learns nothing by that."""
    with torch.no_grad():
        module.weight.div_(module.weight.norm())
    return module(x)


def test_weights_that_change_without_gradients_have_learnt_nothing(module, batch):
    """Normalisation in place is no update: neither late, nor a reason to drop the second of two heads."""
    watched = Watched(module)
    watched(lambda m, x, y: F.cross_entropy(normalised(m, x), y) + F.cross_entropy(normalised(m, x), y), batch)
    assert watched.reading.tally.coded_tokens == 16  # two terms a target: for `settle_route` to refuse
    assert not watched.tap.late


def test_a_pass_without_an_update_in_between_is_another_term(module, batch):
    """Gradients alone change nothing: two heads that are learnt one after the other are refused."""

    def two_terms(module, x, y):
        for _ in range(2):
            F.cross_entropy(module(x), y).backward()

    watched = Watched(module)
    watched(two_terms, batch)
    with pytest.raises(MeasureError, match="at most one loss term a target"):
        settle_route("auto", watched.reading, watched.tap.calls, None, batch, None, None)


@pytest.mark.parametrize("by", ["step", "fused step", "hand"])
def test_a_first_score_after_the_update_is_noticed_in_any_step(by, module, batch):
    """What is scored too late from the second step on is noticed then."""

    def hidden_loss(module, x, y):
        return -module(x).softmax(1).gather(1, y[:, None]).log().mean()

    def score_late(module, x, y):
        learn(module, hidden_loss(module, x, y), by=by)
        return F.cross_entropy(module(x), y)

    watched = Watched(module)
    watched(lambda m, x, y: F.cross_entropy(m(x), y), batch)
    assert not watched.tap.late
    watched(score_late, batch)
    assert watched.tap.late


def test_what_a_script_does_to_its_loss_in_place_is_not_counted(module, batch):
    """Losses, targets and logits may be overwritten before the first micro-batch is settled."""

    def careless(module, x, y):
        y, logits = y.clone(), module(x).detach()
        loss = F.cross_entropy(logits, y)
        loss /= 4
        y.fill_(-100)
        logits.zero_()
        return loss

    watched = Watched(module)
    watched(careless, batch)
    assert watched.reading.tally.coded_tokens == 8
    assert watched.reading.tally.nats == pytest.approx(in_float64(module(batch[0]), batch[1]), rel=1e-6)


@pytest.mark.parametrize("transform", ["vmap", "grad"])
def test_calls_inside_a_functional_transform_are_not_held(transform, module, batch):
    """They cannot be kept: that is counted, and the step goes on."""

    def step(module, x, y):
        if transform == "vmap":
            return torch.func.vmap(F.cross_entropy)(module(x)[:, None], y[:, None]).mean()
        return torch.func.grad(F.cross_entropy)(module(x).detach(), y)

    watched = Watched(module)
    watched(step, batch)
    with watched.tap:
        pass
    assert (watched.reading.calls, watched.reading.not_understood) == (0, 1)


ROWS, LENGTH = 6, 9


@pytest.fixture
def masked_batch():
    """Token ids, features, a mask, and another tensor that could be one."""
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(SYMBOLS, (ROWS, LENGTH), generator=generator)
    mask = (torch.rand(ROWS, LENGTH, generator=generator) < 0.6).float()
    return torch.randn(ROWS, LENGTH, WIDTH, generator=generator), ids, {"other": ids % 2, "mask": mask}


def losses_of(module, x, y):
    return F.cross_entropy(module(x).flatten(0, 1), y.flatten(), reduction="none")


MASKED = {
    "mean over the mask": lambda losses, mask: (losses * mask).sum() / mask.sum(),
    "sum": lambda losses, mask: (losses * mask).sum(),
    "mean over all": lambda losses, mask: (losses * mask).mean(),
    "chosen": lambda losses, mask: losses[mask > 0].mean(),
}


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("name", MASKED)
def test_a_mask_that_the_returned_loss_proves_is_believed(name, shift, module, masked_batch):
    """In the first batch and in later ones; labels that are shifted have their mask shifted."""

    def step(module, x, y, rest):
        x, y, mask = (x[:, :-1], y[:, 1:], rest["mask"][:, 1:]) if shift else (x, y, rest["mask"])
        return MASKED[name](losses_of(module, x, y), mask.flatten())

    watched, nats, coded, positions = Watched(module), 0.0, 0, 0
    for flip in (False, True):
        x, y, rest = masked_batch
        mask = 1 - rest["mask"] if flip else rest["mask"]
        watched(step, (x, y, {**rest, "mask": mask}))
        each = F.cross_entropy(module(x).double().flatten(0, 1), y.flatten(), reduction="none").view(ROWS, LENGTH)
        kept = (mask[:, 1:] > 0) if shift else mask > 0
        each = F.cross_entropy(module(x[:, :-1]).double().mT, y[:, 1:], reduction="none") if shift else each
        nats, coded, positions = nats + each[kept].sum().item(), coded + int(kept.sum()), positions + kept.numel()
    assert watched.reduced_by == "mask"
    assert (watched.reading.tally.coded_tokens, watched.reading.tally.positions) == (coded, positions)
    assert watched.reading.tally.nats == pytest.approx(nats, rel=1e-6)


UNPROVED = {
    "weights": lambda losses, mask: (losses * (mask + 0.5)).mean(),
    "a mask from elsewhere": lambda losses, mask: losses[::2].mean(),
    "no mask": lambda losses, mask: losses.mean(),
    "half precision": lambda losses, mask: ((losses * mask).sum() / mask.sum()).bfloat16(),
}


@pytest.mark.parametrize("name", UNPROVED)
def test_a_mask_that_is_not_proved_is_not_assumed(name, module, masked_batch):
    """All positions are coded, and it is known that the script reduced its losses itself."""
    watched = Watched(module)
    watched(lambda m, x, y, rest: UNPROVED[name](losses_of(m, x, y), rest["mask"].flatten()), masked_batch)
    assert watched.reduced_by == "script"
    assert watched.reading.tally.coded_tokens == ROWS * LENGTH


def test_where_all_losses_are_equal_no_mask_is_proved(module, masked_batch):
    """With weights of zero any mask with as many ones explains the loss."""
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    x, y, rest = masked_batch
    rest["other"] = rest["mask"].flip(0)
    watched = Watched(module)
    watched(lambda m, x, y, rest: (losses_of(m, x, y) * rest["mask"].flatten()).mean(), (x, y, rest))
    assert watched.reduced_by == "script"


def test_a_mask_of_ones_proves_nothing(module, masked_batch):
    """A script that takes the mean may or may not look at it: a later mask of its own must not be taken for granted."""
    x, y, rest = masked_batch
    rest["mask"] = torch.ones_like(rest["mask"])
    watched = Watched(module)
    watched(lambda m, x, y, rest: losses_of(m, x, y).mean(), (x, y, rest))
    assert watched.reduced_by == "script"


def recorded(path, module, step, batches):
    """A recorded loop, as its book tells it."""
    with Recording(path, bundle=None, every_n_steps=2) as recording:
        for batch in batches:
            with recording.batch(batch) as outputs:
                outputs["loss"] = step(module, *batch)
            recording.step()
    return recording.run


def other_batches(count):
    """Features and targets that are never the same."""
    return [(torch.randn(8, WIDTH), torch.randint(SYMBOLS, (8,))) for _ in range(count)]


@pytest.mark.filterwarnings("ignore::prequential.errors.PrequentialWarning")
def test_targets_that_no_call_covers_later_on_make_the_run_a_surrogate(module, tmp_path):
    """The first batch is covered, the fifth by half only: the run says so, in its grade and its summary."""
    sizes = iter([8, 8, 8, 8, 4, 8])

    def step(module, x, y):
        size = next(sizes)
        return F.cross_entropy(module(x[:size]), y[:size])

    run = recorded(tmp_path, module, step, other_batches(6))
    assert run.grade == "surrogate"
    assert [event["event"] for event in run.events] == ["uncovered"]
    assert "covered 4 target positions in the steps up to 5, whose batches hold 8" in run.summary()[1]


def smoothed(module, x, y):
    return F.cross_entropy(module(x), y, reduction="none", label_smoothing=0.2)


@pytest.mark.filterwarnings("ignore::prequential.errors.PrequentialWarning")
@pytest.mark.parametrize(
    ("events", "grade", "step"),
    [
        ([], "ideal", lambda m, x, y: F.cross_entropy(m(x), y)),
        ([], "ideal", lambda m, x, y: F.cross_entropy(m(x), y, reduction="none").mean()),
        (["not_likelihood"], "ideal", lambda m, x, y: F.cross_entropy(m(x), y, label_smoothing=0.2)),
        (["not_likelihood"], "ideal", lambda m, x, y: F.cross_entropy(m(x), y) + m.weight.square().sum()),
        (
            ["not_likelihood"],
            "ideal",
            lambda m, x, y: smoothed(m, x, y).sum(),
        ),
        (["disagree"], "surrogate", lambda m, x, y: (F.cross_entropy(m(x), y, reduction="none") * x[:, 0]).mean()),
        (["uncovered"], "surrogate", lambda m, x, y: F.cross_entropy(m(x[:5]), y[:5])),
    ],
)
def test_terms_beside_a_code_are_told_from_gaps_in_it(events, grade, step, module, tmp_path):
    """Smoothing and auxiliary terms leave the nats exact; what the script may have left out does not."""
    run = recorded(tmp_path, module, step, other_batches(3))
    assert (run.grade, [event["event"] for event in run.events]) == (grade, events)
    assert (f"grade {grade}, found" in run.summary()[1]) == (grade == "ideal")


@pytest.mark.filterwarnings("ignore::prequential.errors.PrequentialWarning")
def test_a_label_of_each_text_with_a_term_beside_it_is_a_surrogate(tmp_path):
    """Something else in the loss may be the code of the text itself: from here the two cannot be told apart."""
    torch.manual_seed(0)
    embedding, head = nn.Embedding(SYMBOLS, WIDTH), nn.Linear(WIDTH, 3)
    batches = [(torch.randint(SYMBOLS, (4, 9)), torch.randint(3, (4,))) for _ in range(2)]
    plain = recorded(tmp_path / "a", head, lambda m, x, y: F.cross_entropy(m(embedding(x).mean(1)), y), batches)
    beside = recorded(tmp_path / "b", head, lambda m, x, y: F.cross_entropy(m(embedding(x).mean(1)), y) + 1, batches)
    assert (plain.grade, beside.grade) == ("ideal", "surrogate")
    assert "a tensor of 36 may hold targets of a call that is not seen" in beside.summary()[1]


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="new in torch 2.13")
@pytest.mark.filterwarnings("ignore::prequential.errors.PrequentialWarning")
@pytest.mark.parametrize("beside", ["a label of each row", "another half"])
def test_a_compiled_chunked_loss_beside_one_that_is_seen_is_noticed(beside, tmp_path):
    """It is one opaque operator to the compiler: the positions of the batch, or its loss, tell that it is there."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    matrix, head = nn.Parameter(torch.randn(SYMBOLS, WIDTH)), nn.Linear(WIDTH, 3)
    options = nn.LinearCrossEntropyOptions(allow_retain_graph=True)

    def chunked(x, y):
        return F.linear_cross_entropy(x.flatten(0, 1), matrix, y.flatten(), options=options)

    compiled = torch.compile(chunked, backend="aot_eager", fullgraph=True)

    def step(module, x, y, labels):
        if beside == "another half":
            return compiled(x[:2], y[:2]) + chunked(x[2:], y[2:])
        return compiled(x, y) + F.cross_entropy(head(x.mean(1)), labels)

    batches = [(torch.randn(4, 9, WIDTH), torch.randint(SYMBOLS, (4, 9)), torch.randint(3, (4,))) for _ in range(2)]
    run = recorded(tmp_path, None, step, batches)
    assert run.grade == "surrogate"
    assert "not seen" in run.summary()[1]


def test_coverage_is_told_from_shapes():
    """Whole tensors, rows without their first target, and batches that change their kind."""
    ids, labels = torch.zeros(3, 10, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    coverage = TargetCoverage((ids, labels), 27, bits=False)
    assert (coverage.agrees, coverage.larger, coverage.sizes) == (True, None, [30, 3])
    assert TargetCoverage((ids, labels), 3, bits=False).larger == 30
    assert not TargetCoverage((ids, labels), 26, bits=False).agrees
    coverage.observe((ids, labels))
    coverage.observe((ids[:2, :7], labels[:2]))
    assert coverage.take() == [27 + 12]
    assert coverage.take() == [0]
    coverage.observe(ids)
    assert coverage.take() == []
