"""Mixed precision, or with ``--precision bf16-true`` half precision throughout."""

import argparse

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

VOCAB, LENGTH = 48, 12


class Mixed(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 24)
        self.layers = nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 48), nn.SiLU(), nn.Linear(48, 24))
        self.head = nn.Linear(24, VOCAB)
        self.loss_fn = nn.CrossEntropyLoss()

    def training_step(self, batch, batch_idx):
        x, y = batch
        states = self.embedding(x)
        loss = self.loss_fn(self.head(states + self.layers(states)).flatten(0, 1), y.flatten())
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", default="bf16-mixed")
    arguments = parser.parse_args()
    L.seed_everything(11)
    rows = torch.randint(VOCAB, (48, LENGTH + 1))
    loader = DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:]), batch_size=6)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", precision=arguments.precision, logger=False, enable_checkpointing=False
    )
    trainer.fit(Mixed(), loader)
