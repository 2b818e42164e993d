"""What the monitor costs: the same training with and without it, interleaved in one process, as paired ratios.

Run ``python tests/benchmarks/overhead.py``; it prints how often the host waited for the device between two log points,
then a line for each model size and kind of loader: a data set that is gone through once, and a stream, whose rows may
come again and are scored one by one. Steps 20 to 80 are timed, with the three log points among them. Only the ratio
means anything.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
import traceback
import warnings

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn

from prequential import CompressionMonitor

VOCABULARY, LENGTH, BATCH = 512, 128, 8
PAIRS, FIRST, STEPS = 9, 20, 80


QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Model(L.LightningModule):
    """A small transformer over random tokens."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True, dropout=0.0)
        self.trunk = nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(width, VOCABULARY)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """Score the next tokens."""
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        hidden = self.trunk(self.embedding(batch[:, :-1]), mask=mask, is_causal=True)
        return F.cross_entropy(self.head(hidden).flatten(0, 1), batch[:, 1:].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain AdamW."""
        return torch.optim.AdamW(self.parameters())


class Stream(torch.utils.data.IterableDataset):
    """Yields rows, which the monitor does not know to come once."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def __iter__(self):
        """Go through them once."""
        return iter(self.rows)


def seconds(width: int, layers: int, *, monitored: bool, stream: bool) -> float:
    """Time one fit; what happens before the first of the timed steps and after the last is left out."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        watch: list[L.Callback] = [CompressionMonitor(bundle=None, ledger=folder)] if monitored else []
        trainer = L.Trainer(
            max_steps=STEPS,
            accelerator="cpu",
            callbacks=[*watch, clock],
            **QUIET,
        )
        rows = torch.randint(VOCABULARY, (STEPS * BATCH, LENGTH + 1))
        data = torch.utils.data.DataLoader(Stream(rows) if stream else rows, batch_size=BATCH)
        trainer.fit(Model(width, layers), data)
    return clock.end - clock.begin


class Clock(L.Callback):
    """Reads the time after the first of the timed batches and after the last."""

    begin = end = 0.0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Read the time; it stands last in the list, so the monitor's work is inside."""
        if batch_idx == FIRST:
            self.begin = time.perf_counter()
        self.end = time.perf_counter()


def waits() -> int:
    """How often a value was asked for on the host between two log points, by the monitor's own code."""
    asked, monitored, logged = [0], CompressionMonitor(bundle=None, every_n_steps=16), []
    originals = {name: getattr(torch.Tensor, name) for name in ("item", "tolist", "cpu", "__bool__", "__int__")}

    def counting(name: str):
        def call(self, *args, **kwargs):
            asked[0] += any("prequential" in frame.filename for frame in traceback.extract_stack()[-4:-1])
            return originals[name](self, *args, **kwargs)

        return call

    class Marks(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            logged.append(asked[0])

    for name in originals:
        setattr(torch.Tensor, name, counting(name))
    try:
        with tempfile.TemporaryDirectory() as folder:
            monitored.ledger = folder
            trainer = L.Trainer(max_steps=40, accelerator="cpu", callbacks=[monitored, Marks()], **QUIET)
            data = torch.randint(VOCABULARY, (40 * BATCH, LENGTH + 1))
            trainer.fit(Model(32, 1), torch.utils.data.DataLoader(data, batch_size=BATCH))
    finally:
        for name, original in originals.items():
            setattr(torch.Tensor, name, original)
    assert logged[31] > logged[30], "nothing was counted at the log point itself: the counter is broken"
    return logged[30] - logged[16]


def main() -> None:
    """Print the paired ratios."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    print(f"waits for the device between two log points: {waits()}")
    for width, layers in ((32, 1), (192, 3)):
        for stream in (False, True):
            ratios = []
            for pair in range(PAIRS):
                order = (True, False) if pair % 2 else (False, True)
                taken = {on: seconds(width, layers, monitored=on, stream=stream) for on in order}
                ratios.append(taken[True] / taken[False])
                step_ms = 1e3 * taken[False] / (STEPS - 1 - FIRST)
            low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
            print(
                f"width {width}, {layers} layers, {'a stream' if stream else 'a data set'}, {step_ms:.1f} ms a step: "
                f"with/without {middle:.3f} [{low:.3f}, {high:.3f}]",
                flush=True,
            )


if __name__ == "__main__":
    main()
