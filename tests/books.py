"""Small synthetic books for tests of the viewing wing, written through `Ledger` as training writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from prequential.codelength import Tally
from prequential.ledger import Ledger

HEADER: dict[str, Any] = {
    "name": None,
    "grade": "ideal",
    "bundle": {
        "sha256": "ab" * 32,
        "rule": "xz -9e",
        "bundle_bytes": 700,
        "sizes": {"raw": 2048, "zip": 900, "bzip2 -9": 800, "xz -9e": 700, "zstd -22": 750},
        "files": [{"name": "train.py", "bytes": 1500, "sha256": "cd" * 32}],
        "packages": {},
        "python": "3.11.7",
        "git": None,
        "warnings": [],
    },
    "data_name": None,
    "baselines": None,
    "measure": "capture",
    "vocab_size": 256,
    "bytes_known": True,
    "fingerprint_scheme": "targets",
    "token_bytes": {"kind": "bytes", "name": "bytes", "vocab_size": 256, "sha256": "ef" * 32},
}
TOKENS = 1000


def tallies(nats_per_token: Iterable[float], *, tokens: int = TOKENS, seed: int = 1, **columns: Any) -> list[Tally]:
    """One tally an interval; equal seeds stand for equal data, and each token for one byte."""
    return [
        Tally(
            nats=loss * tokens,
            coded_tokens=tokens,
            raw_bytes=tokens,
            fingerprint=(seed * 0x9E3779B97F4A7C15 * (number + 1)) % 2**64,
            **columns,
        )
        for number, loss in enumerate(nats_per_token)
    ]


def book(
    path: Path | str,
    parts: Sequence[Tally],
    *,
    status: str | None = "completed",
    events: Sequence[tuple[str, str]] = (),
    **header: Any,
) -> Path:
    """Write a book of one interval a tally; ``header`` replaces fields of `HEADER`; no end line without a status."""
    ledger = Ledger(path, {**HEADER, **header})
    for step, tally in enumerate(parts, start=1):
        ledger.sums(step, tally, float(step))
    for event, message in events:
        ledger.event(event, message, step=len(parts))
    if status is not None:
        ledger.end(len(parts), status, Tally.total(parts), complete=True)
    ledger.close()
    return Path(path)
