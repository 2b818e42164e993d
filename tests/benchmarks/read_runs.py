"""What comparing long runs costs: books and logs, against the least that reading their text costs.

Run ``python tests/benchmarks/read_runs.py [--runs 10] [--intervals 100000] [--rows 1000000]``. Each command is started
anew; the base is `json.loads` of the lines of the same books, or `csv.reader` over the same logs, in a process of its
own. Only the ratios mean anything elsewhere; the seconds and megabytes are of this machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from prequential import Ledger, Tally

COMMAND = "from prequential.cli import main; main()"
JSON = "import json, sys\nfor path in sys.argv[1:]:\n    for line in open(path): json.loads(line)"
CSV = "import csv, sys\nfor path in sys.argv[1:]:\n    for row in csv.reader(open(path)): pass"


def losses(run: int, steps: int) -> np.ndarray:
    """Correlated curves: the same hard batches, a little noise, a small advantage."""
    shared = 3 + 6 * np.arange(1, steps + 1) ** -0.35 + 0.1 * np.random.default_rng(99).normal(size=steps)
    return shared + 0.02 * np.random.default_rng(run).normal(size=steps) - 0.001 * run


def write_book(path: Path, run: int, intervals: int) -> None:
    """Write a book as training does, with every column a usual run has."""
    ledger = Ledger(path, {"name": f"run{run}", "bytes_known": True, "vocab_size": 50257})
    for step, loss in enumerate(losses(run, intervals).tolist(), start=1):
        tally = Tally(
            nats=4096 * loss,
            coded_tokens=4096,
            raw_bytes=16_000 + step % 7,
            fingerprint=0x9E3779B97F4A7C15 * step % 2**64,
            rows=4,
            rows_fingerprint=0x9E3779B97F4A7C17 * step % 2**64,
        )
        ledger.sums(step, tally, step * 0.25)
    ledger.close()


def write_log(path: Path, run: int, rows: int) -> None:
    """Write a log of every step."""
    with path.open("w") as file:
        file.write("step,tokens,loss\n")
        file.writelines(f"{i},{4096 * i},{loss:.6f}\n" for i, loss in enumerate(losses(run, rows).tolist(), start=1))


def timed(program: str, *arguments: object) -> tuple[float, float, float]:
    """Run a program: seconds on the clock, seconds of CPU, and megabytes at its height."""
    begin = time.perf_counter()
    child = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", program, *map(str, arguments)])
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"expected exit code 0 from {arguments[0]}, got status {status}")
    return time.perf_counter() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def against(heading: str, base: tuple[float, float, float], commands: list[tuple]) -> list[str]:
    """Time commands, and write a line for each."""
    lines = [f"{heading}: {base[1]:.2f} s of CPU"]
    for command in commands:
        clock, cpu, megabytes = timed(COMMAND, *command)
        name = f"{command[0]} {Path(command[-1]).suffix}" if "-o" in command else command[0]
        lines.append(
            f"  {name:14} {cpu / base[1]:5.2f} of the base, {cpu:6.2f} s of CPU, {clock:6.2f} s on the clock, "
            f"{megabytes:4.0f} MB"
        )
    return lines


def main() -> None:
    """Print a line for each command."""
    parser = argparse.ArgumentParser()
    for name, default in (("runs", 10), ("intervals", 100_000), ("rows", 1_000_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        books = [Path(folder) / f"run{run}" / "book.jsonl" for run in range(given.runs)]
        logs = [Path(folder) / f"log{run}.csv" for run in range(given.runs)]
        for run in range(given.runs):
            write_book(books[run], run, given.intervals)
            write_log(logs[run], run, given.rows)
        quiet = os.open(os.devnull, os.O_WRONLY)
        shown = os.dup(1)
        os.dup2(quiet, 1)
        lines = [
            *against(
                f"{given.runs} books of {given.intervals:,} intervals, base json.loads",
                timed(JSON, *books),
                [
                    ("show", books[0]),
                    ("compare", *books),
                    *(("report", *books, "-o", f"{folder}/page.{end}") for end in ("html", "csv", "json")),
                ],
            ),
            *against(
                f"{given.runs} logs of {given.rows:,} rows, base csv.reader",
                timed(CSV, *logs),
                [("compare", *logs, "--force"), ("report", *logs, "--force", "-o", f"{folder}/logs.html")],
            ),
        ]
        os.dup2(shown, 1)
        print("\n".join(lines))


if __name__ == "__main__":
    main()
