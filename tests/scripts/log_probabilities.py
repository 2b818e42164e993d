"""`nll_loss` on the log-probabilities that the model ends with, or with ``--unnormalised`` on scores that are none."""

import argparse

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

VOCAB, LENGTH = 32, 10


class LogProbabilities(L.LightningModule):
    def __init__(self, unnormalised):
        super().__init__()
        self.unnormalised = unnormalised
        self.embedding = nn.Embedding(VOCAB, 16)
        self.head = nn.Linear(16, VOCAB)

    def forward(self, tokens):
        scores = self.head(self.embedding(tokens))
        return F.logsigmoid(scores) if self.unnormalised else F.log_softmax(scores, dim=-1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.nll_loss(self(x).flatten(0, 1), y.flatten())
        self.log("nll", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--unnormalised", action="store_true")
    arguments = parser.parse_args()
    L.seed_everything(22)
    rows = torch.randint(VOCAB, (32, LENGTH + 1))
    loader = DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:]), batch_size=4)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(
        LogProbabilities(arguments.unnormalised), loader
    )
