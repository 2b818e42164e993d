"""What the area under a loss curve is made of, and when it became shorter than other codes.

    area  =  model_bits (above a floor: what training put into the weights)  +  floor x tokens (the rest)

There is no one floor, and the literature has three, so that each is named:

- ``running``: the lowest loss so far, smoothed over the last 5 % of the tokens. What can be said while a run goes on.
- ``held_out``: the loss on data the run never saw, so that what was memorised is not counted as learnt: excess
  description length (Donoway et al. 2026, arXiv 2601.04728).
- ``in_sample``: the final loss, over the last 5 % of the tokens: the prequential estimate of epiplexity (Finzi et al.
  2026, arXiv 2601.03220), whose authors call it a heuristic.

All functions are pure, take a `Run` and know its intervals only: nothing is interpolated between them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from prequential.codelength import NATS_PER_BIT, nats_to_bits
from prequential.errors import CurveError
from prequential.run import Run

Floor = Literal["running", "held_out", "in_sample"]

_SMOOTHED_SHARE = 0.05  # as in `Run.final_nats_per_token`


@dataclass(frozen=True)
class Split:
    """The area under a loss curve in two parts that add up to ``data_bits``.

    Attributes:
        floor: Name of the floor.
        floor_nats_per_token: Its height.
        model_bits: Area above it; negative where the floor lies above the mean loss.
        rest_bits: Area below it: floor x coded tokens.
    """

    floor: Floor
    floor_nats_per_token: float
    model_bits: float
    rest_bits: float


class Point(NamedTuple):
    """A boundary of the book: tokens of the data so far, and the bits above the running floor."""

    tokens: int
    model_bits: float


@dataclass(frozen=True)
class CatchUp:
    """From which token count on a run's code is shorter than another code.

    Attributes:
        name: The other code.
        tokens: First boundary of the book from which on the run's code, bundle included, is shorter; None where it is
            not at the end of what was recorded, or the bundle's size is unknown.
        tokens_without_bundle: The same for data and choices alone.
        estimate: Whether the other code's size for a part of the data was scaled from its size for all of it.
    """

    name: str
    tokens: int | None
    tokens_without_bundle: int | None
    estimate: bool


@dataclass(frozen=True)
class Surplus:
    """Surplus description length at a tolerance.

    Attributes:
        bits: The sum; a lower bound where the tolerance was not reached.
        tokens: Tokens of the data after which the loss had reached the tolerance, or all.
        reached: Whether it had.
    """

    bits: float
    tokens: int
    reached: bool


class RunningFloor:
    """The lowest loss so far, of means over the last intervals that together hold 5 % of the coded tokens so far.

    It remembers those intervals only, so that it can follow a run of any length.
    """

    def __init__(self) -> None:
        self._sums = deque([(0, 0.0)])
        self._nats_per_token = math.inf

    def add(self, coded_tokens: int, nats: float) -> float:
        """Go on to the next boundary.

        Args:
            coded_tokens: Coded tokens up to there.
            nats: Sum of -ln p up to there.

        Returns:
            The floor there, in nats per token.
        """
        self._sums.append((coded_tokens, nats))
        while coded_tokens - self._sums[1][0] >= max(1.0, _SMOOTHED_SHARE * coded_tokens):
            self._sums.popleft()
        tokens_before, nats_before = self._sums[0]
        smoothed = (nats - nats_before) / (coded_tokens - tokens_before)
        self._nats_per_token = min(self._nats_per_token, smoothed)
        return self._nats_per_token


def split(run: Run, floor: Floor, *, held_out_nats_per_token: float | None = None) -> Split:
    """Split the area under a run's loss curve at a named floor.

    ``model_bits = sum over intervals of (loss - floor) x coded tokens / ln 2``

    Args:
        run: A run with coded tokens.
        floor: ``"running"``, ``"held_out"`` or ``"in_sample"``; see the module.
        held_out_nats_per_token: Mean loss on held-out data, for ``"held_out"`` only.

    Returns:
        Both parts.

    Raises:
        CurveError: No tokens were coded, the floor has no such name, or the held-out loss is missing or out of place.
    """
    if (floor == "held_out") != (held_out_nats_per_token is not None):
        given = "none" if held_out_nats_per_token is None else f"{held_out_nats_per_token} with floor {floor!r}"
        raise CurveError(f"expected held_out_nats_per_token with the floor 'held_out' and no other, got {given}")
    total = run.total
    if not total.coded_tokens:
        raise CurveError("expected coded tokens, got none: there is no area to split")
    if floor == "running":
        lowest = RunningFloor()
        for _, coded, nats in _sums(run):
            height = lowest.add(coded, nats)
    elif floor == "in_sample":
        final = run.final_nats_per_token
        if final is None:
            raise CurveError(
                "expected two intervals or more for a final loss, got one: there is no floor in the sample"
            )
        height = final
    elif held_out_nats_per_token is not None:
        height = held_out_nats_per_token
    else:
        raise CurveError(f"expected floor 'running', 'held_out' or 'in_sample', got {floor!r}")
    rest_nats = height * total.coded_tokens
    return Split(floor, height, nats_to_bits(total.nats - rest_nats), nats_to_bits(rest_nats))


def running_model_bits(run: Run) -> list[Point]:
    """Bits above the running floor at every boundary: what a reader would have said there.

    The last value is that of ``split(run, "running")``. The floor is a minimum of noisy means, so that it lies a little
    low and the bits a little high, the more so the noisier the intervals: an estimate. Where the difficulty of the data
    changes along the run, its easiest stretch sets the floor.
    """
    floor = RunningFloor()
    return [Point(tokens, nats_to_bits(nats - floor.add(coded, nats) * coded)) for tokens, coded, nats in _sums(run)]


def catch_up(run: Run, sizes: Mapping[str, int] | None = None, *, raw_bytes: int | None = None) -> list[CatchUp]:
    """Find from which token count on a run's code is shorter than the uniform code and than other codes of the data.

    The uniform code of a part of the data is exact: log2 V bits a token. The other sizes are those of the whole data;
    for a part of it they are scaled in proportion to raw bytes, which flatters codes that adapt: an estimate.

    Args:
        run: The run.
        sizes: Bytes of the whole data under other codes, by name, as `baselines` gives them; by default those in the
            book. Its ``uniform``, 8 bits a byte, is called ``raw`` here.
        raw_bytes: Bytes of that whole data; by default ``sizes["uniform"]``, else the raw bytes of the run.

    Returns:
        One entry a code, ``uniform`` first if V is known, the others in their order; none of the others where raw bytes
        were not counted.
    """
    sizes = dict((run.header.get("baselines") or {}) if sizes is None else sizes)
    whole = raw_bytes or sizes.get("uniform") or run.total.raw_bytes
    found = []
    if vocab_size := run.header.get("vocab_size"):
        found.append(_catch_up("uniform", run, [tokens * math.log2(vocab_size) for tokens in _tokens(run)], False))
    for name, size in sizes.items() if run.bytes_known and whole else ():
        bits = [8 * size * (raw / whole) for raw in run.columns.column("raw_bytes")]
        found.append(_catch_up("raw" if name == "uniform" else name, run, bits, estimate=name != "uniform"))
    return found


def surplus(run: Run, tolerance_nats_per_token: float) -> Surplus:
    """Sum what a run's code costs above a tolerance until its loss has come down to it.

    Surplus description length (Whitney et al. 2020, arXiv 2009.07368) is ``sum over i of max(0, L(i) - tolerance)``,
    where L(i) is the expected loss after i examples. A run shows L(i) with noise, whose positive parts would add up for
    ever; what is summed here is ``loss - tolerance`` up to where that sum is largest. Where the loss only falls the two
    are equal.

    Args:
        run: The run.
        tolerance_nats_per_token: The loss at which a model is good enough.

    Returns:
        The surplus, a lower bound if the loss never came down to the tolerance.

    Raises:
        CurveError: The tolerance is negative or not finite.
    """
    if not 0 <= tolerance_nats_per_token < math.inf:
        raise CurveError(f"expected a tolerance of 0 nats per token or more, got {tolerance_nats_per_token}")
    best, end = Surplus(0.0, 0, True), 0
    for tokens, coded, nats in _sums(run):
        bits, end = nats_to_bits(nats - tolerance_nats_per_token * coded), tokens
        if bits > best.bits:
            best = Surplus(bits, tokens, True)
    return Surplus(best.bits, best.tokens, best.tokens < end)


def _sums(run: Run) -> Iterator[tuple[int, int, float]]:
    """Tokens, coded tokens and nats up to every boundary that has coded tokens before it."""
    tokens, coded, nats = 0, 0, 0.0
    columns = (run.columns.column(name) for name in ("coded_tokens", "uncoded_tokens", "nats"))
    for more_coded, uncoded, more_nats in zip(*columns, strict=True):
        tokens += more_coded + uncoded
        coded += more_coded
        nats += more_nats
        if coded:
            yield tokens, coded, nats


def _tokens(run: Run) -> list[int]:
    """Tokens of each interval, coded and uncoded."""
    columns = (run.columns.column(name) for name in ("coded_tokens", "uncoded_tokens"))
    return [coded + uncoded for coded, uncoded in zip(*columns, strict=True)]


def _catch_up(name: str, run: Run, other_bits: list[float], estimate: bool) -> CatchUp:
    choices = math.fsum(run.charges.values())
    bundle = run.bundle.get("bundle_bytes")
    alone = _shorter_from(run, other_bits, choices)
    with_bundle = None if bundle is None else _shorter_from(run, other_bits, choices + 8 * bundle)
    return CatchUp(name, with_bundle, alone, estimate)


def _shorter_from(run: Run, other_bits: list[float], charge_bits: float) -> int | None:
    """Find the first boundary from which on the run's code stays shorter than the other one."""
    lead, tokens, since = -charge_bits, 0, None
    columns = (run.columns.column(name) for name in ("nats", "uncoded_nats"))
    for more_tokens, nats, uncoded_nats, other in zip(_tokens(run), *columns, other_bits, strict=True):
        tokens += more_tokens
        lead += other - (nats + uncoded_nats) / NATS_PER_BIT
        if lead <= 0:
            since = None
        elif since is None:
            since = tokens
    return since
