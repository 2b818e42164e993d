"""The layer, or with ``--loss-inside`` head and loss too, is computed again in the backward pass."""

import argparse

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

VOCAB, LENGTH = 32, 10


class Checkpointed(L.LightningModule):
    def __init__(self, loss_inside, manual, reentrant):
        super().__init__()
        self.automatic_optimization = not manual
        self.loss_inside, self.reentrant = loss_inside, reentrant
        self.embedding = nn.Embedding(VOCAB, 16)
        self.layer = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 16))
        self.head = nn.Linear(16, VOCAB)

    def loss(self, states, targets):
        return F.cross_entropy(self.head(states).flatten(0, 1), targets.flatten())

    def layer_and_loss(self, states, targets):
        return self.loss(states + self.layer(states), targets)

    def training_step(self, batch, batch_idx):
        x, y = batch
        states = self.embedding(x)
        if self.loss_inside:
            loss = checkpoint(self.layer_and_loss, states, y, use_reentrant=self.reentrant)
        else:
            loss = self.loss(states + checkpoint(self.layer, states, use_reentrant=self.reentrant), y)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
            optimizer.step()
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for flag in ("--loss-inside", "--manual", "--reentrant"):
        parser.add_argument(flag, action="store_true")
    arguments = vars(parser.parse_args())
    L.seed_everything(9)
    rows = torch.randint(VOCAB, (32, LENGTH + 1))
    loader = DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:]), batch_size=4)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(
        Checkpointed(**arguments), loader
    )
