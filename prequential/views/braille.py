"""Curves in characters: each is two dots wide and four high, and no peak is lost between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Dots = npt.NDArray[np.bool_]

_EMPTY = 0x2800
# Which bit of a character each of its dots is, by row and column.
_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])


def dots(places: Floats, values: Floats, box: Sequence[float], width: int, height: int) -> Dots:
    """Draw one curve.

    Args:
        places: Where the values stand, growing, shape (N,).
        values: Shape (N,), finite.
        box: Left, right, lower and upper end of what is drawn.
        width: In characters.
        height: In characters.

    Returns:
        Dots, shape (4 height, 2 width), the uppermost row first.
    """
    canvas = np.zeros((4 * height, 2 * width), np.bool_)
    if not len(values):
        return canvas
    left, right, low, high = box
    columns = _scaled(places, left, right, 2 * width)
    rows = 4 * height - 1 - _scaled(values, low, high, 4 * height)
    top, bottom = np.full(2 * width, 4 * height), np.full(2 * width, -1)
    np.minimum.at(top, columns, rows)
    np.maximum.at(bottom, columns, rows)
    _bridge(columns, rows, top, bottom)
    for column in np.flatnonzero(bottom >= 0):
        canvas[top[column] : bottom[column] + 1, column] = True
    return canvas


def characters(canvas: Dots) -> list[str]:
    """Write dots as lines of characters; where there are none stands a blank."""
    height, width = canvas.shape[0] // 4, canvas.shape[1] // 2
    cells = canvas.reshape(height, 4, width, 2).transpose(0, 2, 1, 3)
    codes = (cells * _BITS).sum(axis=(2, 3))
    return ["".join(chr(_EMPTY + code) if code else " " for code in line) for line in codes.tolist()]


def _scaled(values: Floats, low: float, high: float, count: int) -> npt.NDArray[np.int64]:
    share = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    return np.asarray(np.clip((share * (count - 1)).round(), 0, count - 1), np.int64)


def _bridge(columns: Any, rows: Any, top: Any, bottom: Any) -> None:
    """Fill what lies between one value and the next, so that a curve stays in one piece."""
    for here, there, row, next_row in zip(columns[:-1], columns[1:], rows[:-1], rows[1:], strict=True):
        if here == there:
            continue
        span = np.arange(here, there + 1)
        line = np.linspace(row, next_row, len(span)).round().astype(int)
        ends = np.minimum(line[:-1], line[1:]), np.maximum(line[:-1], line[1:])
        np.minimum.at(top, span[1:], ends[0])
        np.maximum.at(bottom, span[1:], ends[1])
