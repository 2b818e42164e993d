"""The charts of a page as W&B's custom charts: the same Vega-Lite, with W&B's placeholders where columns are named.

W&B feeds such a chart the logged rows of the runs that are shown, as they come in, under the names of their keys; which
key stands for which placeholder is said beside the specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from prequential.run import Run
from prequential.views.chart import Spec, run_chart

# Columns of a page's charts, and the quantities that they are.
_QUANTITIES = {
    "tokens": "tokens",
    "raw": "raw_bytes",
    "compressed": "compressed_bytes",
    "rate": "interval_bits_per_byte",
    "running": "bits_per_byte",
    "ratio": "compression_ratio",
}
_RUN = "name"  # W&B's column for what a page calls "run"
_NAMES = ("rate", "size", "ratio")  # in the order of a page
# A page without rows: what is drawn, and nothing that it is drawn from.
_BLANK = Run("", "", {"bytes_known": True}, [], end={"status": "completed"})


class Template(NamedTuple):
    """A custom chart: its specification, and the quantity that fills each of its fields."""

    specification: Spec
    fields: dict[str, str]


def wandb_charts(baselines: Mapping[str, float]) -> dict[str, Template]:
    """Write size, rate and ratio as W&B stores custom charts, by name.

    Args:
        baselines: Bytes of the same data under other codes, by name, drawn as horizontal lines.
    """
    page = run_chart([_BLANK], baselines=baselines)
    return {name: _template(page, part) for name, part in zip(_NAMES, page["vconcat"], strict=True)}


def _template(page: Spec, part: Spec) -> Template:
    """Take one chart off a page; W&B gives it its rows and its size."""
    views = [part["layer"][-1]["name"]]
    fields: dict[str, str] = {}
    drawn = {name: value for name, value in part.items() if name not in ("width", "height")}
    drawn["params"] = [{**selection, "views": views} for selection in page["params"]]
    shared = {name: page[name] for name in ("$schema", "config")}
    return Template({**shared, "data": {"name": "wandb"}, **_with_placeholders(drawn, fields)}, fields)


def _with_placeholders(value: Any, fields: dict[str, str]) -> Any:
    """Name columns as W&B does, and note which there are; data of its own keeps its names."""
    if isinstance(value, list):
        return [_with_placeholders(item, fields) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _column(key, inner, fields) if key in ("field", "fields") else _with_placeholders(inner, fields)
        for key, inner in value.items()
    }


def _column(key: str, named: Any, fields: dict[str, str]) -> Any:
    if key == "fields":
        return [_column("field", name, fields) for name in named]
    if named == "run":
        return _RUN
    if named not in _QUANTITIES:
        return named
    fields[named] = _QUANTITIES[named]
    return f"${{field:{named}}}"
