"""Where the book of a resumed run goes on: in the book that it wrote before, or in a new one that carries its sums.

It goes on in its own book if that lies where this run would put one: lines behind the checkpoint are void then. It gets
a book of its own beside that one if the lines behind the checkpoint are a run that completed, or one that another
process is still writing (both were resumed from one checkpoint); and a book elsewhere if it was told so, or if its own
is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from itertools import count
from pathlib import Path
from typing import NamedTuple

from prequential.codelength import Tally
from prequential.errors import BookError
from prequential.ledger import BOOK_NAME, Ledger, read_book


class Origin(NamedTuple):
    """What a checkpoint says of the book.

    Attributes:
        id: Of the book.
        path: Where it was.
        lines: How many it had.
        step: The last optimiser step in it.
        total: Its sums.
    """

    id: str
    path: str
    lines: int
    step: int
    total: Tally


class Continuation(NamedTuple):
    """Where a resumed run goes on.

    Attributes:
        path: Of its book.
        ledger: That book, opened; None if it is to be created.
        lines: How many of its lines stand; None for all.
        gap: Why sums are carried, in a sentence; None if the book holds them.
    """

    path: Path
    ledger: Ledger | None = None
    lines: int | None = None
    gap: str | None = None


def numbered(book: Path) -> Iterator[Path]:
    """Give the path of a book, then the same with a number: on its folder if it has the usual name, else on its own."""
    folder = book.parent
    yield book
    for number in count(2):
        if book.name == BOOK_NAME and folder.name not in ("", ".."):
            yield folder.with_name(f"{folder.name}-{number}") / BOOK_NAME
        else:
            yield book.with_stem(f"{book.stem}-{number}")


def continuation(book: Path, origin: Origin) -> Continuation:
    """Find where a run goes on, and open its book.

    Args:
        book: Where a new run would put its book.
        origin: What the checkpoint says.
    """
    for path in numbered(book):
        if not path.exists():
            break
        found = _in_place(path, origin)
        if found is not None:
            return found
    gap = (
        f"resumed at step {origin.step:,} from a checkpoint: the sums up to there are carried in one interval, line by "
        f"line they stand in {origin.path}"
    )
    return Continuation(path, gap=gap if Path(origin.path).exists() else f"{gap}, which is gone")


def _in_place(path: Path, origin: Origin) -> Continuation | None:
    try:
        whole, known = read_book(path), read_book(path, lines=origin.lines)
        if whole.header.get("id") != origin.id:
            return None
        if whole.status == "completed" and _scored(whole.total) > _scored(known.total):
            return None
        ledger = Ledger.reopen(path)
    except (BookError, OSError):
        return None
    if ledger.lines < origin.lines or not _same(known.total, origin.total):
        gap = (
            f"resumed at step {origin.step:,} from a checkpoint that knows more than this book: the sums up to there "
            "are carried in one interval"
        )
        return Continuation(path, ledger, 1, gap)
    return Continuation(path, ledger, None if ledger.lines == origin.lines else origin.lines)


def _scored(total: Tally) -> int:
    return total.coded_tokens + total.replayed_tokens


def _same(a: Tally, b: Tally) -> bool:
    """Whether sums agree, floats up to the order in which they were added."""
    floats = ("nats", "uncoded_nats", "replayed_nats")
    near = all(abs(getattr(a, name) - getattr(b, name)) <= 1e-9 * abs(getattr(a, name)) for name in floats)
    counts = [f.name for f in fields(Tally) if f.name not in floats]
    return near and all(getattr(a, name) == getattr(b, name) for name in counts)
