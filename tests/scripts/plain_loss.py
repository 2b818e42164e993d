"""A character model: embedding, GRU, head; the loss is the plain mean cross-entropy."""

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

VOCAB, LENGTH, ROWS = 32, 12, 48


class CharModel(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 16)
        self.rnn = nn.GRU(16, 24, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(24, VOCAB)

    def forward(self, tokens):
        states, _ = self.rnn(self.embedding(tokens))
        return self.head(self.dropout(states))

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits.view(-1, VOCAB), y.reshape(-1))
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/perplexity", loss.detach().exp())
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


if __name__ == "__main__":
    L.seed_everything(1)
    rows = torch.randint(VOCAB, (ROWS, LENGTH + 1))
    data = DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:]), batch_size=4, shuffle=True)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=CSVLogger("logs"), log_every_n_steps=5).fit(CharModel(), data)
