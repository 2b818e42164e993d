"""Charts as Vega-Lite: one specification serves the page, PNG, SVG and PDF, and W&B's custom charts.

Colours are those of Okabe and Ito, which people who do not see all colours tell apart. A chart draws some thousand
points of a curve, the lowest and the highest of each stretch among them; totals are never taken from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prequential.run import Run
from prequential.series import lead, series, thinned
from prequential.views.band import ahead_layers, ahead_rows

SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933", "#44AA99", "#777777")
# Points of a curve at most; of many curves fewer, so that a page stays small, but never too few to show a shape.
POINTS, POINTS_OF_ALL, FEWEST_POINTS = 1_500, 10_000, 200

_BYTES = "format(datum.value, '.3~s') + 'B'"
_COUNT = "format(datum.value, '.3~s')"
# On a logarithmic axis only 1, 2, 5, 10, ... have room for a label.
_SPARSE = f"test(/^[125]/, format(datum.value, '.0e')) ? {_COUNT} : ''"
_SPARSE_BYTES = f"test(/^[125]/, format(datum.value, '.0e')) ? {_BYTES} : ''"
_LEGEND = {"orient": "top", "columns": 3, "symbolOpacity": 1, "symbolStrokeWidth": 2}
_DECADES = {"condition": {"test": "test(/^1/, format(datum.value, '.0e'))", "value": 1}, "value": 0}
_NEAR = 1.2  # horizontal lines closer than by this factor share a label

Spec = dict[str, Any]


def run_chart(
    runs: Sequence[Run],
    *,
    baselines: Mapping[str, float] | None = None,
    groups: Mapping[str, str] | None = None,
    width: int = 640,
) -> Spec:
    """Draw runs over their tokens: rate, size and ratio; of several also how far each is behind the first.

    Args:
        runs: One run, or several on the same data, best first.
        baselines: Bytes of the same data under other codes, by name, drawn as horizontal lines.
        groups: The group of each run by its name: runs of one group have one colour.
        width: Of each chart, in pixels.

    Returns:
        A Vega-Lite specification with its data.
    """
    unit = "byte" if all(run.bytes_known for run in runs) else "token"
    names = [run.name for run in runs]
    parts = [_rate(unit), _size(runs, baselines or {}), _ratio(unit)]
    points = max(FEWEST_POINTS, min(POINTS, POINTS_OF_ALL // len(runs)))
    datasets = {"curves": [row for run in runs for row in _curve(run, points)]}
    if len(runs) > 1:
        parts.append(_behind(names[0]))
        datasets["behind"] = [row for run in runs[1:] for row in _behind_rows(runs[0], run, points)]
    outlook = ahead_rows(runs)
    if outlook:
        datasets["ahead"] = outlook
        parts[1]["layer"][:0] = ahead_layers("compressed")
        parts[2]["layer"][:0] = ahead_layers("ratio")
        for part in parts[1:]:
            part["title"] += "; forecast (dotted) with its 90 % band"
    views = [f"view{number}" for number in range(len(parts))]
    for part, name in zip(parts, views, strict=True):
        part.update({"width": width, "height": 220})
        part["layer"][-1]["name"] = name  # a selection needs one layer
    if groups:
        datasets["groups"] = [{"run": name, "group": groups.get(name, "")} for name in names]
        _colour_by_group(parts)
    return {
        "$schema": SCHEMA,
        "datasets": datasets,
        "data": {"name": "curves"},
        "vconcat": parts,
        "params": _params(views, "group" if groups else "run"),
        "resolve": {"scale": {"color": "shared"}},
        "config": {"range": {"category": list(COLOURS)}, "font": "system-ui, sans-serif", "view": {"stroke": None}},
    }


def _colour_by_group(parts: Sequence[Spec]) -> None:
    """Draw a line a run still, in the colour of its group."""
    for part in parts:
        part["transform"] = [{"lookup": "run", "from": {"data": {"name": "groups"}, "key": "run", "fields": ["group"]}}]
        for encoding in (layer.get("encoding", {}) for layer in part["layer"]):
            if "color" in encoding:
                encoding["color"]["field"] = "group"
                encoding["detail"] = {"field": "run"}


def _params(views: Sequence[str], picked: str) -> list[Spec]:
    """One legend and one zoom for all charts."""
    return [
        {"name": "picked", "select": {"type": "point", "fields": [picked]}, "bind": "legend", "views": list(views)},
        {"name": "zoom", "select": {"type": "interval", "encodings": ["x"]}, "bind": "scales", "views": list(views)},
    ]


def _curve(run: Run, points: int) -> list[Spec]:
    columns = series(run)
    if not len(columns.tokens):
        return []
    chosen = thinned(columns.tokens, columns.bits_per_unit, points)
    kept = {
        "tokens": columns.tokens,
        "rate": columns.bits_per_unit,
        "running": columns.running_bits_per_unit,
        "compressed": columns.compressed_bytes,
        "raw": columns.raw_bytes if columns.raw_bytes is not None else columns.uniform_bytes,
        "ratio": columns.ratio,
    }
    return _rows(run.name, {name: values[chosen] for name, values in kept.items() if values is not None})


def _behind_rows(best: Run, run: Run, points: int) -> list[Spec]:
    tokens, behind = lead(best, run)
    chosen = thinned(tokens, behind, points) if len(tokens) else np.empty(0, np.int64)
    return _rows(run.name, {"tokens": tokens[chosen], "behind": behind[chosen]})


def _rows(name: str, columns: Mapping[str, Any]) -> list[Spec]:
    lists = {column: [_plain(value) for value in values.tolist()] for column, values in columns.items()}
    return [{"run": name, **dict(zip(lists, row, strict=True))} for row in zip(*lists.values(), strict=True)]


def _plain(value: float) -> float | None:
    """Six digits, which is more than a chart shows; None for what JSON cannot hold."""
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _tokens() -> Spec:
    return {
        "field": "tokens",
        "type": "quantitative",
        "title": "tokens",
        "scale": {"type": "log", "nice": False},
        "axis": {"labelExpr": _SPARSE, "grid": False},
    }


def _colour() -> Spec:
    return {"field": "run", "type": "nominal", "title": None, "sort": None, "legend": _LEGEND}


def _line(field: str, title: str, axis: Spec, *, faint: bool = False, **more: Any) -> Spec:
    """A line a run, which fades when another run is picked in the legend."""
    return {
        "mark": {"type": "line", "strokeWidth": 1 if faint else 2, "clip": True, **more},
        "encoding": {
            **_places(field, title, axis),
            "opacity": {"condition": {"param": "picked", "value": 0.35 if faint else 1.0}, "value": 0.08},
        },
    }


def _hover(field: str, title: str, axis: Spec) -> Spec:
    """Points that are not seen, for the pointer to find."""
    tooltip = [
        {"field": "run", "title": "run"},
        {"field": "tokens", "type": "quantitative", "format": ",.4~s"},
        {"field": field, "type": "quantitative", "title": title, "format": ",.5~s"},
    ]
    encoding = {**_places(field, title, axis), "opacity": {"value": 0}, "tooltip": tooltip}
    return {"mark": {"type": "point", "size": 60, "clip": True}, "encoding": encoding}


def _places(field: str, title: str, axis: Spec) -> Spec:
    height = {"field": field, "type": "quantitative", "title": title, **axis}
    return {"x": _tokens(), "y": height, "color": _colour()}


def _rate(unit: str) -> Spec:
    title, axis = f"bits per {unit}", {"scale": {"zero": False}}
    layers = [_line("rate", title, axis, faint=True), _line("running", title, axis), _hover("running", title, axis)]
    return {"title": f"Bits per {unit}: of the interval (thin), of all so far", "layer": layers}


def _size(runs: Sequence[Run], baselines: Mapping[str, float]) -> Spec:
    axis: Spec = {"axis": {"labelExpr": _SPARSE_BYTES, "gridOpacity": _DECADES}, "scale": {"type": "log"}}
    layers = [_line("raw", "size", axis, faint=True, strokeDash=[4, 3]), _line("compressed", "size", axis)]
    if baselines:
        layers.append(_rules(baselines))
    what = "raw" if all(run.bytes_known for run in runs) else "uniform"
    title = f"Size: {what} (dashed), compressed with the bundle"
    return {"title": title, "layer": [*layers, _hover("compressed", "size", axis)]}


def _rules(baselines: Mapping[str, float]) -> Spec:
    """Horizontal lines: what the whole data takes under other codes; those that lie close together share a label."""
    height = {"field": "bytes", "type": "quantitative"}
    text = {"type": "text", "align": "left", "dx": 4, "dy": -5, "fontSize": 10, "opacity": 0.8}
    label = {"y": height, "x": {"value": 0}, "text": {"field": "code", "type": "nominal"}}
    lines = [{"bytes": size} for size in baselines.values()]
    return {
        "layer": [
            {
                "data": {"values": lines},
                "mark": {"type": "rule", "strokeDash": [1, 3], "opacity": 0.7},
                "encoding": {"y": height},
            },
            {"data": {"values": _labels(baselines)}, "mark": text, "encoding": label},
        ],
    }


def _labels(baselines: Mapping[str, float]) -> list[Spec]:
    labels: list[Spec] = []
    lowest = 0.0
    for name, size in sorted(baselines.items(), key=lambda item: item[1]):
        if labels and size < _NEAR * lowest:
            labels[-1] = {"code": f"{labels[-1]['code']}, {name}", "bytes": size}
        else:
            lowest = size
            labels.append({"code": name, "bytes": size})
    return labels


def _ratio(unit: str) -> Spec:
    title = f"Compression ratio, {'raw' if unit == 'byte' else 'uniform'} over compressed"
    return {"title": title, "layer": [_line("ratio", "ratio", {}), _hover("ratio", "ratio", {})]}


def _behind(best: str) -> Spec:
    title, axis = "bytes behind", {"axis": {"labelExpr": _BYTES}}
    zero: Spec = {"data": {"values": [{}]}, "mark": {"type": "rule", "opacity": 0.5}, "encoding": {"y": {"datum": 0}}}
    layers = [_line("behind", title, axis), zero, _hover("behind", title, axis)]
    return {"title": f"Bytes behind {best} at equal data", "data": {"name": "behind"}, "layer": layers}
