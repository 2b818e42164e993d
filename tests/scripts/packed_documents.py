"""Documents packed into blocks of one length; none attends to another, none predicts the first token of the next."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

VOCAB, BLOCK, END = 32, 16, 31


class Packed(IterableDataset):
    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        tokens, documents = [], []
        for number, length in enumerate(torch.randint(4, 12, (80,), generator=generator).tolist()):
            tokens += [*torch.randint(END, (length,), generator=generator).tolist(), END]
            documents += [number] * (length + 1)
            while len(tokens) > BLOCK:
                row, owner = torch.tensor(tokens[: BLOCK + 1]), torch.tensor(documents[: BLOCK + 1])
                labels = torch.where(owner[1:] == owner[:-1], row[1:], -100)
                yield {"tokens": row[:-1], "labels": labels, "documents": owner[:-1]}
                tokens, documents = tokens[BLOCK:], documents[BLOCK:]


class BlockDiagonal(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 16)
        self.qkv = nn.Linear(16, 48)
        self.head = nn.Linear(16, VOCAB)

    def forward(self, tokens, documents):
        states = self.embedding(tokens)
        mask = (documents[:, :, None] == documents[:, None, :]).tril()
        attended = F.scaled_dot_product_attention(*self.qkv(states).chunk(3, -1), attn_mask=mask)
        return self.head(states + attended)

    def training_step(self, batch, batch_idx):
        logits = self(batch["tokens"], batch["documents"])
        loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
        self.log("loss", loss, batch_size=len(logits))
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    L.seed_everything(15)
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(BlockDiagonal(), DataLoader(Packed(), batch_size=4, drop_last=True))
