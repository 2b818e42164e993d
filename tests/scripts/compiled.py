"""`torch.compile` of the network inside the module, or with ``--whole`` of the module with its loss."""

import argparse

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

VOCAB, LENGTH = 32, 10


class Compiled(L.LightningModule):
    def __init__(self, inside, backend):
        super().__init__()
        network = nn.Sequential(nn.Embedding(VOCAB, 16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, VOCAB))
        self.net = torch.compile(network, backend=backend) if inside else network

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.net(x).flatten(0, 1), y.flatten())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--backend", default="aot_eager")
    arguments = parser.parse_args()
    L.seed_everything(10)
    module = Compiled(inside=not arguments.whole, backend=arguments.backend)
    if arguments.whole:
        module = torch.compile(module, backend=arguments.backend)
    rows = torch.randint(VOCAB, (32, LENGTH + 1))
    loader = DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:]), batch_size=4)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(module, loader)
