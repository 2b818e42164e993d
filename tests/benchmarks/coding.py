"""What a bitstream costs: time a token beside the loss itself, and bytes over the ideal code length.

Run ``python tests/benchmarks/coding.py``. Times are of one thread's CPU, medians over rounds in one process; only their
ratios mean anything elsewhere. Logits are drawn so that a token takes about as many bits as in a run over text.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from prequential.coder import BitstreamReader, BitstreamWriter, frequencies

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


def main() -> None:
    """Print two rows a vocabulary: time, and length."""
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


if __name__ == "__main__":
    main()
