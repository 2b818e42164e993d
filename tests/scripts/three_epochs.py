"""Three shuffled epochs over the same rows, with validation between them."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

VOCAB, LENGTH = 32, 8


class Repeated(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 16)
        self.head = nn.Linear(16, VOCAB)

    def loss(self, batch):
        x, y = batch
        return F.cross_entropy(self.head(self.embedding(x)).flatten(0, 1), y.flatten())

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}


if __name__ == "__main__":
    L.seed_everything(17)
    rows = torch.randint(VOCAB, (32, LENGTH + 1))
    train, validation = (TensorDataset(part[:, :-1], part[:, 1:]) for part in (rows[:24], rows[24:]))
    trainer = L.Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(Repeated(), DataLoader(train, batch_size=4, shuffle=True), DataLoader(validation, batch_size=4))
