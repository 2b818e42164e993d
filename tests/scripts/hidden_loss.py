"""A compiled region that computes its loss inside a checkpoint, beside another loss in the open with ``--beside``."""

import argparse

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

VOCAB, LENGTH, CLASSES = 32, 10, 4


class Hidden(L.LightningModule):
    def __init__(self, beside, halves, backend):
        super().__init__()
        self.beside, self.halves = beside, halves
        self.embedding = nn.Embedding(VOCAB, 16)
        self.head = nn.Linear(16, VOCAB)
        self.classifier = nn.Linear(16, CLASSES)
        self.hidden = torch.compile(self.in_checkpoint, backend=backend)

    def loss(self, states, targets):
        return F.cross_entropy(self.head(states).flatten(0, 1), targets.flatten())

    def in_checkpoint(self, states, targets):
        return checkpoint(self.loss, states, targets, use_reentrant=False)

    def training_step(self, batch, batch_idx):
        x, y, labels = batch
        states = self.embedding(x)
        if self.halves:
            return self.hidden(states[:2], y[:2]) + self.loss(states[2:], y[2:])
        loss = self.hidden(states, y)
        return loss + F.cross_entropy(self.classifier(states.mean(1)), labels) if self.beside else loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--beside", action="store_true")
    parser.add_argument("--halves", action="store_true")
    parser.add_argument("--backend", default="aot_eager")
    arguments = vars(parser.parse_args())
    L.seed_everything(28)
    rows, labels = torch.randint(VOCAB, (32, LENGTH + 1)), torch.randint(CLASSES, (32,))
    loader = DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:], labels), batch_size=4)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(
        Hidden(**arguments), loader
    )
