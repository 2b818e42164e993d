"""Laws that any prequential code length must obey, with answers known in closed form."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toys import Toy, loader

from prequential import CompressionMonitor, Meter
from prequential.codelength import nats_to_bits
from prequential.ledger import read_book


def counting_logits(stream: torch.Tensor, symbols: int, prior: float) -> torch.Tensor:
    """Log-probabilities of a Dirichlet learner, each given only the symbols before it: shape (T, V)."""
    one_hot = F.one_hot(stream, symbols).double()
    before = one_hot.cumsum(0) - one_hot
    seen = torch.arange(len(stream), dtype=torch.float64)[:, None]
    return ((before + prior) / (seen + prior * symbols)).log()


def evidence_nats(stream: torch.Tensor, symbols: int, prior: float) -> float:
    """-ln of the Dirichlet-multinomial evidence of the whole stream, in closed form."""
    counts = torch.bincount(stream, minlength=symbols).tolist()
    total = len(stream)
    evidence = math.lgamma(prior * symbols) - math.lgamma(prior * symbols + total)
    evidence += sum(math.lgamma(count + prior) - math.lgamma(prior) for count in counts)
    return -evidence


@pytest.mark.parametrize(("symbols", "prior"), [(2, 0.5), (5, 0.5), (5, 1.0), (256, 0.5)])
def test_a_dirichlet_learner_costs_its_closed_form_evidence(symbols, prior):
    """Summed step by step, the code length of a KT learner is the evidence of the stream, to 1e-9."""
    generator = torch.Generator().manual_seed(symbols)
    stream = torch.multinomial(torch.rand(symbols, generator=generator), 5_000, True, generator=generator)
    meter = Meter()
    for start in range(0, len(stream), 700):
        logits = counting_logits(stream, symbols, prior)[start : start + 700]
        meter.update(logits=logits, targets=stream[start : start + 700])
    assert meter.read().nats == pytest.approx(evidence_nats(stream, symbols, prior), rel=1e-9)


def test_random_labels_cannot_be_compressed(trainer_of):
    """A network trained online on 4,000 random labels pays at least n log2 K - 20 bits (chance of less: 1e-6)."""
    import lightning as L
    from torch.utils.data import DataLoader, TensorDataset

    labels, classes = 4_000, 10

    class Learner(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, classes))

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.layers(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    L.seed_everything(3)
    data = TensorDataset(torch.randn(labels, 30), torch.randint(classes, (labels,)))
    trainer_of(CompressionMonitor(bundle=None, ledger="book.jsonl")).fit(Learner(), DataLoader(data, batch_size=20))
    run = read_book("book.jsonl")
    assert run.total.coded_tokens == labels
    assert nats_to_bits(run.total.nats) >= labels * math.log2(classes) - 20
    assert nats_to_bits(run.total.nats) < 1.1 * labels * math.log2(classes)


def test_a_learner_that_stands_still_pays_the_same_for_every_batch(trainer_of):
    """At learning rate 0 the code length is the loss of the first weights on all the data."""
    module = Toy(learning_rate=0.0)
    expected = sum(
        F.cross_entropy(module(x).flatten(0, 1).double(), y.flatten(), reduction="sum").item() for x, y in loader()
    )
    trainer_of(CompressionMonitor(bundle=None, ledger="book.jsonl")).fit(module, loader())
    assert read_book("book.jsonl").total.nats == pytest.approx(expected, rel=1e-7)
