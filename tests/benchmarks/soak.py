"""Whether memory stays flat: a hundred thousand steps of a tiny model, as many as a day of training has.

Run ``python tests/benchmarks/soak.py``; it prints resident memory as it goes, the size of the book, and what reading
it takes.
"""

from __future__ import annotations

import logging
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F

from prequential import Recording, load_run

STEPS, EVERY = 100_000, 20_000


def resident_mb() -> float:
    """Resident memory now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc").is_dir() else 0
    return pages * resource.getpagesize() / 1e6


def main(steps: int = STEPS) -> None:
    """Train, and print."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    table = torch.zeros(256, 256, requires_grad=True)
    with tempfile.TemporaryDirectory() as folder:
        with Recording(folder, token_bytes="bytes", bundle=None) as recording:
            for step in range(1, steps + 1):
                rows = torch.randint(256, (4, 17))
                with recording.batch(rows):
                    loss = F.cross_entropy(table[rows[:, :-1]].flatten(0, 1), rows[:, 1:].flatten())
                loss.backward()
                with torch.no_grad():
                    table -= table.grad
                table.grad = None
                recording.step()
                if step % EVERY == 0 or step == EVERY // 4:
                    print(f"{step:>8,} steps: {resident_mb():,.0f} MB", flush=True)
        book = Path(recording.run.path)
        begin = time.process_time()
        run = load_run(book)
        print(
            f"book of {len(run.intervals):,} intervals: {book.stat().st_size / 1e6:.1f} MB, "
            f"read in {time.process_time() - begin:.2f} s"
        )
        assert run.total.rows == 4 * steps


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
