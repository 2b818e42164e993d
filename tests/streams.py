"""Small causal models over placeholders, and both ways through them in one process."""

import contextlib
import json
import warnings

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from prequential import CompressionMonitor, load_run
from prequential.bitstream.job import VARIABLE, Job


class Bytes(L.LightningModule):
    """Predicts the next token from the two before it; pairs of inputs and targets."""

    def __init__(self, symbols=256, dropout=0.0):
        super().__init__()
        self.embedding, self.mix = nn.Embedding(symbols, 16), nn.Conv1d(16, 32, 2)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(32, symbols)

    def forward(self, inputs):
        hidden = F.pad(self.embedding(inputs).transpose(1, 2), (1, 0))
        return self.head(self.dropout(F.relu(self.mix(hidden)).transpose(1, 2)))

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        return F.cross_entropy(self(inputs).flatten(0, 1), targets.flatten())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Transformer(Bytes):
    """Attention with a causal mask and dropout; tokens are shifted inside, the last target left out."""

    def __init__(self, symbols=256, dropout=0.1):
        super().__init__(symbols, dropout)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=dropout, batch_first=True)
        self.head = nn.Linear(16, symbols)

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.layer(self.embedding(tokens), src_mask=mask, is_causal=True))

    def training_step(self, batch, batch_idx):
        (tokens,) = batch
        return F.cross_entropy(self(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), label_smoothing=0.1)


def pairs(ids, length=8, batch_size=4, stride=None, **options):
    """Inputs and targets in rows, which share a token with the row before, or more; what fills no row is left out."""
    rows = ids.unfold(0, length + 1, stride or length) if len(ids) > length else ids.new_empty(0, length + 1)
    return DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:]), batch_size=batch_size, **options)


def rows(ids, length=8, batch_size=4, **options):
    """Tokens in rows of their own, the last one filled up."""
    filled = F.pad(ids, (0, -len(ids) % length), value=0).view(-1, length)
    return DataLoader(TensorDataset(filled), batch_size=batch_size, **options)


def streams(ids, length=8, count=3):
    """The data side by side: each batch goes on from the one before; begins with 0, ends with what is ignored."""
    missing = -len(ids) % count
    targets = F.pad(ids, (0, missing), value=-100).view(count, -1)
    inputs = F.pad(F.pad(ids, (0, missing)).view(count, -1)[:, :-1], (1, 0))
    cut = zip(inputs.split(length, 1), targets.split(length, 1), strict=True)
    return DataLoader([(a.clone(), b.clone()) for a, b in cut], batch_size=None)


class Left(BaseException):
    """The process would have ended here."""


def train(monitor, data, module=Bytes, feed=pairs, seed=0, ckpt_path=None, **trainer):
    """Fit on what the monitor gives; the module and the random state afterwards."""
    L.seed_everything(seed, verbose=False)
    trained = module()
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False} | trainer
    fit = L.Trainer(
        accelerator="cpu",
        callbacks=[monitor, *options.pop("callbacks", [])],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fit.fit(trained, feed(monitor.tokens(data)), ckpt_path=ckpt_path)
    return trained, torch.get_rng_state()


def written(folder, data, table="bytes", **options):
    """Train with a bitstream; the run and what was trained."""
    monitor = CompressionMonitor(token_bytes=table, ledger=folder, bundle=None, bitstream=True)
    trained = train(monitor, data, **options)
    return load_run(folder), trained


def decoded(folder, monkeypatch, table="bytes", unended=False, prefix=None, **options):
    """Train again without the data; what comes out, and what a decoding tells beside it."""
    told = []
    monkeypatch.setattr(Job, "leave", lambda self: (_ for _ in ()).throw(Left))
    monkeypatch.setattr(Job, "_tell", lambda self, **facts: told.append(facts))
    job = {"stream": str(folder / "data.bits"), "output": str(folder / "found"), "unended": unended, "prefix": prefix}
    monkeypatch.setenv(VARIABLE, json.dumps(job))
    monitor = CompressionMonitor(token_bytes=table, bitstream=True)
    monkeypatch.delenv(VARIABLE)
    with contextlib.suppress(Left):
        train(monitor, folder / "not there", **options)
    found = folder / "found"
    return found.read_bytes() if found.exists() else None, told[-1]
