"""A log of comma-separated values: a header of names, a row for each logged step, cells empty where nothing was logged.

Lightning's ``metrics.csv`` is one. Tabs and semicolons separate as well.
"""

from __future__ import annotations

import csv
import math
import warnings
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TextIO

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
    told: list[str] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            separator = max(_SEPARATORS, key=first.count)
            names = [name.strip() for name in next(csv.reader([first], delimiter=separator), [])]
            chosen = reading.choose(names, str(path))
            table = _Table(path, file, separator, [names.index(name) for name in chosen.names], len(names))
            columns = table.plain()
            if columns is None:
                file.seek(0)
                file.readline()
                columns = table.cells(told)
    except UnicodeDecodeError as error:
        raise SourceError(f"expected a CSV file, {path} is no UTF-8 text: is this the right file?") from error
    except (csv.Error, ValueError) as error:
        raise SourceError(f"expected a CSV file, cannot read {path}: {error}") from error
    except OSError as error:
        raise SourceError(f"expected a CSV file, cannot read {path}: {error.strerror}") from error
    whole = path.resolve()
    name = whole.parent.name if path.stem.lower() in _ANY_RUN else path.stem
    columns_by_name = dict(zip(chosen.names, columns, strict=True))
    return Log(name, str(path), "CSV", chosen, columns_by_name, warnings=tuple(told))


class _Table(NamedTuple):
    """What stands below the header of a CSV file."""

    path: Path
    file: TextIO
    separator: str
    places: list[int]
    width: int

    def plain(self) -> list[Column] | None:
        """Read a table of nothing but numbers, ten times as fast; None if it is no such table."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of no rows at all
                table = np.loadtxt(
                    self.file, delimiter=self.separator, usecols=self.places, comments=None, quotechar='"', ndmin=2
                )
        except ValueError:
            return None
        table[~np.isfinite(table)] = math.inf
        return list(table.T)

    def cells(self, told: list[str]) -> list[Column]:
        """Read cell by cell, where some are empty."""
        rows = csv.reader(self.file, delimiter=self.separator)
        parts: list[list[Column]] = [[np.empty(0)] for _ in self.places]
        read = 0
        while chunk := list(islice(rows, _CHUNK_ROWS)):
            if len(chunk) < _CHUNK_ROWS and 0 < len(chunk[-1]) < self.width:
                chunk.pop()
                told.append("the last line is cut short and was left out")
            for part, place in zip(parts, self.places, strict=True):
                part.append(self._column(chunk, place, read + 2))
            read += len(chunk)
        return [np.concatenate(part) for part in parts]

    def _column(self, chunk: list[list[str]], place: int, first_line: int) -> Column:
        """Read one cell of every row: all at once, or one by one where some are odd, to name what is damaged."""
        try:
            texts = [row[place] for row in chunk]
            values = np.array([float(text) if text else math.nan for text in texts])
        except (IndexError, ValueError):
            return np.array([self._number(row, place, line) for line, row in enumerate(chunk, first_line)])
        for odd in np.flatnonzero(~np.isfinite(values)):
            if texts[odd]:  # a logged NaN is a number that nobody can reckon with, an empty cell is none
                values[odd] = math.inf
        return values

    def _number(self, row: list[str], place: int, line: int) -> float:
        try:
            text = row[place]
            return number(float(text)) if text and not text.isspace() else math.nan
        except IndexError:
            if not row:
                return math.nan
            raise SourceError(
                f"expected a cell for each of {self.width} names in line {line} of {self.path}, got {len(row)}: is the "
                "line damaged?"
            ) from None
        except ValueError:
            raise SourceError(
                f"expected a number in line {line} of {self.path}, got {row[place]!r:.40}: name another column, or "
                "mend the line"
            ) from None
