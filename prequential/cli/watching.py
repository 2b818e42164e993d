"""The command `watch`: a run that is being recorded, on the terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from prequential.cli.printing import print_view

if TYPE_CHECKING:
    from rich.console import RenderableType

    from prequential.sources.tail import Tail


@click.command()
@click.argument("run")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)
@click.option("--once", is_flag=True, help="Print one screen and end.")
@click.option(
    "--tokens", type=click.IntRange(min=1), metavar="N", help="Tokens at the end. Default: as planned, if known."
)
def watch(run: str, interval_s: float, once: bool, tokens: int | None) -> None:
    """Watch a RUN while it trains.

    RUN is a book, or the folder it is or will be in; until it is there, it is waited for, and of several books the one
    written last is shown. Ends with the run, or with Ctrl-C. Where there is no terminal, one screen is printed.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    book = _Book(run, tokens)
    if once or not console.is_terminal:
        print_view(book.screen(wait=False))
        return
    from rich.live import Live

    screen: RenderableType = ""
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while not book.has_ended:
                screen = book.screen(wait=True)
                live.update(screen, refresh=True)
                time.sleep(0 if book.has_ended else interval_s)
    except KeyboardInterrupt:
        pass
    print_view(screen)  # the other screen is gone, this one stays


class _Book:
    """The book that is watched, as soon as it is there."""

    def __init__(self, given: str, tokens: int | None) -> None:
        self.given, self.tokens = given, tokens
        self.has_ended = False
        self._tail: Tail | None = None

    def screen(self, *, wait: bool) -> RenderableType:
        """Draw the run as it is now, or say what is waited for.

        Raises:
            BookError: There is no book yet and none is waited for; or what is there is none.
        """
        from prequential.errors import BookError
        from prequential.sources.book import books_at
        from prequential.sources.tail import Tail

        if self._tail is None and (books := books_at(self.given)):
            self._tail = Tail(max(books, key=lambda book: book.stat().st_mtime))
        run = None if self._tail is None else self._tail.read()
        if run is None or self._tail is None:
            if not wait:
                raise BookError(f"expected a book, found none at {self.given}: is this where the run writes to?")
            return f"waiting for a book at {self.given}: it begins at the first log point (Ctrl-C ends)"
        from prequential.progress import progress_of
        from prequential.views.screen import Screen

        self.has_ended = run.end is not None
        return Screen(run, progress_of(run, self.tokens), self._tail.quiet_s, fill=wait)
