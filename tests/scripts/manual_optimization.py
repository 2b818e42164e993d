"""Manual optimisation: one optimiser for matrices, one for the rest, a step every second batch."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

VOCAB, LENGTH, ACCUMULATE = 32, 10, 2


class TwoOptimizers(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.embedding = nn.Embedding(VOCAB, 16)
        self.rnn = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, VOCAB)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.head(self.rnn(self.embedding(x))[0]).flatten(0, 1), y.flatten()) / ACCUMULATE
        self.manual_backward(loss)
        if (batch_idx + 1) % ACCUMULATE == 0:
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()
            for schedule in self.lr_schedulers():
                schedule.step()
        self.log("loss", loss * ACCUMULATE)

    def configure_optimizers(self):
        matrices = [p for p in self.parameters() if p.dim() == 2]
        rest = [p for p in self.parameters() if p.dim() != 2]
        optimizers = [torch.optim.SGD(matrices, lr=0.1, momentum=0.9), torch.optim.AdamW(rest, lr=1e-3)]
        return optimizers, [torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9) for optimizer in optimizers]


if __name__ == "__main__":
    L.seed_everything(12)
    rows = torch.randint(VOCAB, (40, LENGTH + 1))
    loader = DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:]), batch_size=4)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(TwoOptimizers(), loader)
