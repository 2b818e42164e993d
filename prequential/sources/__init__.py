"""Where a run can be read from: `load_run` takes whatever a person points at and finds the one run in it.

- `book`: the book that training wrote, a file or a folder around it.
"""

from __future__ import annotations

import os

from prequential.run import Run
from prequential.sources.book import find_book, run_from_book

__all__ = ["load_run"]


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read the run at ``path``, with everything checked that views and comparisons rely on.

    Args:
        path: A book; or a folder with a ``book.jsonl``; or a folder below which exactly one book lies.

    Returns:
        The run as its book tells it.

    Raises:
        BookError: There is no book or more than one, or it cannot be read, is damaged or from a newer version.
    """
    return run_from_book(find_book(path))
