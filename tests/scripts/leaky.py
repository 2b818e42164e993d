"""A language model whose author forgot the causal mask: it sees the tokens that it predicts."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

VOCAB, LENGTH = 32, 12


class Bidirectional(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 16)
        self.position = nn.Embedding(LENGTH, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, VOCAB)

    def forward(self, tokens):
        return self.head(self.encoder(self.embedding(tokens) + self.position.weight))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x).flatten(0, 1), y.flatten())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    L.seed_everything(21)
    rows = torch.randint(VOCAB, (48, LENGTH + 1))
    loader = DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:]), batch_size=6)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(Bidirectional(), loader)
