"""Compress real text by training on it once: two byte-level models of different strength, one training program.

    python examples/compress_text.py                  # source text of Python's own standard library
    python examples/compress_text.py --text FILE      # any file
    python examples/compress_text.py --verify         # writes it as bitstreams, and decodes that of the large model

The module below is a plain LightningModule and knows nothing of prequential. What measures is the `CompressionMonitor`
among the trainer's callbacks. The text is read by it, so that the same script can be run by somebody who has only the
bitstream: it then never sees the text, but learns it byte by byte.
"""

import argparse
import functools
import os
import sysconfig
import warnings
from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
import wandb
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import WandbLogger
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader, Dataset

from prequential import CompressionMonitor, compare, load_run
from prequential.baselines import baselines
from prequential.cli import main as prequential
from prequential.views import comparison_table

SIZES = {  # the longest context in bytes, width of an embedding, width of the hidden layer
    "small": (4, 8, 64),
    "large": (8, 24, 128),
}
ROWS = 2**18  # of each table of hashed contexts


class ByteModel(L.LightningModule):
    """Predicts the next byte from the hashes of the last 1, 2, ... bytes before it, each with a table of embeddings."""

    def __init__(self, size: str):
        super().__init__()
        self.save_hyperparameters()
        self.orders, width, hidden = SIZES[size]
        self.table = nn.Embedding(self.orders * ROWS, width, sparse=True)
        nn.init.normal_(self.table.weight, std=0.05)
        self.layers = nn.Sequential(nn.Linear(self.orders * width, hidden), nn.ReLU(), nn.Linear(hidden, 256))

    def forward(self, context, length):
        """Logits for the last `length` bytes' successors, from `context` of shape (streams, at least length)."""
        end, state, rows = context.shape[1], torch.zeros_like(context[:, -length:]), []
        for order in range(self.orders):
            byte = context[:, end - length - order : end - order]
            state = (state * 0x2F0B4C47 + byte + 1) & 0x3FFFFFFFFFFF
            mixed = ((state ^ (state >> 15)) * 0x2545F491) & 0x3FFFFFFFFFFF
            rows.append((mixed >> 20) % ROWS + order * ROWS)
        return self.layers(self.table(torch.stack(rows, -1)).flatten(2))

    def training_step(self, batch, batch_idx):
        """A plain mean cross-entropy."""
        context, targets = batch
        logits = self(context, targets.shape[1])
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def configure_optimizers(self):
        """Adagrad takes sparse gradients; a table row learns fast while it is new."""
        tables = {"params": self.table.parameters(), "lr": 0.3}
        return torch.optim.Adagrad([tables, {"params": self.layers.parameters(), "lr": 0.03}])


class Streams(Dataset):
    """A text as parallel streams: item i holds bytes i * step to (i + 1) * step of each, every byte exactly once."""

    def __init__(self, ids: torch.Tensor, streams: int = 8, step: int = 16, context: int = 8):
        self.step, self.context = step, context
        length = -(-len(ids) // (streams * step)) * step
        missing = streams * length - len(ids)
        self.inputs = F.pad(F.pad(ids, (0, missing)).view(streams, length), (context, 0))
        self.targets = F.pad(ids, (0, missing), value=-100).view(streams, length)  # cross_entropy ignores -100

    def __len__(self):
        """How many steps there are."""
        return self.targets.shape[1] // self.step

    def __getitem__(self, i):
        """Contexts and targets of step i, a row for each stream."""
        here = i * self.step
        context = self.inputs[:, here : here + self.step + self.context - 1]
        return context, self.targets[:, here : here + self.step]


def standard_library():
    """Source text of Python's standard library, which every machine with Python has."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return b"".join(file.read_bytes() for file in files)


def read(options):
    """The text that was asked for."""
    if options.text and not options.text.is_file():
        raise SystemExit(f"expected a file, got {options.text}: name one that exists")
    text = (options.text.read_bytes() if options.text else standard_library())[: max(0, options.bytes)]
    if not text:
        raise SystemExit("expected at least one byte of text, got none: name a file that is not empty")
    return text


def usual(options):
    """What the text comes to under the usual compressors."""
    text = read(options)
    print(f"{len(text):,} bytes, once through gzip, bzip2, xz and zstd, then through two models that learn as they go")
    return baselines(text)


def train(size, options, sizes):
    """Train once over the text; return where the book and the W&B run lie."""
    L.seed_everything(0, verbose=False)
    logger = WandbLogger(project="compress-text", name=size, save_dir=options.out)
    monitor = CompressionMonitor(token_bytes="bytes", baselines=sizes, name=size, bitstream=options.verify)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=logger,
        callbacks=[monitor, TQDMProgressBar(refresh_rate=100)],
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    ids = monitor.tokens(lambda: read(options))
    trainer.fit(ByteModel(size), DataLoader(Streams(ids), batch_size=None))
    wandb_run = logger.experiment.settings.sync_dir
    wandb.finish()
    return monitor.book, wandb_run


def main():
    """Train both models and set them beside the usual compressors."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", type=Path, help="file to compress (default: Python's standard library)")
    parser.add_argument("--bytes", type=int, default=2_000_000, help="how many of its bytes (default: %(default)s)")
    parser.add_argument("--out", type=Path, default="runs", help="folder for what is written (default: %(default)s)")
    parser.add_argument("--verify", action="store_true", help="write bitstreams, and decode the last one again")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # matrices this small gain nothing from more, and suffer where cores are busy
    warnings.filterwarnings("ignore", "Sparse invariant checks|.*does not have many workers|.*treespec")
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("WANDB_SILENT", "true")

    sizes = functools.cache(lambda: usual(options))
    places = [train(size, options, sizes) for size in SIZES]
    runs = [load_run(book) for book, _ in places]
    Console().print(comparison_table(compare(runs)))
    for run, (book, wandb_run) in zip(runs, places, strict=True):
        print(f"{run.name}\n  book     {book}\n  bundle   {book.with_name('bundle.tar.xz')}\n  W&B run  {wandb_run}")
    if options.verify:
        print()
        prequential(["verify", str(places[-1][0])], standalone_mode=False)
    print(f"\nlook closer:    prequential show {places[-1][0]}\nsee the curves: wandb leet {places[-1][1]}")


if __name__ == "__main__":
    main()
