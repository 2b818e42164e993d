"""The account of a rank that keeps no book: it only remembers what is to be said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prequential.account import Account
from prequential.codelength import Tally


class Away(Account):
    """Stands in for the `Account`, which rank 0 keeps.

    Attributes:
        notes: Events and messages that rank 0 was not sent yet.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        super().__init__(path, header=header, charges={}, remarks={}, bundle_bytes=None)
        self.notes: list[tuple[str, str]] = []

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of rank 0; the book is not touched."""
        self.expect(state["header"])
        self.step = int(state["step"])

    def add(
        self, step: int, elapsed_s: float, tally: Tally, sources: Mapping[str, Tally], *, log_point: bool = False
    ) -> None:
        """Leave sums to rank 0."""

    def note(self, event: str, message: str) -> None:
        """Keep what is to be said, once a kind."""
        if event not in self._said:
            self._said[event] = (self.step, message)
            self.notes.append((event, message))

    def take_notes(self) -> list[tuple[str, str]]:
        """Hand over what was not sent yet."""
        notes, self.notes = self.notes, []
        return notes

    def open_with(self, event: str, message: str) -> None:
        """Leave it to rank 0, which knows the same."""

    def end(self, status: str, failure: str | None, **facts: Any) -> None:
        """Leave the book to rank 0."""
