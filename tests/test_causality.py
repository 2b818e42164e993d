"""The audit of causality: what it catches, what it lets pass, and that it leaves nothing behind."""

import lightning as L
import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toys import VOCABULARY, Toy, loader, rows

from prequential import CompressionMonitor, causality
from prequential.causality import audited
from prequential.errors import MeasureError
from prequential.ledger import read_book

TOKENS = rows(count=8, length=15)  # shape (8, 16)
TABLE = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0))


def causal(tokens):
    """Logits from all tokens so far."""
    return TABLE[tokens].cumsum(1)


def leaky(tokens):
    """Logits that also know, faintly, the next token but three."""
    return causal(tokens) + 0.5 * TABLE[tokens.roll(-3, 1)]


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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_causal_model_passes(layout):
    """Every layout of a batch."""
    step, batch = LAYOUTS[layout]
    assert audited(step(causal), batch) == (True, None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_model_that_looks_ahead_is_caught(layout):
    """Even by a little."""
    step, batch = LAYOUTS[layout]
    finding = audited(step(leaky), batch)
    assert finding.causal is False
    assert "when later tokens of the row were changed: the model sees what it codes" in finding.message


def test_ignored_targets_have_no_score_wherever_the_id_is_given():
    """The slot at the end of each row is ignored by the script, so it is ignored here."""
    step, batch = LAYOUTS["positional"]
    nats, _ = causality._scored(step(causal), batch)
    assert torch.equal(nats.view(8, 16)[:, -1], torch.zeros(8, dtype=nats.dtype))
    assert (nats.view(8, 16)[:, :-1] > 0).all()


def test_what_cannot_be_audited_says_why():
    """No layout, and no loss calls."""
    finding = audited(lambda batch: F.cross_entropy(TABLE[batch[0]], batch[0]), [torch.arange(8)])
    assert (finding.causal, "does not show" in finding.message) == (None, True)
    assert audited(lambda batch: None, [TOKENS]).causal is None


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
