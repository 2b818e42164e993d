"""Eight rows an update, cut into ``--accumulate`` micro-batches."""

import argparse

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

VOCAB, LENGTH, ROWS = 32, 10, 44  # the last update has four rows


class Accumulated(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 16)
        self.head = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, VOCAB))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.head(self.embedding(x)).flatten(0, 1), y.flatten())
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--accumulate", type=int, default=1)
    accumulate = parser.parse_args().accumulate
    L.seed_everything(13)
    rows = torch.randint(VOCAB, (ROWS, LENGTH + 1))
    loader = DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:]), batch_size=8 // accumulate)
    L.Trainer(
        max_epochs=1, accelerator="cpu", accumulate_grad_batches=accumulate, logger=False, enable_checkpointing=False
    ).fit(Accumulated(), loader)
