"""What the monitor costs: trainings that differ in their callbacks alone, step by step in turn in one process.

Run ``python tests/benchmarks/overhead.py``. It prints how often the host waited for the device between two log points,
and then for each model how long a step takes beside the bare one: with the monitor, and with what people use today.
Each training runs in a greenlet, all of them in one thread, and takes one step at a time, in random order: a machine
that is slower for a while is slower for all of them. Only the ratios mean anything. Needs ``pip install greenlet``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import greenlet
import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics.text import Perplexity

from prequential import CompressionMonitor

LENGTH, BATCH = 128, 8
FIRST, STEPS = 20, 270
LOG_EVERY = 50  # steps between two log points, as Lightning has it
DOC = Path(__file__).parents[2] / "docs" / "explanation" / "overhead.md"
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
MODELS = (  # width, layers, vocabulary
    (32, 1, 512),
    (192, 3, 512),
    (128, 2, 8192),
)


class Model(L.LightningModule):
    """A small transformer over random tokens."""

    def __init__(self, width: int, layers: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True, dropout=0.0)
        self.trunk = nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(width, vocabulary)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """Score the next tokens."""
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        hidden = self.trunk(self.embedding(batch[:, :-1]), mask=mask, is_causal=True)
        logits = self.head(hidden)
        self.looked_at(logits, batch[:, 1:])
        return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    def looked_at(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Nothing, in the bare training."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain AdamW."""
        return torch.optim.AdamW(self.parameters())


class Logged(Model):
    """Logs its loss at every step."""

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """Score the next tokens."""
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss)
        return loss


class Perplexed(Model):
    """Updates torchmetrics' perplexity at every step."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.perplexity = Perplexity()

    def looked_at(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Update it."""
        self.perplexity.update(logits.detach(), targets)


class Scored(Model):
    """Scores the tokens once more, one by one."""

    def looked_at(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Sum them up."""
        with torch.no_grad():
            F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").sum()


class Stream(torch.utils.data.IterableDataset):
    """Yields rows, which the monitor does not know to come once."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Go through them once."""
        return iter(self.rows)


ARMS = {  # name: module, whether monitored, whether its rows come as a stream
    "bare": (Model, False, False),
    "bare, once more": (Model, False, False),
    "monitor": (Model, True, False),
    "monitor, a stream": (Model, True, True),
    "self.log of the loss": (Logged, False, False),
    "unreduced cross-entropy": (Scored, False, False),
    "torchmetrics Perplexity": (Perplexed, False, False),
}


class Turns:
    """Lets one training at a time run a step, in an order that is drawn anew for each round."""

    def __init__(self, sizes: tuple[int, int, int]) -> None:
        self.seconds: dict[str, list[float]] = {name: [] for name in ARMS}
        self._began, self._hub = 0.0, greenlet.getcurrent()
        trainings = {name: greenlet.greenlet(train) for name in ARMS}
        for name, training in trainings.items():
            training.switch(name, sizes, self)
        while left := [training for training in trainings.values() if not training.dead]:
            for training in random.sample(left, len(left)):
                self._began = time.perf_counter()
                training.switch()

    def wait(self) -> None:
        """Wait for the first turn."""
        self._hub.switch()

    def end_step(self, name: str) -> None:
        """End a step, and wait for the next turn."""
        self.seconds[name].append(time.perf_counter() - self._began)
        self._hub.switch()


class Turn(L.Callback):
    """Ends a turn after each batch; it stands last in the list, so that the monitor's work is inside."""

    def __init__(self, turns: Turns, name: str) -> None:
        self.turns, self.name = turns, name

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait for the others."""
        self.turns.wait()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        """Let the next one run."""
        self.turns.end_step(self.name)


def train(name: str, sizes: tuple[int, int, int], turns: Turns) -> None:
    """Train one of the arms, a step at each of its turns."""
    kind, monitored, stream = ARMS[name]
    rows = torch.randint(sizes[2], (STEPS * BATCH, LENGTH + 1))
    with tempfile.TemporaryDirectory() as folder:
        watch: list[L.Callback] = [CompressionMonitor(bundle=None, ledger=folder)] if monitored else []
        trainer = L.Trainer(max_steps=STEPS, accelerator="cpu", callbacks=[*watch, Turn(turns, name)], **QUIET)
        trainer.fit(kind(*sizes), torch.utils.data.DataLoader(Stream(rows) if stream else rows, batch_size=BATCH))


def ratios(seconds: list[float], bare: list[float]) -> tuple[float, float, float]:
    """How much longer a step takes, log points shared out, and the 95 % interval of that by a bootstrap over rounds.

    Medians: what interrupts a step, whatever it comes from, is many times what is measured.
    """
    numbered = list(enumerate(zip(seconds, bare, strict=True), start=1))[FIRST:]
    rounds = [pair for step, pair in numbered if step % LOG_EVERY]
    at_log_points = statistics.median(ours for step, (ours, _) in numbered if step % LOG_EVERY == 0)
    extra = max(0.0, at_log_points - statistics.median(ours for ours, _ in rounds)) / LOG_EVERY
    drawn = sorted(_ratio(random.choices(rounds, k=len(rounds)), extra) for _ in range(1000))
    return _ratio(rounds, extra), drawn[25], drawn[975]


def _ratio(rounds: list[tuple[float, float]], extra: float) -> float:
    usual, bare = (statistics.median(column) for column in zip(*rounds, strict=True))
    return (usual + extra) / bare


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
            data = torch.randint(512, (40 * BATCH, LENGTH + 1))
            trainer.fit(Model(32, 1, 512), torch.utils.data.DataLoader(data, batch_size=BATCH))
    finally:
        for name, original in originals.items():
            setattr(torch.Tensor, name, original)
    assert logged[31] > logged[30], "nothing was counted at the log point itself: the counter is broken"
    return logged[30] - logged[16]


def measured() -> Iterator[str]:
    """Lines of the table."""
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    yield f"Measured {date.today()}: {threads}, torch {torch.__version__}."
    yield ""
    yield "| model | training | step, beside the bare one [95 %] |"
    yield "|---|---|---|"
    for sizes in MODELS:
        turns = Turns(sizes)
        step_ms = 1e3 * statistics.median(turns.seconds["bare"][FIRST:])
        model = "width {}, {} layers, vocabulary {:,}".format(*sizes) + f": {step_ms:.1f} ms a step"
        for name in list(ARMS)[1:]:
            middle, low, high = ratios(turns.seconds[name], turns.seconds["bare"])
            yield f"| {model} | {name} | {middle:.3f} [{low:.3f}, {high:.3f}] |"
            model = ""


def main() -> None:
    """Print the table; with ``--write``, put it into the page about overhead."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    print(f"waits for the device between two log points: {waits()}", flush=True)
    lines = []
    for line in measured():
        print(line, flush=True)
        lines.append(line)
    if "--write" in sys.argv:
        before, _, rest = DOC.read_text().partition("<!-- measured -->\n")
        after = rest.partition("<!-- end -->\n")[2]
        DOC.write_text(f"{before}<!-- measured -->\n" + "\n".join(lines) + f"\n<!-- end -->\n{after}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
