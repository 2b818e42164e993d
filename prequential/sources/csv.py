"""A log of comma-separated values: a header of names, a row for each logged step, cells empty where nothing was logged.

Lightning's ``metrics.csv`` is one. Tabs and semicolons separate as well.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from prequential.errors import SourceError
from prequential.sources.area import Column
from prequential.sources.log import Log, number
from prequential.sources.reading import Reading

# Names of files that say nothing of the run: its folder does.
_ANY_RUN = ("metrics", "log", "history", "train")
_CHUNK_ROWS = 50_000
_SEPARATORS = ",\t;"


def read_csv(path: Path, reading: Reading) -> Log:
    """Read the columns that are needed; a torn last line is left out and said.

    Raises:
        SourceError: It cannot be read, is no table with a header, or has cells that are no numbers.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            separator = max(_SEPARATORS, key=first.count)
            names = next(csv.reader([first], delimiter=separator, skipinitialspace=True), [])
            names = [name.strip() for name in names]
            chosen = reading.choose(names, str(path))
            places = [names.index(name) for name in chosen.names]
            rows = csv.reader(file, delimiter=separator, skipinitialspace=True)
            chunks, warnings = _chunks(rows, places, len(names), path)
    except UnicodeDecodeError as error:
        raise SourceError(f"expected a CSV file, {path} is no UTF-8 text: is this the right file?") from error
    except csv.Error as error:
        raise SourceError(f"expected a CSV file, cannot read {path}: {error}") from error
    except OSError as error:
        raise SourceError(f"expected a CSV file, cannot read {path}: {error.strerror}") from error
    columns = {name: np.concatenate(parts) for name, parts in zip(chosen.names, chunks, strict=True)}
    whole = path.resolve()
    name = whole.parent.name if path.stem.lower() in _ANY_RUN else path.stem
    return Log(name, str(path), "CSV", chosen, columns, warnings=tuple(warnings))


def _chunks(
    rows: Iterator[list[str]], places: list[int], width: int, path: Path
) -> tuple[list[list[Column]], list[str]]:
    """Parse some columns, a chunk of rows at a time."""
    parts: list[list[Column]] = [[np.empty(0)] for _ in places]
    read = 0
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        torn = len(chunk) < _CHUNK_ROWS and 0 < len(chunk[-1]) < width
        if torn:
            chunk.pop()
        for part, place in zip(parts, places, strict=True):
            part.append(_parsed(chunk, place, read, path))
        if torn:
            return parts, ["the last line is cut short and was left out"]
        read += len(chunk)
    return parts, []


def _parsed(chunk: list[list[str]], place: int, read: int, path: Path) -> Column:
    try:
        return _finite(np.array([float(row[place]) for row in chunk]))
    except (ValueError, IndexError):  # an empty cell, a blank line, or something to name
        return np.array([_cell(row, place, line, path) for line, row in enumerate(chunk, start=read + 2)])


def _finite(column: Column) -> Column:
    column[~np.isfinite(column)] = math.inf
    return column


def _cell(row: list[str], place: int, line: int, path: Path) -> float:
    if not row:
        return math.nan
    try:
        text = row[place].strip()
        return number(float(text)) if text else math.nan
    except IndexError:
        raise SourceError(f"expected a cell for every name of the header in line {line} of {path}, got {len(row)}: "
                          "is the line damaged?") from None
    except ValueError:
        raise SourceError(f"expected a number in line {line} of {path}, got {row[place]!r:.40}: name another column "
                          "or mend the line") from None
