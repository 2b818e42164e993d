"""The forecast of a run as a line with its band, for the charts of size and ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prequential.progress import ahead
from prequential.run import Run

_POINTS = 12

Spec = dict[str, Any]


def ahead_rows(runs: Sequence[Run]) -> list[Spec]:
    """Give the points of the forecasts of those runs that are going on and whose planned tokens are known."""
    return [row for run in runs if run.end is None for row in _rows(run)]


def ahead_layers(quantity: str) -> list[Spec]:
    """Draw one quantity of the dataset ``ahead``: a band, and a dotted line in it.

    Args:
        quantity: ``compressed`` or ``ratio``.
    """
    names = [f"{quantity}_low", quantity, f"{quantity}_high"]
    low, middle, _ = ({"field": name, "type": "quantitative"} for name in names)
    places = {
        "x": {"field": "tokens", "type": "quantitative"},
        "color": {"field": "run", "type": "nominal", "sort": None},
    }
    titled = zip(["tokens", *names], ["tokens", "forecast, from", "forecast", "forecast, to"], strict=True)
    tooltip = [{"field": name, "type": "quantitative", "title": title, "format": ",.4~s"} for name, title in titled]
    band = {**places, "y": low, "y2": {"field": names[2]}, "opacity": {"value": 0.3}}
    line = {**places, "y": middle, "tooltip": [{"field": "run"}, *tooltip]}
    dotted = {"type": "line", "strokeDash": [2, 2], "strokeWidth": 2, "clip": True}
    data = {"name": "ahead"}
    return [
        {"data": data, "mark": {"type": "area", "clip": True}, "encoding": band},
        {"data": data, "mark": dotted, "encoding": line},
    ]


def _rows(run: Run) -> list[Spec]:
    planned = run.planned_tokens
    found = [] if planned is None else ahead(run, planned, _POINTS)
    if not found:
        return []
    now = run.measured()
    size, ratio = now["compressed_bytes"], now["compression_ratio"]
    first = _row(run.name, now["tokens"], (size, size, size), None if ratio is None else (ratio, ratio, ratio))
    return [first, *(_forecast(run.name, at) for at in found)]


def _forecast(name: str, at: dict[str, Any]) -> Spec:
    size, ratio = (_ends(at, f"forecast_{quantity}") for quantity in ("compressed_bytes", "compression_ratio"))
    return _row(name, at["forecast_tokens"], size, ratio)


def _ends(at: dict[str, Any], quantity: str) -> Any:
    """Lower end, middle and upper end."""
    return (
        None if at[quantity] is None else (at[f"{quantity}_interval"][0], at[quantity], at[f"{quantity}_interval"][1])
    )


def _row(name: str, tokens: Any, size: Any, ratio: Any) -> Spec:
    row = {"run": name, "tokens": tokens}
    for quantity, values in (("compressed", size), ("ratio", ratio)):
        if values is not None:
            row |= dict(zip((f"{quantity}_low", quantity, f"{quantity}_high"), values, strict=True))
    return row
