"""A log as it was read, whatever wrote it: columns of numbers, a row for each time that something was logged."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prequential.sources.area import Column
from prequential.sources.reading import Columns


@dataclass(frozen=True)
class Log:
    """Numbers by column; NaN where a row has none, infinity where what was logged is no number to reckon with.

    Attributes:
        name: Name of the run.
        path: Where it was read from.
        kind: What wrote it, in a word or two.
        chosen: Which columns hold what.
        columns: The columns that were asked for, each as long as the log.
        summary: Last values and final facts, where the log keeps them apart.
        status: How the run ended; ``imported`` where the log does not tell.
        rounding: Largest relative error of a stored number.
        warnings: What had to be tolerated.
    """

    name: str
    path: str
    kind: str
    chosen: Columns
    columns: Mapping[str, Column]
    summary: Mapping[str, Any] = field(default_factory=dict)
    status: str = "imported"
    rounding: float = 0.0
    warnings: tuple[str, ...] = ()


def number(value: Any) -> float:
    """Turn what a log holds into a number: infinity for what is none, such as a logged NaN."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            return math.inf
        return value if math.isfinite(value) else math.inf
    return math.inf


def standing(order: Column) -> Column:
    """Tell which rows stand: those that no later row takes the place of, as after a resume from a checkpoint."""
    lowest_after = np.minimum.accumulate(np.append(order[1:], np.inf)[::-1])[::-1]
    return np.asarray(order < lowest_after)


def columns_of(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Column]:
    """Gather rows of names and values into columns; rows with none of the names leave nothing."""
    gathered = [array("d") for _ in names]
    for row in rows:
        values = [row.get(name) for name in names]
        if all(value is None for value in values):
            continue
        for column, value in zip(gathered, values, strict=True):
            column.append(math.nan if value is None else number(value))
    return {name: np.frombuffer(column) for name, column in zip(names, gathered, strict=True)}
