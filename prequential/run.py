"""A run as read back: its header, its intervals of sums, its events and how it ended.

Every source (a book, and whatever else a run can be read from) is translated into a `Run`; views and comparisons see
nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from prequential.codelength import Tally, nats_to_bits, quantities
from prequential.intervals import Interval, Intervals

__all__ = ["REPEATS_ALLOWED", "START", "Interval", "Run"]

# Weights learnt before the run, where a length is conditional on them.
START = "\N{GREEK SMALL LETTER THETA}0"

_FINAL_SHARE = 0.05
# Events after which a sum is an estimate.
_ESTIMATES = ("replay_split", "replay_sampled")
# A single pass may hold this share of repeated passages: text repeats itself.
REPEATS_ALLOWED = 0.01
# The event by which a book says that its run was decoded.
DECODED = "decoded"
# Events of a run whose sum is no code length of its data: the model saw what it scored, or not all of it was scored.
_NO_CODE_LENGTH = frozenset({"not_causal", "scored_after_update", "uncovered", "disagree"})


class Mark(NamedTuple):
    """A place in a run: the framework's number of the optimiser step, and tokens of the data up to there."""

    step: int
    tokens: int


def planned_tokens(header: Mapping[str, Any], first: Mark, last: Mark) -> int | None:
    """Tokens of the data that a run is to code, as it was told, or by its planned steps; None where neither is known.

    Where only ``planned_steps`` is known, the steps that are left are taken to have as many tokens as those so far.

    Args:
        header: The head of its book.
        first: The end of its first interval.
        last: The end of its last one.
    """
    told: int | None = header.get("planned_tokens")
    steps: int | None = header.get("planned_steps")
    if told is not None or steps is None:
        return told
    if last.step >= steps:
        return last.tokens
    if last.step <= first.step:
        return None
    return round(last.tokens + (steps - last.step) * (last.tokens - first.tokens) / (last.step - first.step))


