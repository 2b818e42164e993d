"""Continual learning: half of every batch is drawn again from the rows seen so far."""

import random

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

VOCAB, LENGTH, ROWS = 32, 8, 40


class WithReplay(IterableDataset):
    def __iter__(self):
        buffer = []
        for row in torch.randint(VOCAB, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(1)):
            buffer.append(row)
            old = random.choice(buffer)
            yield row[:-1], row[1:]
            yield old[:-1], old[1:]


class Continual(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 16)
        self.head = nn.Linear(16, VOCAB)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.head(self.embedding(x)).flatten(0, 1), y.flatten())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    L.seed_everything(19)
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(Continual(), DataLoader(WithReplay(), batch_size=8))
