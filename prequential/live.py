"""The values that loggers show while a run trains, and the same values again from its book."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prequential.codelength import Tally, quantities
from prequential.outlook import Outlook
from prequential.run import Run

SOURCES = "sources/"
_SHOWN_SOURCES = 32  # a key each and more: loggers suffer from thousands, the book keeps them all
_OF_A_SOURCE = ("data_bits", "bits_per_byte", "bits_per_token", "coded_tokens")

Values = dict[str, float | int | None]
Row = dict[str, float | int]


class Terms(NamedTuple):
    """What turns sums into quantities, beside the sums."""

    bundle_bytes: int
    bytes_known: bool
    vocab_size: int | None
    choice_bits: float


def live_values(
    total: Tally, before: Tally, sources: Mapping[str, Tally], terms: Terms, ahead: Callable[[Values], Row]
) -> Row:
    """Values of one log point: over all so far, ahead, since the last one, by source; unknown ones are left out.

    Args:
        total: Sums so far.
        before: Sums at the last log point.
        sources: Sums so far by source.
        terms: What holds beside the sums.
        ahead: Makes forecasts from the quantities so far.
    """
    now = quantities(total, **terms._asdict())
    values = {
        **now,
        **ahead(now),
        **interval_values(total, before, bytes_known=terms.bytes_known),
        **source_values(sources, bytes_known=terms.bytes_known),
    }
    return {name: value for name, value in values.items() if value is not None}


def with_sources(sources: Mapping[str, Tally], added: Mapping[str, Tally]) -> dict[str, Tally]:
    """Add sums by source."""
    return {name: sources.get(name, Tally()) + added.get(name, Tally()) for name in {**sources, **added}}


def replayed(run: Run) -> Iterator[Row]:
    """Give the values that loggers got while ``run`` was trained, to the last digit.

    What the last log point did not show stands in a last row: a program that had grown, a later charge. A book without
    marks, such as an imported one, has a row for each interval. Forecasts of a run that was resumed may stand in other
    rows than they did, since they are made whenever the data has grown by a share.
    """
    start = Terms(
        bundle_bytes=int((run.header.get("bundle") or {}).get("bundle_bytes", 0)),
        bytes_known=run.bytes_known,
        vocab_size=run.header.get("vocab_size"),
        choice_bits=0.0,
    )
    final = start._replace(
        bundle_bytes=int(run.bundle.get("bundle_bytes", 0)), choice_bits=math.fsum(run.charges.values())
    )
    marked = any(interval.log_point for interval in run.intervals)
    outlook = Outlook(run.header)
    total = before = Tally()
    sources: dict[str, Tally] = {}
    shown: Terms | None = None
    for number, interval in enumerate(run.intervals):
        total, sources = total + interval.tally, with_sources(sources, interval.sources)
        outlook.add(interval.step, interval.tally)
        if interval.carried:
            before = total
        elif interval.log_point or not marked:
            charged = (bits for name, bits in run.charges.items() if run.charged_at.get(name, 0) <= number)
            shown = start._replace(choice_bits=math.fsum(charged))
            yield live_values(total, before, sources, shown, outlook.values)
            before = total
    if total != before or shown not in (None, final):
        yield live_values(total, before, sources, final, outlook.values)


def interval_values(total: Tally, before: Tally, *, bytes_known: bool) -> Values:
    """Rates since the last log point.

    Args:
        total: Sums so far.
        before: Sums at the last log point.
        bytes_known: Whether raw bytes are counted.
    """
    since = Tally(
        nats=total.nats - before.nats,
        uncoded_nats=total.uncoded_nats - before.uncoded_nats,
        coded_tokens=total.coded_tokens - before.coded_tokens,
        raw_bytes=total.raw_bytes - before.raw_bytes,
    )
    values = quantities(since, bundle_bytes=0, bytes_known=bytes_known, vocab_size=None)
    return {f"interval_{name}": values[name] for name in ("bits_per_byte", "bits_per_token")}


def source_values(sources: Mapping[str, Tally], *, bytes_known: bool) -> Values:
    """Quantities of each source under ``sources/<name>/<quantity>``; of the largest ones, where there are many."""
    largest = sorted(sources, key=lambda name: -sources[name].nats)[:_SHOWN_SOURCES]
    values: Values = {}
    for name in largest:
        own = quantities(sources[name], bundle_bytes=0, bytes_known=bytes_known, vocab_size=None)
        values.update({f"{SOURCES}{name}/{quantity}": own[quantity] for quantity in _OF_A_SOURCE})
    return values
