"""An imported run as a book: what was read, and a word for everything that the log left open."""

from __future__ import annotations

import os
from pathlib import Path

from prequential.errors import BookError
from prequential.ledger import BOOK_NAME, Ledger
from prequential.run import Run


def write_book(run: Run, ledger: str | os.PathLike[str]) -> Path:
    """Write a run that came from a log; its warnings become events, so that they stay with it.

    Raises:
        BookError: There is a book already.
    """
    path = _book_in(ledger)
    book = Ledger(path, run.header)
    last = run.intervals[-1].step if run.intervals else 0
    try:
        for interval in run.intervals:
            book.sums(interval.step, interval.tally, interval.elapsed_s, interval.sources)
        for warning in run.warnings:
            book.event("imported", warning, step=last)
        for name, bits in run.charges.items():
            book.charge(name, bits)
        if run.end is not None:
            book.end(last, str(run.end["status"]), run.total)
        book.sync()
    finally:
        book.close()
    return path


def copy_book(source: Path, ledger: str | os.PathLike[str]) -> Path:
    """Copy a book byte for byte to a new path.

    Raises:
        BookError: There is a book already.
    """
    path = _book_in(ledger)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as file:
            file.write(source.read_bytes())
    except FileExistsError as error:
        raise BookError(f"expected a new path for the book, got the existing {path}: name another") from error
    return path


def _book_in(ledger: str | os.PathLike[str]) -> Path:
    given = Path(ledger)
    return given if given.suffix == ".jsonl" else given / BOOK_NAME
