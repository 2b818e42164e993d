"""A tagger for unbalanced classes: weighted loss, imported under a short name, class dimension in second place."""

import lightning as L
import torch
from torch import nn
from torch.nn.functional import cross_entropy as ce
from torch.utils.data import DataLoader, TensorDataset

WORDS, TAGS = 50, 6


class Tagger(L.LightningModule):
    def __init__(self, frequencies):
        super().__init__()
        self.register_buffer("class_weights", 1.0 / frequencies)
        self.embed = nn.Embedding(WORDS, 12)
        self.conv = nn.Conv1d(12, 12, 3, padding=1)
        self.head = nn.Conv1d(12, TAGS, 1)

    def training_step(self, batch, batch_idx):
        words, tags = batch
        scores = self.head(torch.relu(self.conv(self.embed(words).transpose(1, 2))))  # (B, TAGS, T)
        return ce(scores, tags, weight=self.class_weights)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    L.seed_everything(3)
    frequencies = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    words = torch.randint(WORDS, (60, 9))
    tags = torch.multinomial(frequencies, 60 * 9, replacement=True).view(60, 9)
    loader = DataLoader(TensorDataset(words, tags), batch_size=6)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(
        Tagger(frequencies), loader
    )
