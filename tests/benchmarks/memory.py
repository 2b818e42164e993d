"""How much memory the monitor adds at its peak: the same training with and without it, each in a process of its own.

Run ``python tests/benchmarks/memory.py``. What is imported counts: torch and Lightning are loaded either way.
"""

from __future__ import annotations

import logging
import resource
import subprocess
import sys
import tempfile
import warnings

import lightning as L
import torch
from overhead import BATCH, LENGTH, MODELS, QUIET, Model, Stream

from prequential import CompressionMonitor

STEPS = 200


def peak_mb(sizes: tuple[int, int, int], monitored: str) -> float:
    """Train in this process; its peak of resident memory in MB."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    rows = torch.randint(sizes[2], (STEPS * BATCH, LENGTH + 1))
    with tempfile.TemporaryDirectory() as folder:
        watch = [CompressionMonitor(bundle=None, ledger=folder)] if monitored != "bare" else []
        trainer = L.Trainer(max_steps=STEPS, accelerator="cpu", callbacks=watch, **QUIET)
        data = Stream(rows) if monitored == "stream" else rows
        trainer.fit(Model(*sizes), torch.utils.data.DataLoader(data, batch_size=BATCH))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def main() -> None:
    """Print a line for each model."""
    for number, sizes in enumerate(MODELS):
        peaks = {}
        for monitored in ("bare", "monitor", "stream"):
            command = [sys.executable, __file__, str(number), monitored]
            peaks[monitored] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        added = ", ".join(f"{name} {peak - peaks['bare']:+.0f} MB" for name, peak in list(peaks.items())[1:])
        print(
            "width {}, {} layers, vocabulary {:,}: ".format(*sizes) + f"{peaks['bare']:,.0f} MB bare, {added}",
            flush=True,
        )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(peak_mb(MODELS[int(sys.argv[1])], sys.argv[2]))
    else:
        main()
