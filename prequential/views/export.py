"""Runs for other programs: their curves as comma-separated values, or all that is known of them as JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from prequential.comparison import Comparison
from prequential.run import Run
from prequential.series import Series, series
from prequential.views.record import comparison_record, run_record

CURVE_COLUMNS = ("step", "tokens", "raw_bytes", "data_bits", "compressed_bytes", "uniform_bytes")


def curves_csv(runs: Sequence[Run]) -> str:
    """Write the running totals of runs, a line for each interval with tokens: ``run`` and `CURVE_COLUMNS`.

    Nothing is thinned or rounded; a cell is empty where a value is not known.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *CURVE_COLUMNS])
    for run in runs:
        columns = _columns(series(run))
        blank = [""] * len(columns["tokens"] or [])
        cells = [blank if columns[name] is None else columns[name] for name in CURVE_COLUMNS]
        writer.writerows((run.name, *row) for row in zip(*cells, strict=True))
    return text.getvalue()


def report_record(runs: Sequence[Run], comparison: Comparison | None = None) -> dict[str, Any]:
    """Say all of runs: ``runs`` as `run_record` does, each with ``curve``, and ``comparison`` (None for one run).

    A curve is an object of lists: the columns of `curves_csv`, None for one that is not known.
    """
    return {
        "runs": [{**run_record(run), "curve": _columns(series(run))} for run in runs],
        "comparison": None if comparison is None else comparison_record(comparison),
    }


def _columns(columns: Series) -> dict[str, list[float] | None]:
    """Columns by name, counts as whole numbers."""
    found: dict[str, list[float] | None] = {}
    for name in CURVE_COLUMNS:
        values = columns.steps if name == "step" else getattr(columns, name)
        whole = name in ("step", "tokens", "raw_bytes")
        found[name] = None if values is None else (values.astype("int64") if whole else values).tolist()
    return found
