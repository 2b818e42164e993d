"""What one run has come to while it is recorded: its sums, its book, its events, and the values that loggers get."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prequential.codelength import Tally
from prequential.errors import warn
from prequential.ledger import Ledger
from prequential.live import Row, Terms, live_values, with_sources

# Events after which sums are missing.
_INCOMPLETE = {"missed", "not_understood"}


class Account:
    """Keeps the sums of a run, and its book.

    Args:
        path: The book to create; it appears with the first line after the header.
        header: Plain facts about the run for the book's first line.
        charges: Bits of choices made with sight of the data, by name.
        remarks: Sentences by event that hold from the start.
        bundle_bytes: Size of the training program, or None if it could not be found.

    Attributes:
        total: Sums over the run so far.
        sources: The same by source, if they are kept.
        step: The last optimiser step, by the framework's own number.
    """

    def __init__(
        self,
        path: Path,
        *,
        header: Mapping[str, Any],
        charges: Mapping[str, float],
        remarks: Mapping[str, str],
        bundle_bytes: int | None,
    ) -> None:
        self.path, self.bundle_bytes = path, bundle_bytes
        self.total = Tally()
        self.sources: dict[str, Tally] = {}
        self.step = 0
        self._header, self._charges, self._remarks = dict(header), dict(charges), dict(remarks)
        self._ledger: Ledger | None = None
        self._said: set[str] = set()
        self._before, self._shown_terms = Tally(), self._terms
        self._began = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the recording began."""
        return time.monotonic() - self._began

    @property
    def vocab_size(self) -> int | None:
        """Number of symbols V, once it is known."""
        return self._header.get("vocab_size")

    @property
    def is_open(self) -> bool:
        """Whether there is a book yet."""
        return self._ledger is not None

    def settle(self, facts: Mapping[str, Any]) -> None:
        """Add what the first micro-batch showed to the header."""
        self._header.update(facts)

    def add(
        self, step: int, elapsed_s: float, tally: Tally, sources: Mapping[str, Tally], *, log_point: bool = False
    ) -> None:
        """Add the sums of one interval that ends with optimiser step ``step``, and perhaps at a log point."""
        self.total += tally
        self.sources = with_sources(self.sources, sources)
        self._opened().sums(step, tally, elapsed_s, sources, log_point=log_point)

    def add_uncoded(self, tokens: int) -> None:
        """Charge tokens that nothing predicted by the uniform code, ln V nats each."""
        tally = Tally(uncoded_tokens=tokens, uncoded_nats=tokens * math.log(self.vocab_size or 1))
        self.add(self.step, self.elapsed_s, tally, {})

    def note(self, event: str, message: str) -> None:
        """Put an event on the book, once a kind, and warn; what follows `` at `` in its name only tells kinds apart."""
        if event in self._said:
            return
        self._said.add(event)
        self._opened().event(event.split(" at ")[0], message, step=self.step)
        warn(message)

    def sync(self) -> None:
        """Make the book durable up to here."""
        if self._ledger is not None:
            self._ledger.sync()

    def live(self) -> Row:
        """Values for loggers: over all so far, since the last call, and by source; unknown ones are left out."""
        values = live_values(self.total, self._before, self.sources, self._terms)
        self._before, self._shown_terms = self.total, self._terms
        return values

    @property
    def shown(self) -> bool:
        """Whether loggers were given all there is."""
        return (self._before, self._shown_terms) == (self.total, self._terms)

    def end(self, status: str, failure: str | None, **facts: Any) -> None:
        """Write the end of the book and close it; never raises.

        Args:
            status: ``completed``, ``interrupted`` or ``failed``.
            failure: Why the recording stopped before the training, or None.
            facts: More for the end line.
        """
        if self._ledger is None:
            return
        try:
            if failure is not None:
                self._ledger.event("incomplete", f"the recording stopped: {failure}", step=self.step)
            complete = failure is None and not self._said & _INCOMPLETE
            self._ledger.end(self.step, status, self.total, complete=complete, **facts)
        except (OSError, ValueError) as error:
            warn(f"the end of the book {self.path} could not be written: {error}")
        finally:
            self._ledger.close()

    @property
    def _terms(self) -> Terms:
        return Terms(
            bundle_bytes=self.bundle_bytes or 0,
            bytes_known=bool(self._header.get("bytes_known")),
            vocab_size=self.vocab_size,
            choice_bits=math.fsum(self._charges.values()),
        )

    def _opened(self) -> Ledger:
        if self._ledger is None:
            self._ledger = Ledger(self.path, self._header)
            for name, bits in self._charges.items():
                self._ledger.charge(name, bits)
            for event, message in self._remarks.items():
                self.note(event, message)
        return self._ledger
