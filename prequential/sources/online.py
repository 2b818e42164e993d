"""A run from W&B's server: its book, if one is attached, else its history, every row of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from prequential.errors import SourceError
from prequential.ledger import BOOK_NAME
from prequential.sources.log import Log, columns_of
from prequential.sources.offline import flat, status_of
from prequential.sources.reading import Reading

SCHEME = "wandb:"
_ARTIFACT = "prequential"

T = TypeVar("T")


class OnlineRun:
    """One run on a W&B server.

    Args:
        where: ``wandb:entity/project/id``.

    Raises:
        SourceError: Not of that form, no such run, or no way to the server.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.run = _asked(where, lambda: _found(where))

    @property
    def name(self) -> str:
        """Name that W&B shows, else its id."""
        return str(self.run.name or self.run.id)

    def download_book(self, folder: Path) -> Path | None:
        """Fetch the book that is attached to the run, the newest if there are several; None if there is none."""
        return _asked(self.where, lambda: self._downloaded(folder))

    def read(self, reading: Reading) -> Log:
        """Read the history, every row: what W&B calls ``history`` is a sample."""
        summary = flat(dict(_asked(self.where, lambda: self.run.summary_metrics)))
        chosen = reading.choose(sorted(summary), self.where)
        columns = _asked(self.where, lambda: self._columns(chosen.names))
        return Log(self.name, self.where, "W&B", chosen, columns, summary, status_of(self.run.state))

    def _columns(self, names: list[str]) -> Mapping[str, Any]:
        """Rows that hold all of the names, if there are such, else all rows."""
        columns = columns_of(self.run.scan_history(keys=names), names)
        if all(len(column) for column in columns.values()):
            return columns
        return columns_of(self.run.scan_history(), names)

    def _downloaded(self, folder: Path) -> Path | None:
        books = [a for a in self.run.logged_artifacts() if a.type == _ARTIFACT and a.state == "COMMITTED"]
        books = [a for a in books if BOOK_NAME in a.manifest.entries]
        if not books:
            return None
        return Path(books[-1].get_entry(BOOK_NAME).download(str(folder)))


def _found(where: str) -> Any:
    path = where.removeprefix(SCHEME).strip("/")
    if path.count("/") != 2 or not all(path.split("/")):
        raise SourceError(f"expected wandb:entity/project/id, got {where!r}: copy the run path from its W&B page")
    try:
        import wandb
    except ImportError as error:
        raise SourceError(f"expected the wandb package, to read {where}: pip install wandb") from error
    return wandb.Api().run(path)


def _asked(where: str, ask: Callable[[], T]) -> T:
    """Ask the server; whatever it or its client says is one line."""
    try:
        return ask()
    except SourceError:
        raise
    except Exception as error:  # the client has no common base for what can go wrong
        told = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"expected the W&B run {where}, cannot read it: {told:.200}") from error
