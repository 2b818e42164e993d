"""Rows of a pass that draws each row once, should it begin again: which of them came in the part that was cut off.

Whoever resumes in the middle of such a pass, with a loader that starts over, is fed rows that came before. They cannot
be told by their content alone, since data may repeat itself; but a pass draws each row once. Of a hash that came k
times before the cut, the first k behind it are those rows again, and what comes after them is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prequential.identity.exposure import (
    CAPACITY,
    FirstExposures,
    Hashes,
    Sampling,
    hashes_of,
    tensor_of,
)


class Refeeding(FirstExposures):
    """Remembers the rows of a pass, a row that stands in the data twice as two.

    Beyond its capacity only rows with the lower hashes are remembered, as by `FirstExposures`.

    Args:
        capacity: Rows that are remembered at most.

    Attributes:
        again: Whether the pass has begun again.

    Example:
        >>> seen = Refeeding()
        >>> seen.add(np.array([3, 5, 3], np.uint64))
        >>> seen.begin_again()
        >>> seen.came_before(np.array([3, 3, 3, 5], np.uint64), np.ones(4, np.int64)).tolist()
        [1.0, 1.0, 0.0, 1.0]
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        super().__init__(capacity)
        self._parts: list[Hashes] = []
        self.end_pass()

    def add(self, hashes: Hashes) -> None:
        """Take in rows that are new."""
        self._parts.append(hashes[hashes <= np.uint64(self._limit - 1)])
        self._make_room()

    def begin_again(self) -> None:
        """Begin the pass again: all rows so far are due to come again."""
        self.again = True
        self._due, self._times = np.unique(self._gathered(), return_counts=True)

    def end_pass(self) -> None:
        """Forget all rows: what comes now is another pass."""
        self.again, self._parts, self._limit = False, [], 2**64
        self._due, self._times = np.empty(0, np.uint64), np.empty(0, np.int64)

    @property
    def sampling(self) -> Sampling | None:
        """How much was estimated; None unless rows had to be looked up, and not every one was."""
        return super().sampling if self.again else None

    def state(self) -> dict[str, Any]:
        """Everything, as tensors and plain numbers, for a checkpoint."""
        return {
            "limit": self._limit,
            "known": tensor_of(self._gathered()),
            "sampling": [self._estimated, self._variance, self._owed],
            "again": self.again,
            "due": tensor_of(self._due),
            "times": torch.from_numpy(self._times.copy()),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        super().load(state)
        self._parts, self.again = [self._known], bool(state["again"])
        self._due, self._times = hashes_of(state["due"]), state["times"].cpu().numpy().copy()

    def _looked_up(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Whether each of these rows, in their order, is one that is still due; the others are remembered."""
        values, where, numbers = np.unique(hashes, return_inverse=True, return_counts=True)
        order = np.argsort(where, kind="stable")
        turn = np.empty(len(hashes), np.int64)  # the how-manieth of its hash each row is
        turn[order] = np.arange(len(hashes)) - np.repeat(numbers.cumsum() - numbers, numbers)
        places = np.minimum(np.searchsorted(self._due, values), max(0, len(self._due) - 1))
        found = self._due[places] == values if len(self._due) else np.zeros(len(values), bool)
        due = np.where(found, self._times[places], 0) if len(self._due) else np.zeros(len(values), np.int64)
        np.subtract.at(self._times, places[found], np.minimum(due, numbers)[found])
        again: npt.NDArray[np.bool_] = turn < due[where]
        self._parts.append(hashes[~again])
        return again

    def _gathered(self) -> Hashes:
        if len(self._parts) != 1:
            self._parts = [np.concatenate([np.empty(0, np.uint64), *self._parts])]
        return self._parts[0]

    def _make_room(self) -> None:
        while sum(map(len, self._parts)) > self._capacity:
            self._limit //= 2
            self._parts = [part[part <= np.uint64(self._limit - 1)] for part in self._parts]
            kept = self._due <= np.uint64(self._limit - 1)
            self._due, self._times = self._due[kept], self._times[kept]
