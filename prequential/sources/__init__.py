"""Where a run can be read from: `load_run` takes whatever a person points at and finds the one run in it.

- `book`: the book that training wrote, a file or a folder around it.
- `offline`, `online`: a run of W&B, from its offline directory or from the server.
- `csv`, `tensorboard`: logs of numbers. All of these are read into a `log`, as `reading` says.
- `imported`: from a log to a run: `recorded`, by our own sums, or `estimated`, by the `area` under the loss curve;
  both make `intervals`.
- `places`: which of them lies at a path. `writing`: an imported run as a book.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prequential.errors import SourceError
from prequential.run import Run
from prequential.sources.book import run_from_book
from prequential.sources.places import find, is_text_log
from prequential.sources.reading import Reading

if TYPE_CHECKING:
    from prequential.sources.log import Log

__all__ = ["import_run", "load_run"]

_ONLINE = "wandb:"


def load_run(
    path: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    tokens_per_step: int | None = None,
    measured_share: float | None = None,
    averaged: bool = False,
    bytes_per_token: float | None = None,
    vocab_size: int | None = None,
    name: str | None = None,
    data_name: str | None = None,
) -> Run:
    """Read the run at ``path``, with everything checked that views and comparisons rely on.

    A book is exact. So are the totals of a log that our doors wrote to (``prequential/*``), but for TensorBoard, which
    rounds. From any other log comes the area under its loss curve, of grade ``estimate``, with a standard error. The
    keywords are for logs and say what a log does not; a book knows.

    Args:
        path: A book; a W&B offline directory or ``.wandb`` file; ``wandb:entity/project/id``; a CSV file; a TensorBoard
            event file; or a folder in or below which one of them lies, and then a book before all others.
        columns: Names of columns by what they hold: ``loss`` (mean nats a token), ``tokens`` (of the run up to and
            including the step), ``step`` (of the optimiser). Default: names that trainers use.
        tokens_per_step: Tokens of one step, where the log has no column of tokens.
        measured_share: Share of a step's tokens that a logged loss was measured on. Default: all.
        averaged: Whether a logged loss is the mean since the row before, as Hugging Face's trainer logs it.
        bytes_per_token: Raw bytes a token stands for.
        vocab_size: Number V of symbols, for the uniform code.
        name: Name of the run in tables.
        data_name: Declared name of the data.

    Returns:
        The run as its book or its log tells it; what the log leaves open stands in its ``warnings``.

    Raises:
        BookError: There is no book or more than one, or it cannot be read, is damaged or from a newer version.
        SourceError: A log cannot be read, or does not say enough.
    """
    reading = Reading(
        columns=columns or {},
        tokens_per_step=tokens_per_step,
        measured_share=measured_share,
        averaged=averaged,
        bytes_per_token=bytes_per_token,
        vocab_size=vocab_size,
        name=name,
        data_name=data_name,
    )
    with tempfile.TemporaryDirectory() as folder:
        return _loaded(os.fspath(path), reading, Path(folder))[0]


def import_run(path: str | os.PathLike[str], ledger: str | os.PathLike[str], reading: Reading) -> Run:
    """Write the run of a log as a book, which every command reads; a book that is attached to a W&B run is copied.

    Args:
        path: As for `load_run`, but no book.
        ledger: Folder for the book, or a path that ends in ``.jsonl``; nothing there is overwritten.
        reading: What the log does not say.

    Returns:
        The run, read back from its book.

    Raises:
        BookError: There is a book at ``ledger`` already.
        SourceError: See `load_run`; or ``path`` is a book.
    """
    from prequential.sources.writing import copy_book, write_book

    with tempfile.TemporaryDirectory() as folder:
        run, book = _loaded(os.fspath(path), reading, Path(folder))
        if book is None:
            return run_from_book(write_book(run, ledger))
        if book.parent != Path(folder):
            raise SourceError(f"expected a log to import, got the book {book}: every command reads it as it is")
        return run_from_book(copy_book(book, ledger))


def _loaded(given: str, reading: Reading, folder: Path) -> tuple[Run, Path | None]:
    """Read a run, and tell the book it came from, if from one; an attached book is downloaded into ``folder``."""
    if given.startswith(_ONLINE):
        return _online(given, reading, folder)
    kind, path = find(Path(given))
    if kind == "book" and not (reading.says_something and is_text_log(path)):
        return run_from_book(path), path
    from prequential.sources.imported import run_from_log

    return run_from_log(_log(kind, path, reading), reading), None


def _online(where: str, reading: Reading, folder: Path) -> tuple[Run, Path | None]:
    from prequential.sources.imported import run_from_log
    from prequential.sources.online import OnlineRun

    online = OnlineRun(where)
    book = online.download_book(folder)
    if book is None:
        return run_from_log(online.read(reading), reading), None
    run = run_from_book(book)
    return replace(run, name=str(run.header.get("name") or online.name), path=where), book


def _log(kind: str, path: Path, reading: Reading) -> Log:
    if kind == "offline":
        from prequential.sources.offline import read_offline

        return read_offline(path, reading)
    if kind == "events":
        from prequential.sources.tensorboard import read_events

        return read_events(path, reading)
    from prequential.sources.csv import read_csv

    return read_csv(path, reading)
