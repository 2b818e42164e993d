"""What reading a book costs: `read_book` against parsing the same lines as JSON and nothing else, as paired ratios.

Run ``python tests/benchmarks/read_book.py``. Only the ratio means anything; the seconds are of this machine.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

from prequential import Ledger, Tally
from prequential.ledger import read_book

INTERVALS, PAIRS = 100_000, 7


def timed(read, path: Path) -> float:
    """Seconds of CPU that one reading takes."""
    begin = time.process_time()
    read(path)
    return time.process_time() - begin


def parse(path: Path) -> list[dict]:
    """The floor: each line parsed as JSON."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    """Print the median ratio, its range, and the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "book.jsonl"
        ledger = Ledger(path, {"name": "long"})
        for step in range(INTERVALS):
            tally = Tally(nats=1234.5678901 / (step + 1), coded_tokens=4096, raw_bytes=16_000, fingerprint=2**63 + step)
            ledger.sums(step, tally, step * 0.25)
        ledger.close()
        pairs = [(timed(read_book, path), timed(parse, path)) for _ in range(PAIRS)]
    ratios = [ours / floor for ours, floor in pairs]
    seconds = statistics.median(ours for ours, _ in pairs)
    print(
        f"{INTERVALS:,} intervals: read_book/json {statistics.median(ratios):.2f} "
        f"[{min(ratios):.2f}, {max(ratios):.2f}], {seconds:.2f} s"
    )


if __name__ == "__main__":
    main()
