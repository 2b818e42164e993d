"""What lies at a path: a book, or a log of which kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from prequential.errors import BookError, SourceError
from prequential.ledger import BOOK_NAME
from prequential.sources.book import find_book

_CSV = (".csv", ".tsv")
_OFFLINE = ".wandb"
_EVENTS = "tfevents"
_LIGHTNING_CSV = "metrics.csv"
_LISTED = 3


def kind_of(path: Path) -> str:
    """Tell ``csv``, ``offline`` and ``events`` by the file's name; all else is a ``book``."""
    if path.suffix.lower() in _CSV:
        return "csv"
    if path.suffix == _OFFLINE:
        return "offline"
    return "events" if _EVENTS in path.name else "book"


def find(path: Path) -> tuple[str, Path]:
    """Find the one run that ``path`` means: a file, or a folder in or below which one lies; a book comes first.

    Returns:
        Its kind, and its path; for events that of their folder, since a run may have several files of them.

    Raises:
        BookError: There is nothing.
        SourceError: There are several logs.
    """
    try:
        if not path.is_dir():
            return kind_of(path), path
        logs = sorted(set(_logs_below(path)))
    except (OSError, ValueError):
        return "book", find_book(path)
    try:
        return "book", find_book(path)
    except BookError:
        if not logs or any(BOOK_NAME in names for _, _, names in os.walk(path)):
            raise
    if len(logs) > 1:
        listed = ", ".join(str(where) for _, where in logs[:_LISTED]) + (", ..." if len(logs) > _LISTED else "")
        raise SourceError(f"expected one run below {path}, found {len(logs)} logs ({listed}): name one of them")
    return logs[0]


def is_text_log(path: Path) -> bool:
    """Tell whether a file of whatever name begins like a table and not like a book, which is JSON."""
    try:
        with path.open("rb") as file:
            return not file.read(64).lstrip().startswith(b"{")
    except OSError:
        return False


def _logs_below(folder: Path) -> Iterator[tuple[str, Path]]:
    for where, _, names in os.walk(folder):
        for name in names:
            kind = kind_of(Path(name))
            if kind == "csv" and name != _LIGHTNING_CSV:
                continue
            if kind != "book":
                yield kind, Path(where) if kind == "events" else Path(where) / name
