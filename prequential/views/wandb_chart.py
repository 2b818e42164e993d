"""The charts of a page as W&B's custom charts: the same Vega-Lite, with W&B's placeholders where columns are named.

W&B feeds such a chart the logged rows of the runs that are shown, as they come in, under the names of their keys; which
key stands for which placeholder is said beside the specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from prequential.views.chart import CONFIG, SCHEMA, Spec, charts, params

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
_VIEW = "view0"


class Template(NamedTuple):
    """A custom chart: its specification, and the quantity that fills each of its fields."""

    specification: Spec
    fields: dict[str, str]


def wandb_charts(baselines: Mapping[str, float]) -> dict[str, Template]:
    """Write size, rate and ratio as W&B stores custom charts, by name.

    Args:
        baselines: Bytes of the same data under other codes, by name, drawn as horizontal lines.
    """
    return {name: _template(part) for name, part in charts("byte", baselines).items()}


def _template(part: Spec) -> Template:
    part["layer"][-1]["name"] = _VIEW
    fields: dict[str, str] = {}
    drawn = _with_placeholders({**part, "params": params([_VIEW])}, fields)
    return Template({"$schema": SCHEMA, "data": {"name": "wandb"}, "config": CONFIG, **drawn}, fields)


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
