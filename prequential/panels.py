"""Which quantities are looked at together: the panels of the *Compression* section, live and saved.

W&B's own charts of a run, the saved workspace and the report are all made of this one list.
"""

from __future__ import annotations

from typing import NamedTuple

SECTION = "Compression"
BASELINES = "baselines/"


class Panel(NamedTuple):
    """A chart over the tokens of the data.

    Attributes:
        key: Word for it in keys.
        title: What stands above it.
        unit: What its height is.
        quantities: Curves, by their names in the registry; those that a run does not have are left out.
        needs: One of them, without which it says nothing.
        references: Whether sizes of the same data under other codes belong into it, as horizontal lines.
    """

    key: str
    title: str
    unit: str
    quantities: tuple[str, ...]
    needs: str | None = None
    references: bool = False


PANELS = (
    Panel(
        "size",
        "Compressed against raw size",
        "bytes",
        ("compressed_bytes", "raw_bytes", "uniform_bytes"),
        references=True,
    ),
    Panel(
        "rate",
        "Bits per byte, or token: of the interval, of all so far",
        "bits",
        ("interval_bits_per_byte", "bits_per_byte", "interval_bits_per_token", "bits_per_token"),
    ),
    Panel("ratio", "Compression ratio", "raw, or uniform, over compressed", ("compression_ratio", "uniform_ratio")),
    Panel(
        "split",
        "Code length, and what of it went into the model",
        "bits",
        ("data_bits", "model_bits_estimate"),
        needs="model_bits_estimate",
    ),
    Panel(
        "forecast",
        "Size so far, and the forecast of the final size with its band",
        "bytes",
        (
            "compressed_bytes",
            "forecast_compressed_bytes_low",
            "forecast_compressed_bytes",
            "forecast_compressed_bytes_high",
        ),
        needs="forecast_compressed_bytes",
    ),
)

# Quantities that a chart of their own says nothing to a reader: parts of the accounting, which tables show.
BOOKKEEPING = frozenset(
    {
        "tokens",
        "nats",
        "description_bits",
        "uncoded_bits",
        "choice_bits",
        "bundle_bytes",
        "coded_tokens",
        "uncoded_tokens",
        "masked_tokens",
        "padding_tokens",
        "replayed_tokens",
        "nonfinite_tokens",
        "planned_tokens",
    }
)
