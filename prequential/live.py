"""The values that loggers show while a run trains."""

from __future__ import annotations

from collections.abc import Mapping

from prequential.codelength import Tally, quantities

SOURCES = "sources/"
_SHOWN_SOURCES = 32  # a key each and more: loggers suffer from thousands, the book keeps them all
_OF_A_SOURCE = ("data_bits", "bits_per_byte", "bits_per_token", "coded_tokens")

Values = dict[str, float | int | None]


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
