"""Instruction tuning: the first third of every row is the prompt, its targets are -100."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

VOCAB, LENGTH, PROMPT = 30, 12, 4


class Conversations(Dataset):
    def __len__(self):
        return 42

    def __getitem__(self, index):
        row = torch.randint(VOCAB, (LENGTH + 1,), generator=torch.Generator().manual_seed(index))
        labels = row[1:].clone()
        labels[:PROMPT] = -100
        return {"input_ids": row[:-1], "labels": labels}


class Tuner(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, VOCAB)

    def training_step(self, batch, batch_idx):
        mask = nn.Transformer.generate_square_subsequent_mask(batch["input_ids"].shape[1])
        logits = self.head(self.layer(self.embedding(batch["input_ids"]), src_mask=mask, is_causal=True))
        loss = F.cross_entropy(logits.transpose(1, 2), batch["labels"])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3, betas=(0.9, 0.95))


if __name__ == "__main__":
    L.seed_everything(6)
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, gradient_clip_val=1)
    trainer.fit(Tuner(), DataLoader(Conversations(), batch_size=6, shuffle=True))