@dataclass(frozen=True)
class Run:
    """A run as its book tells it; also what every other source is translated into.

    Attributes:
        name: Name for tables: the header's ``name``, else the path.
        path: Where the run was read from.
        header: Facts that hold for the whole run.
        intervals: Sums in the order of training, voided ones left out.
        events: Events in the order of the book.
        end: The end line, or None for a run that is still going or was killed.
        warnings: What the reader had to tolerate, one sentence each.
        charges: Bits of choices made with sight of the data, and of weights learnt before the run, by name.
        charged_at: How many intervals stood in the book when each of them was made.
        proofs: Certificates of decodings that gave the data back.
    """

    name: str
    path: str
    header: dict[str, Any]
    intervals: Sequence[Interval]
    events: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)
    charges: dict[str, float] = field(default_factory=dict)
    charged_at: dict[str, int] = field(default_factory=dict)
    proofs: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def columns(self) -> Intervals:
        """The intervals as columns, for arithmetic over all of them."""
        return self.intervals if isinstance(self.intervals, Intervals) else Intervals(self.intervals)

    @cached_property
    def total(self) -> Tally:
        """Sums over the whole run."""
        return self.columns.total()

    @cached_property
    def sources(self) -> dict[str, Tally]:
        """Sums over the whole run by the source of the rows; first tokens that nothing predicts are not in them."""
        return self.columns.by_source()

    @property
    def planned_tokens(self) -> int | None:
        """Tokens of the data that the run is to code, as far as its book tells; see the function of this name."""
        if not self.intervals:
            return self.header.get("planned_tokens")
        first, last = self.intervals[0], self.intervals[-1]
        return planned_tokens(self.header, Mark(first.step, first.tally.tokens), Mark(last.step, self.total.tokens))

    @property
    def bundle(self) -> dict[str, Any]:
        """Manifest of the training program; the end line's, if the program turned out larger than at the start."""
        bundle = (self.end or {}).get("bundle") or self.header.get("bundle") or {}
        return dict(bundle)

    @property
    def bytes_known(self) -> bool:
        """Whether raw bytes were counted (from a table of bytes per token, or given by the training step)."""
        return bool(self.header.get("bytes_known"))

    @property
    def grade(self) -> str:
        """How far the number is proved: ``ideal``, ``coded``, ``decoded``, or ``estimate``, ``surrogate``.

        A run of which something was found that makes its sum no code length is a surrogate, whatever its header says.
        """
        if self.surrogate_reasons:
            return "surrogate"
        if any(event["event"] in _ESTIMATES for event in self.events):
            return "estimate"
        if self.certificate is not None:
            return "decoded"
        return "coded" if self.bitstream.get("whole") else str(self.header.get("grade", "ideal"))

    @property
    def bitstream(self) -> dict[str, Any]:
        """The bitstream that the run wrote, as the ends of the book tell it; empty if it wrote none."""
        stated = self.header.get("bitstream")
        if not isinstance(stated, dict):
            return {}
        return {**stated, **((self.end or {}).get("bitstream") or {})}

    @property
    def certificate(self) -> dict[str, Any] | None:
        """What the last decoding of the bitstream came to; None if it was not decoded to the data."""
        if not self.bitstream.get("whole"):
            return None
        return self.proofs[-1] if self.proofs else None

    @property
    def replay_error(self) -> str | None:
        """How far replay and code may be off against each other; None where all rows were told for certain."""
        end = self.end or {}
        sampled, split = end.get("row_sampling") or {}, end.get("row_split") or {}
        parts = []
        if sampled.get("tokens"):
            tokens, error = sampled["tokens"], 2 * sampled["standard_error"]
            parts.append(f"an estimate for {tokens:,.0f} of the tokens (+- {error:,.0f}, two standard errors)")
        if split.get("nats"):
            parts.append(f"split in proportion, off by at most {math.ceil(nats_to_bits(split['nats']) / 8):,} bytes")
        return "; ".join(parts) or None

    @property
    def nats_standard_error(self) -> float | None:
        """Standard error of ``nats`` in a run that was imported from a log; None where the sum is exact."""
        return self.header.get("nats_standard_error")

    @property
    def given_weights(self) -> str | None:
        """Hash of the weights that the result is conditional on; None if none were learnt before or they are priced."""
        weights = self.header.get("weights") or {}
        return weights.get("sha256") if weights.get("rule") is None else None

    @property
    def given(self) -> list[str]:
        """What the length is conditional on: what a receiver must have beside the bundle, uncharged."""
        masked = self.total.masked_tokens
        return [START] * (self.given_weights is not None) + [f"{masked:,} masked tokens"] * (masked > 0)

    @property
    def length(self) -> str:
        """Which length this is: ``K(D)``, or ``K(D | ...)`` where it is conditional."""
        return f"K(D | {', '.join(self.given)})" if self.given else "K(D)"

    @property
    def surrogate_reasons(self) -> list[str]:
        """What was found that makes the sum no code length, one sentence each."""
        return [event["message"] for event in self.events if event["event"] in _NO_CODE_LENGTH]

    @property
    def status(self) -> str:
        """``completed``, ``interrupted``, ``failed``, or ``open`` where no end line stands in the book."""
        return str(self.end["status"]) if self.end else "open"

    def measured(self, tally: Tally | None = None) -> dict[str, float | int | None]:
        """Quantities of the registry for this run, or for ``tally`` under this run's bundle and tokenizer."""
        values = quantities(
            self.total if tally is None else tally,
            bundle_bytes=int(self.bundle.get("bundle_bytes", 0)),
            bytes_known=self.bytes_known,
            vocab_size=self.header.get("vocab_size"),
            choice_bits=math.fsum(self.charges.values()),
        )
        if tally is None:
            values["final_nats_per_token"] = self.final_nats_per_token
        return values

    def _repr_html_(self) -> str:
        """Show the run in a notebook: its page."""
        from prequential.views.page import fragment

        return fragment([self])

    def summary(self) -> list[str]:
        """The end of a run in a few lines of plain text: the sum, how far it is proved, where the book lies."""
        values: dict[str, Any] = self.measured()
        parts = [f"data {values['data_bits'] / 8:,.1f}"]
        if values["uncoded_bits"]:
            parts.append(f"uncoded {values['uncoded_bits'] / 8:,.1f}")
        if values["choice_bits"]:
            parts.append(f"charges {values['choice_bits'] / 8:,.1f}")
        parts.append(f"bundle {values['bundle_bytes']:,}" if self.bundle else "bundle unknown")
        total = f"{math.ceil(values['compressed_bytes']):,} compressed bytes ({' + '.join(parts)})"
        if values["compression_ratio"] is not None:
            total += f" for {values['raw_bytes']:,} raw bytes: {_down(values['compression_ratio'])}x"
            if values["bits_per_byte"] is not None:
                total += f", {values['bits_per_byte']:.4f} bits/byte"
        elif values["uniform_ratio"] is not None:
            total += f": {_down(values['uniform_ratio'])}x against the uniform code"
            if values["bits_per_token"] is not None:
                total += f", {values['bits_per_token']:.4f} bits/token"
        lines = [total]
        if self.rescored is not None:
            data, error = (nats_to_bits(self.rescored[name]) / 8 for name in ("nats", "standard_error"))
            lines.append(f"in evaluation mode an estimate of {data:,.1f} (+- {2 * error:,.1f}) bytes of data code")
        answer, reasons = self.single_pass
        why = f" ({'; '.join(reasons)})" if reasons else ""
        kind = f"{self.length}, " if self.given else ""
        proof = "".join(f" ({reason})" for reason in self.surrogate_reasons)
        if self.nats_standard_error is not None:
            proof += f" (+- {2 * nats_to_bits(self.nats_standard_error) / 8:,.1f} bytes, two standard errors)"
        return [
            *lines,
            f"{kind}grade {self.grade}{proof}, found by {self.header.get('measure')}, single pass: {answer}{why}",
            f"book {self.path}",
        ]

    @property
    def rescored(self) -> dict[str, float] | None:
        """The estimate of the code length in evaluation mode, if the run made one.

        ``nats`` and their ``standard_error``, from ``batches`` micro-batches, each drawn with probability ``share``.
        """
        found = (self.end or {}).get("rescored")
        return found if found and {"nats", "standard_error", "batches", "share"} <= set(found) else None

    @property
    def final_nats_per_token(self) -> float | None:
        """Mean loss over the last intervals that together hold 5 % of the coded tokens; None without two intervals."""
        if sum(tokens > 0 for tokens in self.columns.column("coded_tokens")) < 2:
            return None  # the mean of a whole run is not its end
        wanted = _FINAL_SHARE * self.total.coded_tokens
        nats, tokens = 0.0, 0
        columns = (reversed(self.columns.column(name)) for name in ("nats", "coded_tokens"))
        for more_nats, more_tokens in zip(*columns, strict=True):
            if tokens and tokens >= wanted:
                break
            nats, tokens = nats + more_nats, tokens + more_tokens
        return nats / tokens

    @property
    def single_pass(self) -> tuple[str, list[str]]:
        """Verdict ``yes``, ``no`` or ``unknown``, with its reasons."""
        reasons = [event["message"] for event in self.events if event["event"] == "not_single_pass"]
        replayed = self.total.replayed_tokens
        if replayed and not reasons:
            reasons = [f"{replayed:,} tokens were scored again after their first exposure, taken for replay, left out"]
        if reasons:
            return "no", reasons
        stated = self.header.get("single_pass")
        if stated:  # by a log, whose rows nobody can look at any more
            return str(stated.get("answer")), [str(stated.get("reason"))]
        covered = (self.end or {}).get("coverage")
        if covered:
            return _by_coverage(covered)
        repeats = (self.end or {}).get("repeats") or {}
        bound = repeats.get("share", 1.0) + 2 * repeats.get("standard_error", 0.0)
        bound /= max(bound, repeats.get("detected", 1.0))  # at most 1
        if bound <= REPEATS_ALLOWED:
            return "yes", []
        if repeats:
            return "unknown", [f"up to {_percent(bound)} of the tokens (an estimate) may stand in repeated passages"]
        return "unknown", ["rows are too short, or not seen, to tell whether any were fed twice"]


def _by_coverage(covered: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Judge a single pass by how often each token of the corpus was coded."""
    share = float(covered["share"])
    if share <= REPEATS_ALLOWED:
        return "yes", []
    counts = f"{covered['once']:,} of the corpus once, {covered['repeated']:,} more often"
    never = "" if covered.get("never") is None else f", {covered['never']:,} never"
    words = f"{100 * share:.1f} % of the tokens had been coded before ({counts}{never})"
    return "no", [f"{words}: the result codes a stream, not the corpus"]


def _percent(share: float) -> str:
    """Write a share rounded up, in two digits."""
    return f"{math.ceil(1000 * share) / 10:.3g} %"


def _down(ratio: float) -> str:
    """Write a ratio rounded down, so that 0.99996 does not read 1.0000."""
    return f"{math.floor(ratio * 10_000) / 10_000:.4f}"
