"""The audit of causality: what it catches, what it lets pass, and that it leaves nothing behind."""

from collections import UserDict
from typing import NamedTuple

import lightning as L
import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toys import VOCABULARY, Toy, loader, rows

from prequential import CompressionMonitor
from prequential.causality import audited
from prequential.causality.audit import _scored
from prequential.errors import MeasureError
from prequential.ledger import read_book

TOKENS = rows(count=8, length=15)  # shape (8, 16)
TABLE = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0))


def causal(tokens):
    """Logits from all tokens so far."""
    return TABLE[tokens].cumsum(1)


def leaky(tokens, ahead):
    """Logits that also know, faintly, a token ahead."""
    return causal(tokens) + 0.5 * TABLE[tokens.roll(-ahead, 1)]


def pairs_step(model):
    return lambda batch: F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def sliced_step(model):
    return lambda batch: F.cross_entropy(model(batch["ids"])[:, :-1].transpose(1, 2), batch["ids"][:, 1:])


def padded_step(model):
    def step(batch):
        targets = F.pad(batch["ids"][:, 1:], (0, 1), value=-100)
        return F.cross_entropy(model(batch["ids"]).flatten(0, 1), targets.flatten(), label_smoothing=0.1)

    return step


def positional_step(model):
    """The ignored id given by its place: a pad token that a model may not be scored on."""

    def step(batch):
        targets = F.pad(batch["ids"][:, 1:], (0, 1), value=-7)
        return F.cross_entropy(model(batch["ids"]).flatten(0, 1), targets.flatten(), None, None, -7)

    return step


LAYOUTS = {
    "positional": (positional_step, {"ids": TOKENS}),
    "pairs": (pairs_step, [TOKENS[:, :-1], TOKENS[:, 1:]]),
    "sliced": (sliced_step, {"ids": TOKENS}),
    "padded": (padded_step, {"ids": TOKENS, "mask": torch.ones_like(TOKENS)}),
}


def split_step(model):
    """The loss in pieces of time."""

    def step(batch):
        parts = zip(model(batch[0]).split(4, 1), batch[1].split(4, 1), strict=True)
        return sum(F.cross_entropy(logits.flatten(0, 1), targets.flatten()) for logits, targets in parts)

    return step


def rowwise_step(model):
    """The loss in pieces of rows, by log-probabilities."""

    def step(batch):
        parts = zip(model(batch[0]).split(3), batch[1].split(3), strict=True)
        return sum(F.nll_loss(logits.log_softmax(-1).transpose(1, 2), targets) for logits, targets in parts)

    return step


def fused_step(model):
    """Labels inside the model too, which shifts them by itself."""
    return lambda batch: F.cross_entropy(model(F.pad(batch.ids[:, :-1], (1, 0))).flatten(0, 1), batch.ids.flatten())


class Batch(NamedTuple):
    ids: torch.Tensor
    rest: tuple = ()


class Encoding(UserDict):
    """A mapping of its own kind, as tokenizers give."""


