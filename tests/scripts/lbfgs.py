"""L-BFGS asks for the loss several times a step."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CLASSES = 5


class Regression(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, CLASSES)

    def training_step(self, batch, batch_idx):
        features, labels = batch
        return F.cross_entropy(self.head(features), labels)

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.2, max_iter=5)


if __name__ == "__main__":
    L.seed_everything(24)
    loader = DataLoader(TensorDataset(torch.randn(60, 12), torch.randint(CLASSES, (60,))), batch_size=10)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(Regression(), loader)
