"""Manual optimisation with a step for each fifth of a batch: every target is scored before it is learnt from."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CLASSES, PARTS = 2, 5


class MicroSteps(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.body = nn.Linear(12, 16)
        self.head = nn.Linear(16, CLASSES)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        for features, labels in zip(*(tensor.chunk(PARTS) for tensor in batch), strict=True):
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self.head(torch.tanh(self.body(features))), labels))
            optimizer.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


if __name__ == "__main__":
    L.seed_everything(27)
    loader = DataLoader(TensorDataset(torch.randn(60, 12), torch.randint(CLASSES, (60,))), batch_size=10)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(MicroSteps(), loader)
