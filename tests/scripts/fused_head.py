"""Torch's fused head and loss: the logits are never formed."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

VOCAB, LENGTH = 32, 10


class Fused(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, VOCAB, bias=False)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.linear_cross_entropy(self.norm(self.embedding(x)).flatten(0, 1), self.head.weight, y.flatten())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    L.seed_everything(27)
    rows = torch.randint(VOCAB, (32, LENGTH + 1))
    loader = DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:]), batch_size=4)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(Fused(), loader)
