"""From a part of a run to its code length at N tokens: a fitted loss curve, and a prediction interval.

    nats at N  =  nats so far (a sum, exact)  +  integral of the fitted curve over the rest (an estimate)

1. What was seen after the first 30 % is joined into cells, about equally long in log tokens. Earlier steps (warm-up,
   the fall to the frequencies of words) follow another law, and are so steep that they would outweigh everything.
2. The law is a floor, a slow and a fast power of the tokens seen: ``c0 + c1 t^-1/3 + c2 t^-1``, no coefficient
   negative, so that a curve which still falls steeply is not extrapolated as if it always would. A prior on the shares
   of floor and powers decides what a short stretch of curve leaves open; it is mixed from three widths, weighted by how
   well each predicts the cells, so that a curve unlike those of language models is not bent to it.
3. A real curve leaves any law slowly, and the more the further the loss is from where it is now. Such misfit is a
   random function of log tokens whose correlation decays exponentially; it is fitted with the law, goes on beyond what
   was seen, and makes most of the interval. Four and sixteen times as much of it are tried too, again weighted by how
   well they predict the cells: for data whose difficulty changes along the run.
4. What the decay of the learning rate at the end of a run takes off is not in the law. Unless it is said
   (``decay_share``), half of a usual decay is assumed, with an uncertainty of the same size.

`Assumptions` holds every constant with its reason; `docs/explanation/forecast.md` says how they were checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from prequential.codelength import nats_to_bits
from prequential.errors import CurveError
from prequential.forecast.cells import Array, cells_of, checked, noise_of
from prequential.forecast.law import Assumptions, rest

if TYPE_CHECKING:
    from prequential.run import Run

__all__ = ["CHECKED_FROM", "Assumptions", "Forecast", "forecast", "forecast_quantities", "forecast_run"]


# Share of a run from which on the interval holds: on published runs in 15 of 15 from a tenth, in 11 of 15 from a
# twentieth, in none of 12 from a hundredth.
CHECKED_FROM = 0.1
_MOST = 1e30  # tokens and bytes beyond which nothing is meant


@dataclass(frozen=True)
class Forecast:
    """The code length at ``total_tokens``, estimated from a run's first ``tokens`` tokens.

    Attributes:
        nats: Expected sum of -ln p over ``total_tokens`` tokens.
        low_nats: Lower end of the interval; never below the nats seen, where those are a full sum.
        high_nats: Upper end.
        seen_nats: The sum so far.
        tokens: Tokens seen.
        total_tokens: Tokens at the end.
        confidence: Probability of the interval.
        law: Nats per token of floor, slow and fast power where the forecast begins; None if nothing was left to
            forecast.
    """

    nats: float
    low_nats: float
    high_nats: float
    seen_nats: float
    tokens: float
    total_tokens: float
    confidence: float
    law: tuple[float, float, float] | None = None


def forecast(
    tokens: Sequence[float] | Array,
    nats: Sequence[float] | Array,
    total_tokens: float,
    *,
    sampled_share: float = 1.0,
    standard_error_nats: float = 0.0,
    confidence: float = 0.9,
    decay_share: float | None = None,
    assume: Assumptions | None = None,
) -> Forecast:
    """Forecast the code length of a run at ``total_tokens`` from its intervals so far.

    Args:
        tokens: Cumulative coded tokens at the end of each interval, shape (n,); intervals may differ in length.
        nats: Sum of -ln p in each interval, shape (n,); for a subsampled log, scaled up to all tokens.
        total_tokens: Coded tokens at the end of the run.
        sampled_share: Share of the tokens whose loss was logged; below 1 the sum so far is itself an estimate.
        standard_error_nats: Standard error of the sum so far, where it is known to be an estimate otherwise.
        confidence: Probability that the interval is to hold.
        decay_share: Last share of the run over which the learning rate decays to zero: 0 for a constant rate, about 0.2
            for warm-up-stable-decay, 1 for a cosine; None if unknown.
        assume: Other assumptions than the usual ones.

    Returns:
        The expected code length and its interval.

    Raises:
        CurveError: The arrays are no curve, ``total_tokens`` lies behind what was seen, or too little was seen.
    """
    assume = Assumptions() if assume is None else assume
    _check_share("sampled_share", sampled_share)
    _check_share("confidence", confidence, below_one=True)
    ends, sums = checked(tokens, nats)
    seen, so_far = float(ends[-1]), math.fsum(sums)
    _check_total(total_tokens, seen)
    exact = sampled_share == 1 and not standard_error_nats
    if total_tokens == seen and exact:
        return Forecast(so_far, so_far, so_far, so_far, seen, seen, confidence)
    cells = cells_of(ends, sums, assume.window, assume.cells)
    noise = noise_of(cells)
    # What the unlogged part of the batches, and of the steps, adds to the sum so far.
    variance = noise * (1 - sampled_share) * seen**2 + standard_error_nats**2
    rest_nats, law = 0.0, None
    if total_tokens > seen:
        ahead = rest(cells, noise, total_tokens / seen, sampled_share, assume)
        drop, drop_sd = _decay(seen / total_tokens, decay_share, assume)
        left, law = total_tokens - seen, ahead.law
        rest_nats = left * ahead.rate * (1 - drop)
        variance += left**2 * (ahead.variance + (ahead.rate * drop_sd) ** 2)
    half = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(variance)
    nats_at_end = so_far + rest_nats
    low = max(so_far if exact else 0.0, nats_at_end - half)
    return Forecast(nats_at_end, low, nats_at_end + half, so_far, seen, float(total_tokens), confidence, law)


def forecast_run(run: Run, total_tokens: int, *, raw_bytes: int | None = None, **options: Any) -> dict[str, Any]:
    """Forecast the quantities of a run at ``total_tokens``, uncoded tokens and the bundle included.

    The share of uncoded tokens is taken to stay what it is; bundle and choices do not grow.

    Args:
        run: A run that is going on, or a part of one.
        total_tokens: Tokens of the data at its end, coded and uncoded.
        raw_bytes: Raw bytes at its end; by default as many a token as so far.
        **options: As for `forecast`.

    Returns:
        As for `forecast_quantities`; and ``forecast_raw_bytes`` with ``forecast_compression_ratio`` and its
        ``_interval``, each None where raw bytes are not known.

    Raises:
        CurveError: As for `forecast`; or ``raw_bytes`` are fewer than those seen.
    """
    ends, nats = np.cumsum(run.columns.column("coded_tokens")), run.columns.column("nats")
    options.setdefault("standard_error_nats", run.nats_standard_error or 0.0)
    now = run.measured()
    found = forecast_quantities(ends, nats, now, total_tokens, **options)
    return found | _against_raw(found, _raw_at_end(now, total_tokens, raw_bytes))


def forecast_quantities(
    tokens: Sequence[float] | Array,
    nats: Sequence[float] | Array,
    now: Mapping[str, float | int | None],
    total_tokens: int,
    **options: Any,
) -> dict[str, Any]:
    """Forecast quantities of the registry, uncoded tokens, choices and the bundle included.

    Args:
        tokens: Cumulative coded tokens at the end of each interval, shape (n,).
        nats: Sum of -ln p in each interval, shape (n,).
        now: Quantities so far, by name.
        total_tokens: Tokens of the data at the end of the run, coded and uncoded.
        **options: As for `forecast`.

    Returns:
        ``forecast_data_bits`` and ``forecast_compressed_bytes``, each with its ``_interval``, ``tokens``,
        ``forecast_tokens``, ``forecast_confidence``, the probability of the intervals, and ``forecast_checked``,
        whether so much was seen that they were found to hold.

    Raises:
        CurveError: As for `forecast`.
    """
    seen = now["tokens"] or 0
    _check_total(total_tokens, seen)
    growth = total_tokens / seen if seen else 1.0
    found = forecast(tokens, nats, (now["coded_tokens"] or 0) * growth, **options)
    constant = (now["description_bits"] or 0.0) - (now["data_bits"] or 0.0) - (now["uncoded_bits"] or 0.0)
    constant += growth * (now["uncoded_bits"] or 0.0)
    bits = [nats_to_bits(part) for part in (found.nats, found.low_nats, found.high_nats)]
    compressed = [(constant + part) / 8 for part in bits]
    return {
        "tokens": seen,
        "forecast_tokens": total_tokens,
        "forecast_confidence": found.confidence,
        "forecast_checked": seen >= CHECKED_FROM * total_tokens,
        "forecast_data_bits": bits[0],
        "forecast_data_bits_interval": bits[1:],
        "forecast_compressed_bytes": compressed[0],
        "forecast_compressed_bytes_interval": compressed[1:],
    }


def _raw_at_end(now: Mapping[str, float | int | None], total_tokens: int, told: int | None) -> int | None:
    seen, tokens = now["raw_bytes"], now["tokens"]
    if told is not None:
        if not max(1, seen or 0) <= told <= _MOST:
            raise CurveError(f"expected raw_bytes of at least the {seen or 1:,} seen, at most {_MOST:.0e}")
        return told
    return round(seen * total_tokens / tokens) if seen and tokens else None


def _against_raw(found: Mapping[str, Any], raw_bytes: int | None) -> dict[str, Any]:
    """Divide raw bytes by the compressed ones; the lower end of the ratio is that of the larger size."""
    size, ends = found["forecast_compressed_bytes"], found["forecast_compressed_bytes_interval"]
    known = raw_bytes is not None and size > 0
    return {
        "forecast_raw_bytes": raw_bytes,
        "forecast_compression_ratio": raw_bytes / size if known else None,
        "forecast_compression_ratio_interval": [raw_bytes / end if end > 0 else None for end in ends[::-1]]
        if known
        else None,
    }


def _check_total(total_tokens: float, seen: float) -> None:
    if not seen <= total_tokens <= _MOST:
        given = f"{float(min(total_tokens, 2 * _MOST)):,.0f}" if total_tokens < math.inf else str(total_tokens)
        raise CurveError(f"expected total_tokens of at least the {seen:,.0f} seen, got {given}")


def _check_share(name: str, value: float, *, below_one: bool = False) -> None:
    if not 0 < value <= 1 or (below_one and value == 1):
        raise CurveError(f"expected {name} above 0 and {'below' if below_one else 'at most'} 1, got {value}")


def _decay(seen: float, decay_share: float | None, assume: Assumptions) -> tuple[float, float]:
    """Give the mean share of the rest's loss that the decay takes off, and its standard deviation.

    The drop grows in proportion to the decay; what it took off before ``seen`` is in the data already. With an unknown
    schedule there is a decay or none, one as likely as the other.
    """
    share = assume.decay_share if decay_share is None else decay_share
    if share == 0:
        return 0.0, 0.0
    _check_share("decay_share", share)
    begin = max(seen, 1 - share)
    already = (begin - (1 - share)) / share
    mean = assume.decay_drop * (1 - already) / 2 * (1 - begin) / (1 - seen)
    return (mean / 2, mean / 2) if decay_share is None else (mean, mean / 2)
