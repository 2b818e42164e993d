"""nanoGPT's `get_batch`: crops of one long text at random places, with replacement, no epochs."""

import argparse

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

VOCAB, BATCH = 32, 6


class Crops(IterableDataset):
    def __init__(self, data, block):
        self.data, self.block = data, block

    def __iter__(self):
        while True:
            places = torch.randint(len(self.data) - self.block, (BATCH,)).tolist()
            x = torch.stack([self.data[i : i + self.block] for i in places])
            y = torch.stack([self.data[i + 1 : i + 1 + self.block] for i in places])
            yield x, y


class NanoGPT(L.LightningModule):
    def __init__(self, block):
        super().__init__()
        self.wte = nn.Embedding(VOCAB, 16)
        self.wpe = nn.Embedding(block, 16)
        self.c_attn = nn.Linear(16, 48, bias=False)
        self.lm_head = nn.Linear(16, VOCAB, bias=False)
        self.wte.weight = self.lm_head.weight

    def forward(self, idx, targets):
        x = self.wte(idx) + self.wpe.weight[: idx.shape[1]]
        x = x + F.scaled_dot_product_attention(*self.c_attn(x).chunk(3, -1), is_causal=True)
        logits = self.lm_head(x)
        return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)

    def training_step(self, batch, batch_idx):
        _, loss = self(*batch)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", type=int, default=100_000)
    parser.add_argument("--block", type=int, default=12)
    arguments = parser.parse_args()
    L.seed_everything(1337)
    data = torch.randint(VOCAB, (arguments.text,))
    trainer = L.Trainer(
        max_steps=20, accelerator="cpu", gradient_clip_val=1.0, logger=False, enable_checkpointing=False
    )
    trainer.fit(NanoGPT(arguments.block), DataLoader(Crops(data, arguments.block), batch_size=None))
