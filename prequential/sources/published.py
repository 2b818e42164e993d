"""A run from published figures alone: how many tokens, at what mean loss, and how large program and data are."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from prequential.codelength import Tally
from prequential.errors import SourceError
from prequential.run import Interval, Run
from prequential.sources.intervals import NO_BUNDLE

_MEASURE = "published mean loss"
_MEAN = (
    "the loss is taken for the mean of -ln p over all tokens, each scored before it was learnt from: figures cannot "
    "prove it, and a loss at the end of training is lower"
)
_END = {"status": "imported"}
_UNSEEN = {"answer": "unknown", "reason": "figures do not show whether tokens were fed twice"}


def published_run(
    *,
    tokens: float,
    nats_per_token: float,
    bundle_bytes: float | None = None,
    raw_bytes: float | None = None,
    name: str | None = None,
    data_name: str | None = None,
) -> Run:
    """Make a run of figures: ``nats = tokens x nats_per_token``.

    The last digit of the loss is taken for rounded, so that the standard error of the nats is
    ``tokens x unit of the last digit / sqrt(12)``; that of the counts is not known, and not in it.

    Args:
        tokens: Tokens trained on, once each.
        nats_per_token: Mean online loss, in nats.
        bundle_bytes: Size of the training program.
        raw_bytes: Bytes of the source data.
        name: Name of the run in tables.
        data_name: Declared name of the data, to compare by.

    Returns:
        A run of one interval, of grade ``estimate``.

    Raises:
        SourceError: A figure that makes no sense.
    """
    counts = {"tokens": tokens, "raw_bytes": raw_bytes, "bundle_bytes": bundle_bytes}
    known = {name: _whole(name, value) for name, value in counts.items() if value is not None}
    if not 0 <= nats_per_token < math.inf:
        raise SourceError(f"expected nats_per_token of 0 or more, got {nats_per_token}: give the mean loss in nats")
    nats = known["tokens"] * nats_per_token
    header: dict[str, Any] = {
        "name": name or "published",
        "data_name": data_name,
        "grade": "estimate",
        "measure": _MEASURE,
        "bytes_known": "raw_bytes" in known,
        "bundle": {"bundle_bytes": known["bundle_bytes"], "rule": "as published"} if "bundle_bytes" in known else None,
        "nats_standard_error": known["tokens"] * _unit(nats_per_token) / math.sqrt(12),
        "single_pass": _UNSEEN,
    }
    tally = Tally(nats=nats, coded_tokens=known["tokens"], raw_bytes=known.get("raw_bytes", 0))
    warnings = [_MEAN] + [NO_BUNDLE] * ("bundle_bytes" not in known)
    return Run(header["name"], "published figures", header, [Interval(1, 0.0, tally)], [], _END, warnings)


def _whole(name: str, value: float) -> int:
    if not (0 <= value < math.inf and value == int(value)) or (value == 0 and name != "bundle_bytes"):
        raise SourceError(f"expected a whole number of {name} above 0, got {value:g}: give the figure, as 1.4e12")
    return int(value)


def _unit(figure: float) -> float:
    """Unit of the last digit of a figure as it is written: 0.001 for 1.584."""
    exponent = Decimal(repr(float(figure))).as_tuple().exponent
    assert isinstance(exponent, int)  # a finite number
    return 10.0**exponent
