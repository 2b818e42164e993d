"""What a bitstream costs: time a token beside the loss itself, and bytes over the ideal code length.

Run ``python tests/benchmarks/coding.py``. Times are of one thread's CPU, medians over rounds in one process; only their
ratios mean anything elsewhere. Logits are drawn so that a token takes about as many bits as in a run over text.
"""

from __future__ import annotations

import math
import runpy
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from prequential.bitstream import Corpus, Encoder
from prequential.bitstream.corpus import placeholders
from prequential.capture import LossTap
from prequential.coder import BitstreamReader, BitstreamWriter, frequencies
from prequential.meter import Meter
from prequential.rehearsal import rehearsal

STEPS, WARM, LOG = 400, 40, 50
CASES = {256: (2**14, 2.7), 4096: (2**11, 3.6), 50_257: (2**8, 4.2)}  # symbols: tokens, scale of the logits
ROUNDS, DECODED, LONG = 9, 200, 2**20


def timed(work) -> float:
    """Seconds of CPU that some work takes."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def times(logits: torch.Tensor, targets: torch.Tensor, path: Path) -> list[float]:
    """Microseconds a token: the loss forward and backward, the tables, the range coder, and one token decoded."""
    leaf, symbols, rounds = logits.clone().requires_grad_(), logits.shape[1], []
    for _ in range(ROUNDS):
        writer = BitstreamWriter(path, symbols=symbols)
        loss = timed(lambda: F.cross_entropy(leaf, targets).backward())
        tables = timed(lambda: writer.write(frequencies(logits, targets)))  # noqa: B023  called at once
        rounds.append([seconds / len(targets) * 1e6 for seconds in (loss, tables, timed(writer.flush))])
    writer.close()
    reader, few = BitstreamReader(path), min(DECODED, len(targets))
    decode = timed(lambda: [reader.read(logits[i : i + 1]) for i in range(few)]) / few * 1e6
    return [*(statistics.median(column) for column in zip(*rounds, strict=True)), decode]


def lengths(logits: torch.Tensor, targets: torch.Tensor, path: Path) -> tuple[int, float, float, int]:
    """About a million tokens, and their bytes: of the ideal code, by the integer tables, and in the file."""
    writer, found = BitstreamWriter(path, symbols=logits.shape[1]), frequencies(logits, targets)
    repeats = LONG // len(targets)
    for _ in range(repeats):
        writer.write(found)
    writer.close()
    ideal = F.cross_entropy(logits.double(), targets, reduction="sum").item() / math.log(2) * repeats
    return repeats * len(targets), ideal / 8, writer.frequency_bits / 8, path.stat().st_size


class Training:
    """The example's model, one step of it at a time: watched by a tap as the monitor does, coded or not."""

    def __init__(self, size: str, ids: torch.Tensor, path: Path | None) -> None:
        torch.manual_seed(0)
        example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "compress_text.py"), run_name="example")
        self.model, self.tap = example["ByteModel"](size), LossTap(Meter())
        self.tap.entrances_suffice = True  # as the first micro-batch shows
        self.optimizer = self.model.configure_optimizers()
        self.encoder = None if path is None else Encoder(path, Corpus(ids), self.model)
        self.data = example["Streams"](ids if path is None else placeholders(len(ids)))
        if self.encoder is not None:
            self.tap.listener = self.encoder.take

    def rehearse(self, batch) -> None:
        with rehearsal(self.model):
            self.model.training_step(batch, 0)

    def step(self, number: int) -> float:
        """Seconds of CPU of one training step."""
        begin, batch = time.process_time(), self.data[number]
        if self.encoder is not None:
            self.encoder.prepare(batch, number, self.rehearse)
            batch = self.encoder.shown(batch)
        with self.tap.on(self.model, batch):
            loss = self.model.training_step(batch, number)
        if self.encoder is not None:
            self.encoder.write()
            if number % LOG == 0:
                self.encoder.flush()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return time.process_time() - begin


def while_training(size: str, folder: Path) -> tuple[float, float]:
    """Milliseconds of a step without coding, and the mean of what coding adds, over the mean step; steps in turn."""
    ids = torch.randint(256, (STEPS * 128,), generator=torch.Generator().manual_seed(0))
    both = [Training(size, ids, None), Training(size, ids, folder / f"{size}.bits")]
    seconds = [[], []]
    for number in range(STEPS):
        for which in (0, 1) if number % 2 else (1, 0):
            seconds[which].append(both[which].step(number))
    plain, coded = (statistics.mean(times[WARM:]) for times in seconds)
    return 1000 * plain, coded / plain - 1


def main() -> None:
    """Print two rows a vocabulary, time and length, then what coding adds to the steps of a training."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, microseconds of CPU a token")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.bits"
        for symbols, (tokens, scale) in CASES.items():
            generator = torch.Generator().manual_seed(0)
            logits = torch.randn(tokens, symbols, generator=generator) * scale
            targets = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
            loss, tables, coder, decode = times(logits, targets, path)
            print(
                f"{symbols:>6,} symbols: loss {loss:.2f}, tables {tables:.2f}, range coder {coder:.2f}, added/loss "
                f"{(tables + coder) / loss:.2f}, decoder {decode:.0f}"
            )
            many, ideal, by_tables, file = lengths(logits, targets, path)
            print(
                f"{many:>14,} tokens of {ideal * 8 / many:.2f} bits: ideal {ideal:,.0f} bytes, "
                f"tables {by_tables - ideal:+.1f}, "
                f"file {file - ideal:+.1f} = {file / ideal - 1:+.4%}",
                flush=True,
            )
        for size in ("small", "large"):
            plain, added = while_training(size, Path(folder))
            print(f"{size} model of the example: a step of {plain:.2f} ms, coding adds {added:.1%}", flush=True)


if __name__ == "__main__":
    main()
