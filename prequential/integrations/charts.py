"""The *Compression* section of a finished W&B run: charts of several curves each, over the tokens, from its book.

While a run trains, W&B draws a chart for each key that is logged, and a saved workspace (``prequential dashboard``)
puts curves together. A chart that a run brings along is a table, which goes to the server as an artifact, and its
client may wait for that: so these are logged once, when training is over.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from prequential.codelength import NATS_PER_BIT
from prequential.curve import running_model_bits
from prequential.panels import PANELS, SECTION, Panel
from prequential.run import Run
from prequential.series import Floats, series, thinned

_POINTS = 300  # of a curve

Curves = dict[str, tuple[Floats, Floats]]


def log_charts(wandb_run: Any, run: Run) -> None:
    """Log every panel that a run has the curves of; nothing for a book of fewer than two intervals."""
    curves = {name: curve for name, curve in _curves(run).items() if len(curve[0]) > 1}
    charts = {}
    for panel in PANELS:
        found = {name: curves[name] for name in panel.quantities if name in curves}
        if found and (panel.needs is None or panel.needs in found):
            charts[f"{SECTION}/{panel.key}"] = _chart(panel, found | (_references(run) if panel.references else {}))
    if charts:
        wandb_run.log(charts)


def _curves(run: Run) -> Curves:
    """Columns of the book, under the names of the registry."""
    columns, points = series(run), running_model_bits(run)
    unit = "byte" if run.bytes_known else "token"
    values = {
        "compressed_bytes": columns.compressed_bytes,
        "raw_bytes": columns.raw_bytes,
        "uniform_bytes": columns.uniform_bytes,
        f"interval_bits_per_{unit}": columns.bits_per_unit,
        f"bits_per_{unit}": columns.running_bits_per_unit,
        "compression_ratio" if run.bytes_known else "uniform_ratio": columns.ratio,
    }
    curves = {name: (columns.tokens, column) for name, column in values.items() if column is not None}
    coded, uncoded, nats = (_column(run.columns.column(name)) for name in ("coded_tokens", "uncoded_tokens", "nats"))
    curves["data_bits"] = (coded + uncoded).cumsum(), nats.cumsum() / NATS_PER_BIT
    curves["model_bits_estimate"] = _column(p.tokens for p in points), _column(p.model_bits for p in points)
    return {name: _drawable(*curve) for name, curve in curves.items()}


def _column(values: Iterable[float]) -> Floats:
    return np.fromiter(values, np.float64)


def _drawable(tokens: Floats, values: Floats) -> tuple[Floats, Floats]:
    there = np.isfinite(values) & (tokens > 0)
    tokens, values = tokens[there], values[there]
    chosen = thinned(tokens, values, _POINTS)
    return tokens[chosen], values[chosen]


def _references(run: Run) -> Curves:
    """Sizes of all of the data under other codes, as horizontal lines."""
    ends = np.array([run.intervals[0].tally.tokens, run.total.tokens], np.float64)
    return {name: (ends, np.full(2, float(size))) for name, size in (run.header.get("baselines") or {}).items()}


def _chart(panel: Panel, curves: Curves) -> Any:
    from wandb.plot import line_series

    return line_series(
        xs=[tokens.tolist() for tokens, _ in curves.values()],
        ys=[values.tolist() for _, values in curves.values()],
        keys=[name.replace("_", " ") for name in curves],
        title=f"{panel.title} ({panel.unit})",
        xname="tokens",
        split_table=True,
    )
