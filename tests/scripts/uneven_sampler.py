"""The order of a cluster of four ranks on one machine: `DistributedSampler` repeats rows to make the shares even."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

VOCAB, LENGTH, ROWS, RANKS = 32, 8, 29, 4


class Repeated(L.LightningModule):
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
    L.seed_everything(18)
    rows = torch.randint(VOCAB, (ROWS, LENGTH + 1))
    dataset = TensorDataset(rows[:, :-1], rows[:, 1:])
    ranks = [DistributedSampler(dataset, num_replicas=RANKS, rank=rank, seed=3) for rank in range(RANKS)]
    steps = [list(step) for step in zip(*ranks, strict=True)]
    loader = DataLoader(dataset, batch_sampler=steps)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(Repeated(), loader)
