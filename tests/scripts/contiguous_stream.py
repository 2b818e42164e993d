"""One long text in order: every row goes on where the row before it ended."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

VOCAB, LENGTH = 32, 10


class Stream(L.LightningModule):
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
    L.seed_everything(26)
    text = torch.randint(VOCAB, (32 * LENGTH + 1,))
    loader = DataLoader(TensorDataset(text[:-1].view(-1, LENGTH), text[1:].view(-1, LENGTH)), batch_size=4)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(Stream(), loader)
