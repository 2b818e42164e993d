"""A run from TensorBoard's event files, which hold numbers in single precision: sums in them are rounded."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from prequential.errors import SourceError
from prequential.sources.area import Column
from prequential.sources.log import Log, standing
from prequential.sources.reading import Reading

_SINGLE_PRECISION = 2.0**-24


def read_events(path: Path, reading: Reading) -> Log:
    """Read the scalars of an event file, or of all those in one folder: one run.

    Raises:
        SourceError: The tensorboard package is not installed, or there are no scalars.
    """
    accumulator = _accumulator(path)
    tags = sorted({*accumulator.scalars.Keys(), *accumulator.tensors.Keys()})
    chosen = reading.choose(["step", *tags], str(path))
    series = {name: _series(accumulator, name) for name in chosen.names if name != "step"}
    steps = np.unique(np.concatenate([own for own, _ in series.values()]))
    columns = {"step": steps}
    for name, (own, values) in series.items():
        columns[name] = np.full(len(steps), np.nan)
        columns[name][np.searchsorted(steps, own)] = values
    folder = path.resolve() if path.is_dir() else path.resolve().parent
    return Log(folder.name, str(path), "TensorBoard", chosen, columns, rounding=_SINGLE_PRECISION)


def _accumulator(path: Path) -> Any:
    try:
        from tensorboard.backend.event_processing.event_accumulator import (
            EventAccumulator,
        )
    except ImportError as error:
        raise SourceError(f"expected the tensorboard package, to read {path}: pip install tensorboard") from error
    everything = {"scalars": 0, "tensors": 0}
    accumulator = EventAccumulator(str(path), size_guidance=everything, purge_orphaned_data=False)
    logger = logging.getLogger("tensorboard")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what it says of damage is said below, or is of no use
    try:
        accumulator.Reload()
    except Exception as error:  # of whichever of its libraries finds the damage
        raise SourceError(f"expected TensorBoard events, cannot read {path}: {error}") from error
    finally:
        logger.setLevel(level)
    return accumulator


def _series(accumulator: Any, tag: str) -> tuple[Column, Column]:
    """Steps and values of a tag; newer writers store scalars as tensors without dimensions."""
    if tag in accumulator.scalars.Keys():
        events = accumulator.Scalars(tag)
        values = [event.value for event in events]
    else:
        from tensorboard.util.tensor_util import make_ndarray

        events = accumulator.Tensors(tag)
        try:
            values = [float(make_ndarray(event.tensor_proto).item()) for event in events]
        except (TypeError, ValueError) as error:
            raise SourceError(f"expected scalars under {tag!r}, got tensors: name another tag") from error
    steps, column = np.array([event.step for event in events], dtype=np.float64), np.array(values, dtype=np.float64)
    column[~np.isfinite(column)] = np.inf
    stands = standing(steps)
    return steps[stands], column[stands]