LAYOUTS |= {
    "split": (split_step, [TOKENS[:, :-1], TOKENS[:, 1:]]),
    "rowwise": (rowwise_step, (TOKENS[:, :-1], TOKENS[:, 1:])),
    "inside": (fused_step, Batch(TOKENS)),
    "mapping": (sliced_step, Encoding({"ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)})),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_causal_model_passes(layout):
    """Every layout of a batch; earlier scores stay, later ones move."""
    step, batch = LAYOUTS[layout]
    finding = audited(step(causal), batch)
    assert finding[:3] == (True, None, 0)
    assert finding.later_nats > 0.1


@pytest.mark.parametrize("ahead", [1, 2, 3, 7])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_model_that_looks_ahead_is_caught(layout, ahead):
    """Even by a little, and even by one token only: its own target."""
    step, batch = LAYOUTS[layout]
    finding = audited(step(lambda tokens: leaky(tokens, ahead)), batch)
    assert finding.causal is False
    assert finding.earlier_nats > 0.1
    assert "when later tokens of the row were changed: the model sees what it codes" in finding.message


def test_a_forgotten_shift_is_caught():
    """Inputs that are the targets, or come after them: each token is predicted from itself."""
    assert audited(pairs_step(causal), [TOKENS, TOKENS.clone()]).causal is False
    assert audited(pairs_step(causal), [TOKENS, TOKENS]).causal is False
    assert audited(pairs_step(causal), [TOKENS[:, 1:], TOKENS[:, :-1]]).causal is False
    assert audited(lambda batch: F.cross_entropy(TABLE[batch], batch), torch.arange(8)).causal is False


@pytest.mark.parametrize("place", range(1, 15))
def test_a_leak_at_one_place_is_caught(place):
    """Rows are cut at different places."""

    def model(tokens):
        logits = causal(tokens)
        logits[:, place - 1] += TABLE[tokens[:, place]]
        return logits

    batch = [TOKENS.repeat(2, 1)[:, :-1], TOKENS.repeat(2, 1)[:, 1:]]
    assert audited(pairs_step(causal), batch).causal is True
    assert audited(pairs_step(model), batch).causal is False


def test_only_targets_that_count_are_held_against_each_other():
    """With a masked prompt, the leak shows where a target is scored."""
    targets = TOKENS[:, 1:].clone()
    targets[:, :11] = -100
    targets[0] = -100
    only_fourth = torch.where(torch.arange(15) == 3, TOKENS[:, 1:], -100)
    for batch in ([TOKENS[:, :-1], targets], [TOKENS[:, :-1], only_fourth]):
        assert audited(pairs_step(lambda tokens: leaky(tokens, 1)), batch).causal is False
    assert audited(pairs_step(causal), [TOKENS[:, :-1], targets]).causal is True


def test_weights_and_smoothing_of_the_loss_change_no_finding():
    """Scores are those of the plain model."""
    weight = torch.linspace(0, 1, VOCABULARY)

    def step(batch):
        return F.cross_entropy(causal(batch[0]).flatten(0, 1), batch[1].flatten(), weight, False)

    plain = audited(pairs_step(causal), [TOKENS[:, :-1], TOKENS[:, 1:]])
    assert audited(step, [TOKENS[:, :-1], TOKENS[:, 1:]]).later_nats == pytest.approx(plain.later_nats, rel=1e-5)


@pytest.mark.parametrize("leak", [False, True])
def test_bits_of_pictures_are_audited(leak):
    """Each row of pixels from those above it, or from itself as well."""
    images = (torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    above = torch.randn(8, 8, generator=torch.Generator().manual_seed(2))

    def step(batch):
        logits = F.pad(batch, (0, 0, 1, 0))[:, :-1] @ above + (batch.flip(2) if leak else 0)
        return F.binary_cross_entropy_with_logits(logits, batch)

    assert audited(step, images).causal is not leak


def test_labels_that_the_model_is_not_given_pass():
    """No score moves, and that says it; unless the labels are given to the model."""
    pictures = torch.randn(8, 20, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(8)
    assert audited(lambda batch: F.cross_entropy(batch[0], batch[1]), [pictures, labels]).causal is True
    finding = audited(lambda batch: F.cross_entropy(batch[0] + F.one_hot(batch[1], 20), batch[1]), [pictures, labels])
    assert finding.causal is False


def test_masked_tokens_that_the_model_is_not_given_pass():
    """The others are side information."""
    hole = torch.arange(16) % 5 == 0
    batch = [torch.where(hole, 0, TOKENS), torch.where(hole, TOKENS, -100)]
    assert audited(pairs_step(lambda tokens: TABLE[tokens.roll(1, 1)]), batch).causal is True


@pytest.mark.parametrize("ahead", [None, 1, 4])
def test_inputs_with_other_tokens_in_the_place_of_some_are_found(ahead):
    """A script that drops words from its inputs."""
    dropped = torch.rand(TOKENS.shape, generator=torch.Generator().manual_seed(5)) < 0.25
    batch = [torch.where(dropped, 0, TOKENS)[:, :-1], TOKENS[:, 1:]]
    step = pairs_step(causal if ahead is None else lambda tokens: leaky(tokens, ahead))
    assert audited(step, batch).causal is (ahead is None)


def test_a_batch_that_repeats_itself_is_taken_as_a_language_model_has_it():
    """Rows of one token agree at every shift; a causal model is not accused for it."""
    tokens = torch.arange(8).unsqueeze(1).expand(8, 16)
    assert audited(pairs_step(causal), [tokens[:, :-1], tokens[:, 1:]]).causal is True


def test_a_model_that_looks_at_nothing_yet_is_not_called_causal():
    """A head that begins with zeros, and one distribution for all."""
    zeros = audited(pairs_step(lambda tokens: 0 * causal(tokens)), [TOKENS[:, :-1], TOKENS[:, 1:]])
    same = audited(pairs_step(lambda tokens: 0 * causal(tokens) + TABLE[0]), [TOKENS[:, :-1], TOKENS[:, 1:]])
    inside = audited(fused_step(lambda tokens: 0 * causal(tokens)), Batch(TOKENS))
    for finding in (zeros, same, inside):
        assert (finding.causal, finding.blind) == (None, True)
        assert "no score moved when tokens were changed, not even later ones" in finding.message


def test_ignored_targets_have_no_score_wherever_the_id_is_given():
    """The slot at the end of each row is ignored by the script, so it is ignored here."""
    step, batch = LAYOUTS["positional"]
    (call,) = _scored(step(causal), batch, None)
    nats = call.nats.view(8, 16)
    assert torch.equal(nats[:, -1], torch.zeros(8, dtype=nats.dtype))
    assert (nats[:, :-1] > 0).all()


def test_what_cannot_be_audited_says_why():
    """No layout, no loss calls, other targets the second time, and scores that are no numbers."""
    finding = audited(lambda batch: F.cross_entropy(TABLE[batch[0]], 7 - batch[0]), [torch.arange(8)])
    assert (finding.causal, "does not show" in finding.message, finding.blind) == (None, True, False)
    assert audited(lambda batch: None, [TOKENS]).causal is None
    pieces = iter([1, 3])
    batch = [TOKENS[:, :-1], TOKENS[:, 1:]]
    finding = audited(lambda given: [pairs_step(causal)(given) for _ in range(next(pieces))], batch)
    assert (finding.causal, "other targets are scored" in finding.message) == (None, True)
    finding = audited(pairs_step(lambda tokens: causal(tokens) / 0), [TOKENS[:, :-1], TOKENS[:, 1:]])
    assert (finding.causal, "not all scores are finite" in finding.message) == (None, True)


class WithState(Toy):
    """Dropout, running statistics and logging: all that an extra run could leave behind."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8, momentum=0.5)
        self.dropout = nn.Dropout(0.2)

    def forward(self, inputs):
        hidden = self.dropout(self.embedding(inputs))
        return self.head(self.norm(hidden.transpose(1, 2)).transpose(1, 2))

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss


def trained(trainer_of, **options):
    """Weights, running statistics, random state and logged mean after a run."""
    L.seed_everything(0)
    module = WithState()
    trainer = trainer_of(CompressionMonitor(bundle=None, ledger=str(len(options)), **options))
    trainer.fit(module, loader())
    return module.state_dict(), torch.get_rng_state(), trainer.callback_metrics["loss"]


def test_the_audit_leaves_nothing_behind(trainer_of):
    """Weights, statistics, random state and logged means are bit-identical with it."""
    plain, with_audit = trained(trainer_of), trained(trainer_of, audit="full")
    assert all(torch.equal(plain[0][name], with_audit[0][name]) for name in plain[0])
    assert torch.equal(plain[1], with_audit[1])
    assert torch.equal(plain[2], with_audit[2])
    assert read_book("1/book.jsonl").total == read_book("0/book.jsonl").total


class Leaky(Toy):
    """Sees the token after the next."""

    def forward(self, inputs):
        return self.head(self.embedding(inputs) + self.embedding(inputs.roll(-2, 1)))


def test_a_leaky_run_is_a_surrogate(trainer_of):
    """Training goes on; the book says what was found, and the grade follows."""
    data = DataLoader(TensorDataset(TOKENS[:, :-1], TOKENS[:, 1:]), batch_size=4)
    trainer_of(CompressionMonitor(bundle=None, ledger="book.jsonl", audit="full")).fit(Leaky(), data)
    run = read_book("book.jsonl")
    assert run.grade == "surrogate"
    assert [event["event"] for event in run.events] == ["not_causal"]
    assert run.status == "completed"


class BeginsWithZeros(Leaky):
    """Looks at no token before its first update."""

    def __init__(self, learning_rate):
        super().__init__(learning_rate)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


def test_a_head_that_begins_with_zeros_is_audited_once_it_has_learnt(trainer_of):
    """At the second micro-batch; where nothing is learnt it stays unknown, and the book says so."""
    data = DataLoader(TensorDataset(TOKENS[:, :-1], TOKENS[:, 1:]), batch_size=2)
    for name, learning_rate in (("learns", 1.0), ("stays", 0.0)):
        monitor = CompressionMonitor(bundle=None, ledger=name, audit="full")
        module = BeginsWithZeros(learning_rate)
        nn.init.normal_(module.embedding.weight)
        trainer_of(monitor).fit(module, data)
    assert [event["event"] for event in read_book("learns/book.jsonl").events] == ["not_causal"]
    assert [event["event"] for event in read_book("stays/book.jsonl").events] == ["not_audited"]
    assert "not even later ones" in read_book("stays/book.jsonl").events[0]["message"]


def test_the_mode_that_is_coded_is_audited(trainer_of):
    """Statistics over the positions of a batch let later tokens in while it trains, not in evaluation mode."""
    for rescore in (None, "eval"):
        monitor = CompressionMonitor(bundle=None, ledger=str(rescore), audit="full", rescore=rescore)
        trainer_of(monitor).fit(WithState(), DataLoader(loader().dataset, batch_size=8))
    assert [event["event"] for event in read_book("None/book.jsonl").events] == ["cross_row", "not_causal"]
    assert read_book("eval/book.jsonl").events == []


def test_a_run_that_cannot_be_audited_says_so(trainer_of):
    """Manual optimisation learns inside the step."""

    class Manual(Toy):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            self.manual_backward(loss)
            self.optimizers().step()

    trainer_of(CompressionMonitor(bundle=None, ledger="book.jsonl", audit="full")).fit(Manual(), loader())
    run = read_book("book.jsonl")
    assert (run.grade, [event["event"] for event in run.events]) == ("ideal", ["not_audited"])
    assert "under manual optimisation the training step learns" in run.events[0]["message"]


def test_a_compiled_module_is_audited_as_written(trainer_of):
    """Nothing more is compiled for the audit."""
    data = DataLoader(TensorDataset(TOKENS[:, :-1], TOKENS[:, 1:]), batch_size=4)
    graphs = {}
    for audit in (None, "full"):
        torch._dynamo.reset()
        counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
        monitor = CompressionMonitor(bundle=None, ledger=str(audit), audit=audit)
        trainer_of(monitor).fit(torch.compile(Leaky(), backend=counter), data)
        graphs[audit] = counter.frame_count
    assert graphs[None] == graphs["full"] > 0
    assert read_book("full/book.jsonl").grade == "surrogate"


def test_other_audits_are_refused():
    """The constructor says which there is."""
    with pytest.raises(MeasureError, match="expected audit to be 'full' or None, got 'half'"):
        CompressionMonitor(audit="half")
