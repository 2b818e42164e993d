"""Sharpness-aware minimisation by hand: a second forward and backward pass at the perturbed weights."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CLASSES, RADIUS = 5, 0.05


class Sharpness(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.body = nn.Linear(12, 16)
        self.head = nn.Linear(16, CLASSES)

    def loss(self, batch):
        features, labels = batch
        return F.cross_entropy(self.head(torch.tanh(self.body(features))), labels)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = self.loss(batch)
        self.manual_backward(loss)
        moves = [RADIUS * p.grad / p.grad.norm().clamp(min=1e-12) for p in self.parameters()]
        self.move(moves, 1)
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        self.move(moves, -1)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    @torch.no_grad()
    def move(self, moves, sign):
        for parameter, move in zip(self.parameters(), moves, strict=True):
            parameter.add_(move, alpha=sign)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


if __name__ == "__main__":
    L.seed_everything(25)
    loader = DataLoader(TensorDataset(torch.randn(60, 12), torch.randint(CLASSES, (60,))), batch_size=10)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(Sharpness(), loader)
