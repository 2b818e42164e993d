"""What reading a book costs: `read_book` against parsing the same lines as JSON and nothing else, as paired ratios.

Run ``python tests/benchmarks/read_book.py``. Only the ratio means anything; the seconds are of this machine.
"""

from __future__ import annotations

import json
import resource
import statistics
import tempfile
import time
from pathlib import Path

from prequential import Ledger, Tally
from prequential.ledger import read_book

INTERVALS, PAIRS = 1_000_000, 3


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
        begin = time.process_time()
        read_book(path)
        alone = time.process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        size_mb = path.stat().st_size / 1e6
        pairs = [(timed(read_book, path), timed(parse, path)) for _ in range(PAIRS)]
    ratios = [ours / floor for ours, floor in pairs]
    print(
        f"{INTERVALS:,} intervals, {size_mb:.0f} MB: read in {alone[0]:.2f} s with a peak of {alone[1]:.0f} MB in all; "
        f"read_book/json {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
    )


if __name__ == "__main__":
    main()
