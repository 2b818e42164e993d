"""Small modules and data that the tests train on: they know nothing of prequential."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

VOCABULARY = 20
WIDTH = 8


class Toy(L.LightningModule):
    """Predicts each token from the one before it, with a plain mean cross-entropy."""

    def __init__(self, learning_rate: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(inputs))

    def loss(self, batch):
        inputs, targets = batch
        return F.cross_entropy(self(inputs).flatten(0, 1), targets.flatten())

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.learning_rate)


def rows(count: int = 32, length: int = 6) -> torch.Tensor:
    """Token ids of shape (count, length + 1), always the same."""
    return torch.randint(VOCABULARY, (count, length + 1), generator=torch.Generator().manual_seed(7))


def loader(batch_size: int = 4, count: int = 32, length: int = 6) -> DataLoader:
    """Shifted rows (inputs, targets), in order."""
    tokens = rows(count, length)
    return DataLoader(TensorDataset(tokens[:, :-1], tokens[:, 1:]), batch_size=batch_size)


def by_hand(module: L.LightningModule, batches, *, steps_every: int = 1) -> float:
    """The second route: the same training as a plain loop, its nats summed in float64 from the logits."""
    optimizer = module.configure_optimizers()
    nats = 0.0
    for number, (inputs, targets) in enumerate(batches, start=1):
        logits = module(inputs).flatten(0, 1)
        nats += F.cross_entropy(logits.detach().double(), targets.flatten(), reduction="sum").item()
        (F.cross_entropy(logits, targets.flatten()) / steps_every).backward()
        if number % steps_every == 0:
            optimizer.step()
            optimizer.zero_grad()
    return nats


class FakeRun:
    """Keeps what a W&B run is given."""

    id, project, entity = "abc", "toys", "us"

    def __init__(self):
        self.declared, self.rows, self.artifacts, self.summary, self.charts = [], [], [], {}, []

    def define_metric(self, name, step_metric=None, hidden=None):
        self.declared.append(name)

    def log(self, row, **options):
        assert not options, "no step: W&B counts rows itself"
        (self.charts if all(key.startswith("Compression/") for key in row) else self.rows).append(row)

    def log_artifact(self, artifact):
        self.artifacts.append(sorted(artifact.manifest.entries))
