"""Black and white images, pixel by pixel from the row above: binary cross-entropy with logits."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

SIDE = 8


class Pixels(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(SIDE, 16)
        self.head = nn.Linear(16, SIDE)

    def training_step(self, images, batch_idx):
        above = F.pad(images, (0, 0, 1, 0))[:, :-1]
        return F.binary_cross_entropy_with_logits(self.head(torch.relu(self.body(above))), images)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    L.seed_everything(23)
    images = (torch.rand(48, SIDE, SIDE) < 0.3).float()
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(Pixels(), DataLoader(images, batch_size=6))
