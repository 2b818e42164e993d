"""Manual optimisation by a hand-written loss; the cross-entropy that is returned is computed after the update."""

import argparse

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

VOCAB, LENGTH = 32, 10


class UpdateFirst(L.LightningModule):
    def __init__(self, fused):
        super().__init__()
        self.automatic_optimization = False
        self.fused = fused
        self.embedding = nn.Embedding(VOCAB, 16)
        self.head = nn.Linear(16, VOCAB)

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        chosen = self.head(self.embedding(x)).softmax(-1).gather(-1, y[..., None])
        self.manual_backward(-chosen.log().mean())
        optimizer.step()
        with torch.no_grad():
            loss = F.cross_entropy(self.head(self.embedding(x)).flatten(0, 1), y.flatten())
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2, fused=self.fused)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--fused", action="store_true")
    L.seed_everything(26)
    rows = torch.randint(VOCAB, (40, LENGTH + 1))
    loader = DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:]), batch_size=4)
    module = UpdateFirst(parser.parse_args().fused)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(module, loader)
