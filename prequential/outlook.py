"""What a run that is being recorded will come to: its forecast at the planned end, and what training has put into it.

Both are estimates. They are renewed at log points, from a curve with a bounded number of points, and cost about two
milliseconds there; nothing here waits for a device or draws a random number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from prequential.codelength import Tally, nats_to_bits
from prequential.curve import RunningFloor
from prequential.errors import CurveError, Harmless
from prequential.ledger import read_book
from prequential.run import Mark, planned_tokens

Values = dict[str, float | int]

_POINTS = 2048  # the forecast joins them into some 24 cells
_GROWTH = 1.01  # tokens between two forecasts: less tells nothing new


class Outlook:
    """Follows the sums of one run; what fails here is left out from then on, and said.

    Args:
        header: Facts about the run that may still grow: ``planned_tokens``, ``planned_steps``.
    """

    def __init__(self, header: Mapping[str, Any]) -> None:
        self._header = header
        self._curve = _Curve()
        self._caught_up = self._off = False
        self._next = 0.0
        if header.get("planned_tokens") or header.get("planned_steps"):
            with self._harmless():
                import_module("scipy.optimize")  # now, for a quarter of a second, and not between two steps

    def add(self, step: int, tally: Tally) -> None:
        """Add the sums of the next interval."""
        if not self._off:
            with self._harmless():
                self._curve.add(step, tally)

    def values(self, now: Mapping[str, float | int | None], book: Path | None = None) -> Values:
        """Estimates by their names in the registry; those that cannot be made yet are left out.

        Args:
            now: Quantities of the run so far, by name.
            book: Where what was not added here can be read, after a resume.
        """
        if not self._off:
            with self._harmless():
                return self._values(now, book)
        return {}

    def _values(self, now: Mapping[str, float | int | None], book: Path | None) -> Values:
        if now["coded_tokens"] != self._curve.coded_tokens and book is not None:
            self._catch_up(book)
        curve = self._curve
        if not curve.coded_tokens or now["coded_tokens"] != curve.coded_tokens:
            return {}  # a part of the curve is lost
        values: Values = {"model_bits_estimate": curve.model_bits}
        planned = planned_tokens(self._header, curve.first, curve.last)
        if planned is None:
            return values
        values["planned_tokens"] = planned
        if curve.coded_tokens >= self._next or planned == now["tokens"]:
            with contextlib.suppress(CurveError):
                values |= _forecast(curve, now, planned)
            self._next = _GROWTH * curve.coded_tokens
        return values

    def _catch_up(self, book: Path) -> None:
        """Read the curve from the book, once: after a resume there is more of it than was added here."""
        if self._caught_up:
            return
        self._caught_up = True
        self._curve = _Curve()
        for interval in read_book(book).intervals:
            self._curve.add(interval.step, interval.tally)

    @contextlib.contextmanager
    def _harmless(self) -> Iterator[None]:
        self._off = True
        with Harmless("forecast and model bits are no longer shown"):
            yield
            self._off = False


class _Curve:
    """Coded tokens and nats up to each boundary, every other of which is dropped whenever there are too many."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.nats: list[float] = []
        self.coded_tokens = 0
        self.total_nats = 0.0
        self.first = self.last = Mark(0, 0)
        self._floor = RunningFloor()
        self._floor_nats = 0.0

    def add(self, step: int, tally: Tally) -> None:
        """Go on to the next boundary."""
        self.last = Mark(step, self.last.tokens + tally.tokens)
        if not self.first.step:
            self.first = self.last
        if not tally.coded_tokens:
            return
        self.coded_tokens += tally.coded_tokens
        self.total_nats += tally.nats
        self._floor_nats = self._floor.add(self.coded_tokens, self.total_nats)
        self.tokens.append(self.coded_tokens)
        self.nats.append(tally.nats)
        if len(self.tokens) > _POINTS:
            self._join_pairs()

    @property
    def model_bits(self) -> float:
        """Area above the running floor."""
        return nats_to_bits(self.total_nats - self._floor_nats * self.coded_tokens)

    def _join_pairs(self) -> None:
        odd = len(self.tokens) % 2  # the last boundary stays one
        self.tokens = self.tokens[:odd] + self.tokens[odd + 1 :: 2]
        pairs = zip(self.nats[odd::2], self.nats[odd + 1 :: 2], strict=True)
        self.nats = self.nats[:odd] + [first + second for first, second in pairs]


def _forecast(curve: _Curve, now: Mapping[str, float | int | None], planned: int) -> Values:
    from prequential.forecast import CHECKED_FROM, forecast_quantities

    if curve.last.tokens < CHECKED_FROM * planned:
        return {}
    found = forecast_quantities(curve.tokens, curve.nats, now, planned)
    low, high = found["forecast_compressed_bytes_interval"]
    return {
        "forecast_compressed_bytes": found["forecast_compressed_bytes"],
        "forecast_compressed_bytes_low": low,
        "forecast_compressed_bytes_high": high,
    }
