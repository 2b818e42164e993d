"""What a log point costs with many ranks: bytes sent, seconds on rank 0, and memory. Prints the table of scale.md.

Run it as ``python tests/benchmarks/ranks.py [RANKS ...]``. Ranks are played by one process: their letters lie in a
`TCPStore` on the loopback when rank 0 begins to read, so that its time is that of its own work and of the store.
"""

from __future__ import annotations

import platform
import resource
import sys
import time
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch.distributed as dist

from prequential.codelength import Tally
from prequential.columns.replay import SeenRows
from prequential.columns.watch import Seen
from prequential.identity.exposure import FirstExposures
from prequential.ledger import Ledger
from prequential.meter import Reading
from prequential.ranks import Interval, Letter, Several, condensed, together

STEPS, ROW_TOKENS = 50, 2_000  # between log points, by default; of a row of the run on paper
FACTS = {"kind": {"measure": "capture"}, "mask": None, "watch": {"first_tokens": None}}


def an_interval(batches: int, rows: int, *, sums: bool, samples: int, seed: int = 0) -> Interval:
    """What a rank saw in an interval: so many micro-batches of so many rows."""
    random = np.random.default_rng(seed)

    def of_rows() -> SeenRows:
        hashes = random.integers(2**64, size=rows, dtype=np.uint64)
        each = np.stack([np.full(rows, 1_999.0), np.full(rows, 8_000.0), random.random(rows)]) if sums else None
        first = np.zeros((9, rows), np.int64)
        first[:7] = 1
        return SeenRows(hashes, each, True, first, None, None, ROW_TOKENS)

    seen = [
        Seen([rows] * 9, 0, random.integers(-(2**63), -(2**57), size=samples).tolist(), of_rows())
        for _ in range(batches)
    ]
    tally = Tally(nats=3e5, coded_tokens=10**5, raw_bytes=4 * 10**5, fingerprint=int(random.integers(2**63)))
    return condensed(Interval(70_000, 1e6, False, Reading(tally, batches, 50_257, 0), seen, [10**5]))


def size_of(batches: int, rows: int, *, sums: bool = False, samples: int = 0, intervals: int = 1) -> int:
    """Bytes of a letter."""
    seen = [an_interval(batches, rows, sums=sums, samples=samples) for _ in range(intervals)]
    share = {"share": {"passages": [10**6, 10**6], "lengths": [ROW_TOKENS]}}
    return len(Letter("step", 10**5, seen, [], share).to_bytes())


def bytes_sent() -> None:
    """Print what a letter is made of."""
    print(f"letter without a row: {size_of(0, 0)} bytes")
    print(f"  an interval more: {(size_of(1, 1, intervals=11) - size_of(1, 1)) / 10 - 24:.0f} bytes")
    print(f"  a micro-batch more, without its rows: {(size_of(101, 1) - size_of(1, 1)) / 100 - 8:.0f} bytes")
    summed = (size_of(101, 1, sums=True) - size_of(1, 1, sums=True)) / 100
    print(f"  the same where rows are summed: {summed - 29:.0f} bytes")
    print(f"  a row more, only told apart: {(size_of(1, 1_001) - size_of(1, 1)) / 1_000:.0f} bytes")
    print(f"  a row more, summed: {(size_of(1, 1_001, sums=True) - size_of(1, 1, sums=True)) / 1_000:.0f} bytes")
    print(f"  a sampled passage more: {(size_of(1, 1, samples=1_001) - size_of(1, 1, samples=1)) / 1_000:.0f} bytes")
    print(f"letter of {STEPS} micro-batches of a row, late in a run: {size_of(STEPS, 1):,} bytes")
    print(f"the same at its start, 29 sampled passages a row: {size_of(STEPS, 1, samples=29):,} bytes")


def log_points(ranks: int, times: int = 3) -> None:
    """Print the seconds that rank 0 spends on a log point."""
    store = dist.TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=60), wait_for_workers=False)
    first, *others = (Several(store, place, ranks, processes=ranks, counts=True) for place in range(ranks))
    for other in others:
        other._send(Letter("route", facts={"facts": FACTS}))
    first.agree(FACTS)
    own, exposures = an_interval(STEPS, 1, sums=False, samples=0), FirstExposures()
    spent = dict.fromkeys(("read", "merged", "told apart"), float("inf"))
    sent = 0.0
    for turn in range(1, times + 1):
        seen = [an_interval(STEPS, 1, sums=False, samples=0, seed=turn * ranks + number) for number in range(16)]
        letters = [Letter("step", turn, [interval]) for interval in seen]
        for number, other in enumerate(others):
            began = time.perf_counter()
            other._send(letters[number % 16])
            sent += time.perf_counter() - began
        moments = [time.perf_counter()]
        received = first.exchange(Letter("step", turn, [own]))
        moments.append(time.perf_counter())
        (interval,) = together([[i for letter in some for i in letter.intervals] for some in received])
        moments.append(time.perf_counter())
        hashes = np.concatenate([one.rows.hashes for one in interval.seen if one.rows is not None])
        exposures.came_before(hashes, np.full(len(hashes), ROW_TOKENS))
        moments.append(time.perf_counter())
        for name, seconds in zip(spent, np.diff(moments), strict=True):
            spent[name] = min(spent[name], float(seconds))
    each = 1e6 * sent / max(1, times * (ranks - 1))
    shown = ", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in spent.items())
    print(f"{ranks:>6,} ranks: a letter sent in {each:.0f} us; rank 0: {shown}")


def book() -> None:
    """Print the size of a line of sums, and how many of them a run writes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "book.jsonl"
        ledger = Ledger(path, {"name": "paper"})
        tally = Tally(
            nats=1.58512345678e9, coded_tokens=10**9, raw_bytes=4 * 10**9, uncoded_tokens=5 * 10**5,
            uncoded_nats=5.4e6, fingerprint=2**63, rows=5 * 10**5, rows_fingerprint=2**63,
        )  # fmt: skip
        before = path.stat().st_size if path.exists() else 0
        for step in range(100):
            ledger.sums(69_900 + step, tally, 1.2e6, {})
        ledger.close()
        line = (path.stat().st_size - before) / 100
    steps = lines = 0
    while steps < 70_000:
        steps += min(max(1, steps // 100), STEPS)
        lines += 1
    print(f"a line of sums: {line:.0f} bytes; of a run of 70,000 steps {lines:,}: {lines * line / 1e6:.2f} MB")


def main(ranks: list[int]) -> None:
    """Measure everything once."""
    print(f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, one process")
    bytes_sent()
    for size in ranks:
        log_points(size)
    book()
    print(f"memory of this process at its peak: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    arguments: Any = sys.argv[1:]
    main([int(size) for size in arguments] or [2, 4, 100, 1_000, 10_000])
