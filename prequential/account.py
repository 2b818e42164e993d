"""What one run has come to while it is recorded: its sums, its book, its events, and the values that loggers get."""

from __future__ import annotations

import functools
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prequential.codelength import Tally
from prequential.continuation import Continuation, Origin, continuation
from prequential.errors import MeasureError, warn
from prequential.ledger import Ledger
from prequential.live import Row, Terms, live_values, with_sources
from prequential.outlook import Outlook

# Events after which sums are missing.
_INCOMPLETE = {"missed", "not_understood"}
# Facts without which the sums of two parts are not of one kind, and those that are worth a remark where they differ.
_KIND = ("measure", "vocab_size", "bytes_known", "fingerprint_scheme", "token_bytes", "rescore")
_CIRCUMSTANCES = ("world_size", "precision", "seed")


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
        added_to: The last one whose sums were added.
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
        self._outlook = Outlook(self._header)
        self._ledger: Ledger | None = None
        self._said: dict[str, tuple[int, str]] = {}  # step and message of what stands in the book, by event
        self._before = Tally()  # what loggers were given
        self._shown_terms: Terms | None = None
        self._began, self._elapsed_s = time.monotonic(), 0.0
        self.added_to = 0
        self._kind: dict[str, Any] = {}  # facts of the run that is resumed
        self._continuation: Continuation | None = None
        self._written: set[str] = set()  # charges that stand in the book that goes on

    @property
    def elapsed_s(self) -> float:
        """Seconds of recording so far, those before a resume included; never falls, whatever the clock does."""
        self._elapsed_s = max(self._elapsed_s, time.monotonic() - self._began)
        return self._elapsed_s

    @property
    def vocab_size(self) -> int | None:
        """Number of symbols V, once it is known."""
        return self._header.get("vocab_size")

    @property
    def is_open(self) -> bool:
        """Whether there is a book yet."""
        return self._ledger is not None

    @property
    def bundle(self) -> dict[str, Any]:
        """What the header says of the training program; empty if it says nothing."""
        return dict(self._header.get("bundle") or {})

    def settle(self, facts: Mapping[str, Any]) -> None:
        """Add what the first micro-batch showed to the header.

        Raises:
            MeasureError: The run is resumed, and its sums were of another kind.
        """
        for name, before in self._kind.items():
            now = json.loads(json.dumps(facts.get(name, before)))
            if now != before and not (name == "fingerprint_scheme" and _base(now) == _base(before)):
                raise MeasureError(
                    f"expected {name} as in the run that is resumed, {_short(before)}, got {_short(now)}: sums of two "
                    "kinds do not add, resume with the same options, or begin without the state of the monitor"
                )
        self._header.update(facts if not self._kind else {})

    def state(self) -> dict[str, Any] | None:
        """All that a resumed run must know, as plain values; None as long as there is no book."""
        if self._ledger is None:
            return None
        return {
            "book": {"id": self._header["id"], "path": str(self.path.resolve()), "lines": self._ledger.lines},
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "total": asdict(self.total),
            "sources": {name: asdict(tally) for name, tally in self.sources.items()},
            "said": {name: list(said) for name, said in self._said.items()},
            "charges": dict(self._charges),
            "header": json.loads(json.dumps(self._header)),
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`, in the book that it was taken from or in a new one.

        Raises:
            MeasureError: The options are not those of the run that is resumed.
        """
        origin = Origin(step=int(state["step"]), total=Tally(**state["total"]), **state["book"])
        before, now = dict(state["header"]), self._header
        self.expect(before)
        self.total = self._before = origin.total
        self.sources = {name: Tally(**tally) for name, tally in state["sources"].items()}
        self.step = self.added_to = origin.step
        self._elapsed_s = float(state["elapsed_s"])
        self._began -= self._elapsed_s
        self._said = {name: (int(step), str(message)) for name, (step, message) in state["said"].items()}
        changed = _changes(before, now)
        if changed:
            self._remarks[f"resumed at {self.step}"] = f"resumed at step {self.step:,} with other settings: {changed}"
        self._continuation = continuation(self.path, origin)
        self.path = self._continuation.path
        self._written = set(state["charges"]) if self._continuation.ledger is not None else set()
        self._charges = {**state["charges"], **self._charges}
        facts = {name: before[name] for name in (*_KIND, "repeats", "weights", "modes", "loss_calls") if name in before}
        ancestor = {"id": origin.id, "book": origin.path, "step": origin.step}
        own = {"ancestor": ancestor, "start_step": before.get("start_step")}
        self._header = before if self._continuation.ledger is not None else {**now, **facts, **own}

    def expect(self, header: Mapping[str, Any]) -> None:
        """Take sums only that are of the kind of another header.

        Raises:
            MeasureError: The options make them another kind already.
        """
        self._kind = {name: header.get(name) for name in _KIND}
        self.settle({name: self._header[name] for name in ("rescore",) if name in self._header})

    def open_with(self, event: str, message: str) -> None:
        """Put an event on the book as soon as it is opened."""
        self._remarks[event] = message

    def add(
        self, step: int, elapsed_s: float, tally: Tally, sources: Mapping[str, Tally], *, log_point: bool = False
    ) -> None:
        """Add the sums of one interval that ends with optimiser step ``step``, and perhaps at a log point."""
        ledger = self._opened()
        self.total += tally
        self.sources = with_sources(self.sources, sources)
        ledger.sums(step, tally, elapsed_s, sources, log_point=log_point)
        self.added_to = step
        self._outlook.add(step, tally)

    def add_uncoded(self, tokens: int) -> None:
        """Charge tokens that nothing predicted by the uniform code, ln V nats each."""
        tally = Tally(uncoded_tokens=tokens, uncoded_nats=tokens * math.log(self.vocab_size or 1))
        self.add(self.step, self.elapsed_s, tally, {})

    def note(self, event: str, message: str) -> None:
        """Put an event on the book, once a kind, and warn; what follows `` at `` in its name only tells kinds apart."""
        if event in self._said:
            return
        ledger = self._opened()
        self._say(ledger, event, self.step, message)
        warn(message)

    def sync(self) -> None:
        """Make the book durable up to here."""
        if self._ledger is not None:
            self._ledger.sync()

    def live(self) -> Row:
        """Values for loggers: over all so far, ahead, since the last call, by source; unknown ones are left out."""
        ahead = functools.partial(self._outlook.values, book=self.path)
        values = live_values(self.total, self._before, self.sources, self._terms, ahead)
        self._before, self._shown_terms = self.total, self._terms
        return values

    @property
    def shown(self) -> bool:
        """Whether loggers were given all there is."""
        return self._before == self.total and self._shown_terms in (None, self._terms)

    def release(self) -> None:
        """Give up the book that was to go on, as it is: nothing was recorded."""
        if self._continuation is not None and self._continuation.ledger is not None:
            self._continuation.ledger.close()

    def end(self, status: str, failure: str | None, **facts: Any) -> None:
        """Write the end of the book and close it; never raises.

        Args:
            status: ``completed``, ``interrupted`` or ``failed``.
            failure: Why the recording stopped before the training, or None.
            facts: More for the end line.
        """
        try:
            ledger = self._opened()
            if failure is not None:
                ledger.event("incomplete", f"the recording stopped: {failure}", step=self.step)
            complete = failure is None and not self._said.keys() & _INCOMPLETE
            ledger.end(self.step, status, self.total, complete=complete, **facts)
        except Exception as error:
            warn(f"the end of the book {self.path} could not be written: {error}")
        finally:
            if self._ledger is not None:
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
        """The book, begun with the first line after its header, or gone on in; begun again if somebody deleted it."""
        if self._ledger is None:
            self._ledger = self._gone_on() if self._continuation is not None else self._new_book()
            for event, message in self._remarks.items():
                self.note(event, message)
        elif self._ledger.is_gone:
            gap = "the book was deleted while it was written: the sums up to there are carried in one interval"
            self._header["ancestor"] = {"id": self._header["id"], "book": str(self.path), "step": self.added_to}
            self._ledger.close()
            self._ledger = self._new_book()
            self._carry(self._ledger, "book_deleted", gap)
        return self._ledger

    def _new_book(self) -> Ledger:
        # Not from a random generator of torch or Python, whose states are the training's.
        self._header["id"] = os.urandom(8).hex()
        ledger = Ledger(self.path, self._header)
        for name, bits in self._charges.items():
            ledger.charge(name, bits)
        return ledger

    def _gone_on(self) -> Ledger:
        """Open the book of a resumed run."""
        _, ledger, lines, gap = self._continuation or Continuation(self.path)
        if ledger is None:
            ledger = self._new_book()
        else:
            if lines is not None:
                ledger.rewind(self.added_to, lines)
            for name in self._charges.keys() - self._written:
                ledger.charge(name, self._charges[name])
        if gap is not None:
            self._carry(ledger, "carried", gap)
        return ledger

    def _carry(self, ledger: Ledger, event: str, gap: str) -> None:
        """Put into a new book what stood in another: sums, and what was said."""
        ledger.carried(self.added_to, self.total, self.elapsed_s, self.sources)
        for name, (step, message) in list(self._said.items()):
            self._say(ledger, name, step, message)
        self._say(ledger, f"{event} at {self.added_to}", self.added_to, gap)
        warn(gap)

    def _say(self, ledger: Ledger, event: str, step: int, message: str) -> None:
        self._said[event] = (step, message)
        ledger.event(event.split(" at ")[0], message, step=step)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Name the circumstances that are not what they were."""
    pairs = [(name, before.get(name), now.get(name)) for name in _CIRCUMSTANCES if name in now]
    bundles = [(facts.get("bundle") or {}).get("sha256", "none")[:12] for facts in (before, now)]
    changed = [f"{name} {new} (was {old})" for name, old, new in [*pairs, ("bundle", *bundles)] if old != new]
    return ", ".join(changed)


def _base(scheme: Any) -> str:
    """A scheme of fingerprints without the number of ranks, which may change when a run is resumed."""
    return str(scheme).split(", ")[0]


def _short(value: Any) -> str:
    name = value.get("name") if isinstance(value, dict) else None
    return str(value if name is None else f"{name} ({str(value.get('sha256'))[:12]})")
