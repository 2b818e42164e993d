"""What a run is forecast to come to, as a table for the terminal and as rows and lines of text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from prequential.run import Run
from prequential.views.figures import cost, count, gain, safe
from prequential.views.sheet import Cells, estimate, in_bytes
from prequential.views.table import figures_table

_EARLY = "Too early: less than a tenth of the tokens was seen, and so early the interval was not found to hold."
_NOTE = "What was seen is a sum. The rest is an estimate: it is taken to follow the law of the curve so far."


def forecast_table(run: Run, found: Mapping[str, Any]) -> RenderableType:
    """Draw a forecast beside what was seen.

    Args:
        run: The run so far.
        found: What `forecast_run` found of it.

    Returns:
        Something for `rich` to print; sizes and their upper ends are rounded up, ratios and lower ends down.
    """
    share = f"{percent(found['tokens'], found['forecast_tokens'])} of {count(found['forecast_tokens'])} tokens seen"
    heading = Text.assemble(safe(run.name), " (", safe(run.status), f"): {share}{estimate(run)}")
    interval = f"{confidence(found)} interval"
    table = figures_table(("", "so far", "estimate", f"{interval}\nfrom", "\nto"), rows(run, found))
    early = [] if found["forecast_checked"] else [Text(_EARLY, style="bold")]
    return Group(heading, table, Text(_NOTE, style="dim"), *early)


def rows(run: Run, found: Mapping[str, Any]) -> list[Cells]:
    """Give a line a quantity: so far, at the end, and between what ends."""
    now = run.measured()
    data, size, ratio = (
        found[f"forecast_{name}_interval"] for name in ("data_bits", "compressed_bytes", "compression_ratio")
    )
    lines: list[Cells] = [
        ("tokens", count(found["tokens"]), count(found["forecast_tokens"]), "", ""),
        (
            "data code, bytes",
            in_bytes(now["data_bits"]),
            in_bytes(found["forecast_data_bits"]),
            gain(data[0] / 8),
            in_bytes(data[1]),
        ),
        (
            "compressed bytes",
            cost(now["compressed_bytes"]),
            cost(found["forecast_compressed_bytes"]),
            gain(size[0]),
            cost(size[1]),
        ),
    ]
    if ratio is not None:
        lines.append(("raw bytes", count(now["raw_bytes"]), count(found["forecast_raw_bytes"]), "", ""))
        ends = gain(ratio[0], 3), cost(ratio[1], 3)
        whole = gain(found["forecast_compression_ratio"], 3)
        lines.append(("compression ratio", gain(now["compression_ratio"], 3), whole, *ends))
    return lines


def sentence(found: Mapping[str, Any]) -> str:
    """State a forecast in one line."""
    low, high = found["forecast_compressed_bytes_interval"]
    words = (
        f"estimate {cost(found['forecast_compressed_bytes'])} bytes ({confidence(found)}: {gain(low)} to {cost(high)})"
    )
    ratio = found["forecast_compression_ratio"]
    return words if ratio is None else f"{words}, ratio {gain(ratio, 3)}"


def percent(part: float, whole: float) -> str:
    """Write a share, rounded down."""
    return f"{math.floor(1000 * part / whole) / 10:g} %" if whole else "0 %"


def confidence(found: Mapping[str, Any]) -> str:
    """Write the probability of the intervals."""
    return f"{100 * found['forecast_confidence']:g} %"
