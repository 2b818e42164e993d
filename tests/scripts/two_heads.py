"""Multi-token prediction: one head for the next token, one for the token after it."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

VOCAB, LENGTH = 24, 10


class MultiToken(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 16)
        self.trunk = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, VOCAB)
        self.next_head = nn.Linear(16, VOCAB)

    def forward(self, tokens):
        states = self.trunk(self.embedding(tokens))[0]
        return self.head(states), self.next_head(states)

    def training_step(self, rows, batch_idx):
        first, second = self(rows[:, :-2])
        loss = F.cross_entropy(first.flatten(0, 1), rows[:, 1:-1].flatten())
        further = F.cross_entropy(second.flatten(0, 1), rows[:, 2:].flatten())
        return loss + 0.3 * further

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    L.seed_everything(5)
    loader = DataLoader(torch.randint(VOCAB, (32, LENGTH + 2)), batch_size=4)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(MultiToken(), loader)
