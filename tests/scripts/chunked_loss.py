"""The head and the loss go over the time axis in chunks, to save the memory of the logits."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

VOCAB, LENGTH, CHUNK = 64, 14, 4


class Chunked(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 16)
        self.rnn = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, VOCAB)

    def training_step(self, batch, batch_idx):
        x, y = batch
        states = self.rnn(self.embedding(x))[0]
        total = torch.zeros(())
        for part, targets in zip(states.split(CHUNK, dim=1), y.split(CHUNK, dim=1), strict=True):
            logits = self.head(part).float()
            total = total + F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        return total / y.numel()

    def configure_optimizers(self):
        return torch.optim.RMSprop(self.parameters(), lr=1e-3)


if __name__ == "__main__":
    L.seed_everything(8)
    rows = torch.randint(VOCAB, (40, LENGTH + 1))
    loader = DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:]), batch_size=5)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(Chunked(), loader)
