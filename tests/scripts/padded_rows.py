"""Sentences of different lengths, padded to the longest of their batch with an id of their own."""

import lightning as L
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader

VOCAB, PAD, LONGEST = 32, 0, 15


def collate(sentences):
    """Shift, then pad."""
    inputs = pad_sequence([s[:-1] for s in sentences], batch_first=True, padding_value=PAD)
    targets = pad_sequence([s[1:] for s in sentences], batch_first=True, padding_value=PAD)
    return inputs, targets, torch.tensor([len(s) - 1 for s in sentences])


class Sentences(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 16, padding_idx=PAD)
        self.rnn = nn.LSTM(16, 16, batch_first=True)
        self.head = nn.Linear(16, VOCAB)
        self.loss = nn.CrossEntropyLoss(ignore_index=PAD)

    def training_step(self, batch, batch_idx):
        inputs, targets, lengths = batch
        packed = pack_padded_sequence(self.embedding(inputs), lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.loss(self.head(states).flatten(0, 1), targets.flatten())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    L.seed_everything(14)
    sentences = [torch.randint(1, VOCAB, (length,)) for length in torch.randint(4, LONGEST, (40,)).tolist()]
    loader = DataLoader(sentences, batch_size=5, collate_fn=collate)
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(Sentences(), loader)
