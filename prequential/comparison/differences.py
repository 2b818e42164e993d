"""Two runs on the same data: by how much one is shorter, how sure that is, since when, and what it is of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from prequential.codelength import NATS_PER_BIT, nats_to_bits
from prequential.comparison.alignment import common_cells
from prequential.comparison.noise import half_width_nats
from prequential.run import Run


@dataclass(frozen=True)
class Difference:
    """How many bytes one run needs less than another: ``difference = area + charges + bundle``.

    Attributes:
        rival: Name of the other run.
        difference_bytes: Compressed bytes of the other run less those of the first.
        interval_bytes: 95 % interval of that difference, see `noise`; None where it could not be estimated.
        area_bytes: What of it is area under the loss curves: ``data_bits / 8``.
        charges_bytes: What of it is charged beside: uncoded tokens and named choices.
        bundle_bytes: What of it is training program; None where the runs have none.
        leads_from_tokens: First boundary of both books from which on the first run's code stays shorter, bundle
            included; None where it is not at the last one, or where the books share none.
        leads_from_tokens_without_bundle: The same for data and charges alone.
    """

    rival: str
    difference_bytes: float
    interval_bytes: tuple[float, float] | None
    area_bytes: float
    charges_bytes: float
    bundle_bytes: int | None
    leads_from_tokens: int | None
    leads_from_tokens_without_bundle: int | None


def difference(first: Run, other: Run) -> Difference:
    """Hold one run against another on the same data."""
    ours, theirs = (run.measured() for run in (first, other))
    parts = {name: (theirs[name] or 0) - (ours[name] or 0) for name in ours if name.endswith(("_bits", "_bytes"))}
    bundle_bytes = int(parts["bundle_bytes"])
    whole = float(parts["compressed_bytes"])
    return Difference(
        rival=other.name,
        difference_bytes=whole,
        interval_bytes=_interval(first, other, whole),
        area_bytes=parts["data_bits"] / 8,
        charges_bytes=(parts["uncoded_bits"] + parts["choice_bits"]) / 8,
        bundle_bytes=bundle_bytes if first.bundle or other.bundle else None,
        leads_from_tokens=leads_from(first, other, parts["choice_bits"] + 8 * bundle_bytes),
        leads_from_tokens_without_bundle=leads_from(first, other, parts["choice_bits"]),
    )


def leads_from(first: Run, other: Run, charge_bits: float) -> int | None:
    """Find the first common boundary from which on the first run's code stays shorter than the other's.

    Args:
        first: A run.
        other: A run on the same data.
        charge_bits: What the other is charged more than the first, whatever the number of tokens.

    Returns:
        Tokens; None where the first is not ahead at the last common boundary.
    """
    cells = common_cells(other, first, whole=False)
    behind = np.flatnonzero(charge_bits + cells.nats.cumsum() / NATS_PER_BIT <= 0)
    since = int(behind[-1]) + 1 if len(behind) else 0
    return int(cells.ends[since]) if since < len(cells.ends) else None


def _interval(first: Run, other: Run, whole: float) -> tuple[float, float] | None:
    half_width = half_width_nats(first, other)
    if half_width is None:
        return None
    errors = [2 * (run.nats_standard_error or 0.0) for run in (first, other)]  # of runs that were imported from logs
    half_bytes = nats_to_bits(math.hypot(half_width, *errors)) / 8
    return whole - half_bytes, whole + half_bytes
