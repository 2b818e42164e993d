"""A small language model whose loss has a z-loss added, as in PaLM, and an L2 term; embeddings are tied."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

VOCAB, LENGTH = 40, 10


class Tied(L.LightningModule):
    def __init__(self, z_weight=1e-2):
        super().__init__()
        self.z_weight = z_weight
        self.embedding = nn.Embedding(VOCAB, 16)
        self.mixer = nn.LSTM(16, 16, batch_first=True)
        self.lm_head = nn.Linear(16, VOCAB, bias=False)
        self.lm_head.weight = self.embedding.weight

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.lm_head(self.mixer(self.embedding(x))[0])
        nll = F.cross_entropy(input=logits.flatten(0, 1), target=y.flatten())
        z_loss = self.z_weight * logits.logsumexp(-1).square().mean()
        decay = 1e-4 * sum(p.square().sum() for p in self.parameters())
        self.log_dict({"nll": nll, "z_loss": z_loss})
        return {"loss": nll + z_loss + decay}

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


if __name__ == "__main__":
    L.seed_everything(4)
    rows = torch.randint(VOCAB, (40, LENGTH + 1))
    loader = DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:]), batch_size=5)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(Tied(), loader)
