"""The loss of every position is multiplied by a mask, then divided by the sum of the mask.

With ``--late`` the first batch has nothing to mask; with ``--weights`` the positions are weighted, not masked.
"""

import argparse

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

VOCAB, LENGTH = 32, 12


class Masked(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 16)
        self.head = nn.Linear(16, VOCAB)

    def training_step(self, batch, batch_idx):
        x, y, mask = batch
        losses = F.cross_entropy(self.head(self.embedding(x)).flatten(0, 1), y.flatten(), reduction="none")
        return (losses * mask.flatten()).sum() / mask.sum()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--late", action="store_true")
    parser.add_argument("--weights", action="store_true")
    arguments = parser.parse_args()
    L.seed_everything(16)
    rows = torch.randint(VOCAB, (32, LENGTH + 1))
    mask = (torch.rand(32, LENGTH) < 0.7).float()
    if arguments.late:
        mask[:4] = 1
    if arguments.weights:
        mask = mask + 0.5
    loader = DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:], mask), batch_size=4)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(Masked(), loader)
