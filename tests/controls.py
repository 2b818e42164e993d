"""Small models to be run on data whose shortest code is known: plain modules, which know nothing of prequential.

    python tests/controls.py FOLDER     # prints the table of docs/explanation/controls.md, in some minutes

FOLDER holds `images` and `text` with the files that `control_data.py` names.
"""

from __future__ import annotations

import functools
import logging
import math
import runpy
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from control_data import BASES, CLASSES, arrangement_bits, counting_bits, genome, mnist, random_text
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from prequential import CompressionMonitor, Run, load_run
from prequential.baselines import baselines
from prequential.codelength import nats_to_bits

# -- models ---------------------------------------------------------------------------------------------------------


class Digits(L.LightningModule):
    """The label of a 28 x 28 image, by two small convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 7 * 7, CLASSES),
        )

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return F.cross_entropy(self.layers(images[:, None].float() / 255), labels)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


class ContextModel(L.LightningModule):
    """The next letter from the `order` letters before it; a row of logits for each such context."""

    def __init__(self, order: int, symbols: int) -> None:
        super().__init__()
        self.order, self.symbols = order, symbols

    def contexts(self, inputs: Tensor) -> Tensor:
        """The number that the letters before each target spell."""
        powers = self.symbols ** torch.arange(self.order)
        return (inputs.unfold(1, self.order, 1) * powers).sum(-1).flatten()


class Softmax(ContextModel):
    """Logits learnt by gradient descent, from nothing."""

    def __init__(self, order: int, symbols: int) -> None:
        super().__init__(order, symbols)
        self.table = nn.Embedding.from_pretrained(torch.zeros(symbols**order, symbols), freeze=False)

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        return F.cross_entropy(self.table(self.contexts(inputs)), targets.flatten())

    def configure_optimizers(self):
        return torch.optim.Adagrad(self.parameters(), lr=0.3)


class Counting(ContextModel):
    """The estimator of Krichevsky and Trofimov: probabilities are counts, half a count for every letter beforehand."""

    def __init__(self, order: int, symbols: int) -> None:
        super().__init__(order, symbols)
        self.automatic_optimization = False
        self.register_buffer("counts", torch.full((symbols**order, symbols), 0.5, dtype=torch.float64))

    def training_step(self, batch, batch_idx):
        rows, targets = self.contexts(batch[0]), batch[1].flatten()
        seen = F.one_hot(rows * self.symbols + targets, self.counts.numel()).double()
        before = (seen.cumsum(0) - seen).view(-1, *self.counts.shape)[torch.arange(len(rows)), rows]
        loss = F.cross_entropy((self.counts[rows] + before).log(), targets)
        self.counts += seen.sum(0).view_as(self.counts)
        return loss

    def configure_optimizers(self):
        return None


class Letters(Dataset):
    """A sequence of ids in steps: the next `step` letters as targets, and they with the `order` before as inputs."""

    def __init__(self, ids: Tensor, order: int, step: int) -> None:
        self.ids, self.order, self.step = F.pad(ids, (order, 0)), order, step

    def __len__(self) -> int:
        return -(-(len(self.ids) - self.order) // self.step)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        piece = self.ids[i * self.step : (i + 1) * self.step + self.order][None]
        return piece[:, :-1], piece[:, self.order :]


@functools.cache
def example() -> dict[str, Any]:
    """The names of examples/compress_text.py: a byte-level model of hashed contexts, and its data set."""
    return runpy.run_path(str(Path(__file__).parents[1] / "examples" / "compress_text.py"), run_name="example")


# -- runs -----------------------------------------------------------------------------------------------------------


def run_of(module: L.LightningModule, data: Iterable[Any], *, max_epochs: int = 1, token_bytes: Any = None) -> Run:
    """Train under a monitor and read the book back."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=max_epochs,
            callbacks=[CompressionMonitor(bundle=None, ledger=folder, token_bytes=token_bytes)],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(module, data)
        return load_run(folder)


def bits_of(run: Run) -> float:
    return nats_to_bits(run.total.nats)


def label_run(images: Tensor, labels: Tensor, **options: Any) -> Run:
    """The code of labels given their images: the same weights at the start, the same order."""
    L.seed_everything(0, verbose=False)
    return run_of(Digits(), DataLoader(TensorDataset(images, labels), batch_size=10), **options)


def byte_run(text: bytes) -> Run:
    L.seed_everything(0, verbose=False)
    ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    streams = example()["Streams"](ids, streams=4, step=32)
    return run_of(example()["ByteModel"]("small"), DataLoader(streams, batch_size=None))


def letter_run(model: type[ContextModel], text: bytes, order: int, step: int, alphabet: bytes = BASES) -> Run:
    ids = torch.tensor([alphabet.index(letter) for letter in text])
    return run_of(model(order, len(alphabet)), DataLoader(Letters(ids, order, step), batch_size=None))


# -- the table ------------------------------------------------------------------------------------------------------


def table(data: Path) -> Iterator[tuple[str, str, float, str, float]]:
    """Rows of data, model, its bits, what they are held against, and the bits of that."""
    labelled = mnist(data, 60_000)
    uniform_bits = len(labelled.labels) * math.log2(CLASSES)
    arranged_bits = arrangement_bits(labelled.labels.tolist())
    for what, labels, against, bits in [
        ("60,000 labels of MNIST", labelled.labels, "uniform", uniform_bits),
        ("the same, permuted", labelled.permuted, "arrangements", arranged_bits),
        ("60,000 random labels", labelled.drawn, "uniform", uniform_bits),
    ]:
        yield what, "`Digits`", bits_of(label_run(labelled.images, labels)), against, bits
    text = random_text(data)
    yield "100,000 random characters", "`ByteModel`", bits_of(byte_run(text)), "6 bits each", 6.0 * len(text)
    yield from compressed(text, "6 bits each", 6.0 * len(text))
    letters = genome(data, 4_641_652)
    counted_bits = counting_bits(letters, 3)
    run = letter_run(Counting, letters, 3, 2048)
    yield "genome of *E. coli*, 4,641,652 letters", "`Counting`, order 3", bits_of(run), "by hand", counted_bits
    yield "", "`Softmax`, order 3", bits_of(letter_run(Softmax, letters, 3, 128)), "`Counting`", counted_bits
    yield "", "`ByteModel`", bits_of(byte_run(letters)), "2 bits each", 2.0 * len(letters)
    yield from compressed(letters, "2 bits each", 2.0 * len(letters))


def compressed(text: bytes, against: str, bits: float) -> Iterator[tuple[str, str, float, str, float]]:
    """Rows of the usual compressors."""
    for name, size_bytes in baselines(text).items():
        if name != "uniform":
            yield "", f"`{name}`", 8.0 * size_bytes, against, bits


def main() -> None:
    """Print the table as it stands on the page."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    print("| data | model | bits | held against | its bits | ratio |\n|---|---|---:|---|---:|---:|")
    for what, model, bits, against, other_bits in table(Path(sys.argv[1])):
        row = [what, model, f"{bits:,.0f}", against, f"{other_bits:,.0f}", f"{bits / other_bits:.5f}"]
        print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
