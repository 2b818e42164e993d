"""Which rows came before: exact up to a number of rows, an estimate beyond it.

Rows are told apart by 64-bit hashes, kept sorted, 8 bytes each. When there are more than ``capacity`` of them, only
those whose hash falls into the lower half are remembered from then on, then the lower quarter, and so on: the same row
is sampled wherever it stands, so that the share of repeats among sampled rows estimates that of all others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

CAPACITY = 2**22  # rows: 32 MiB, and as much again while they are merged
_MERGED = 2**14

Hashes = npt.NDArray[np.uint64]
Shares = npt.NDArray[np.float64]


class Sampling(NamedTuple):
    """How far the replay column rests on a sample of rows.

    Attributes:
        tokens: Tokens in the replay column that were estimated.
        standard_error: Of that number, in tokens, from the sampling.
        sampled_share: Which share of rows is looked up at the end, 1 / 2 ** k.
    """

    tokens: float
    standard_error: float
    sampled_share: float


class FirstExposures:
    """Remembers rows by their hashes.

    Args:
        capacity: Rows that are remembered at most.

    Example:
        >>> seen = FirstExposures()
        >>> seen.came_before(np.array([3, 5, 3], np.uint64), np.array([1, 1, 1])).tolist()
        [0.0, 0.0, 1.0]
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._limit = 2**64
        self._known = self._recent = np.empty(0, np.uint64)
        self._estimated = self._variance = self._owed = 0.0

    def came_before(self, hashes: Hashes, tokens: npt.NDArray[np.int64]) -> Shares:
        """Take in rows, in their order.

        Args:
            hashes: One a row.
            tokens: Coded tokens of each row, by which what is estimated is weighted.

        Returns:
            For each row 1 where it came before, 0 where it did not; where it is not in the sample, the share of such
            tokens that is estimated to have come before.
        """
        sampled = hashes <= np.uint64(self._limit - 1)
        again = self._looked_up(hashes[sampled])
        shares = np.zeros(len(hashes))
        shares[sampled] = again
        if self._limit < 2**64:
            shares[~sampled] = self._estimate(tokens[sampled][again], int(tokens[~sampled].sum()))
        self._make_room()
        return shares

    @property
    def sampling(self) -> Sampling | None:
        """How much was estimated; None while every row was looked up."""
        if self._limit == 2**64:
            return None
        return Sampling(self._estimated, math.sqrt(self._variance), self._limit / 2**64)

    def state(self) -> dict[str, Any]:
        """Everything, as tensors and plain numbers, for a checkpoint."""
        known = np.union1d(self._known, self._recent)
        return {
            "limit": self._limit,
            "known": tensor_of(known),
            "sampling": [self._estimated, self._variance, self._owed],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self._limit = int(state["limit"])
        self._known, self._recent = hashes_of(state["known"]), np.empty(0, np.uint64)
        self._estimated, self._variance, self._owed = map(float, state["sampling"])

    def _looked_up(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        values, first, where = np.unique(hashes, return_index=True, return_inverse=True)
        known = _in_sorted(values, self._known) | _in_sorted(values, self._recent)
        self._recent = np.union1d(self._recent, values[~known])
        again: npt.NDArray[np.bool_] = known[where] | (np.arange(len(hashes)) != first[where])
        return again

    def _estimate(self, again: npt.NDArray[np.int64], others: int) -> float:
        """Estimate which share of ``others``, the tokens outside of the sample, came before.

        Each token of a repeated row in the sample stands for ``(1 - f) / f`` outside of it, where f is the share of
        rows in the sample (Horvitz and Thompson 1952). What is more than there are is owed to the next rows, so that
        the total stays unbiased.
        """
        weight = 2**64 / self._limit - 1
        self._owed += weight * float(again.sum())
        self._variance += weight * (weight + 1) * float((again.astype(float) ** 2).sum())
        paid = min(self._owed, float(others))
        self._owed -= paid
        self._estimated += paid
        return paid / others if others else 0.0

    def _make_room(self) -> None:
        if len(self._recent) >= _MERGED or len(self._known) + len(self._recent) > self._capacity:
            self._known, self._recent = np.union1d(self._known, self._recent), self._recent[:0]
        while len(self._known) > self._capacity:
            self._limit //= 2
            self._known = self._known[: np.searchsorted(self._known, np.uint64(self._limit - 1), side="right")]


def tensor_of(hashes: Hashes) -> Tensor:
    """The int64 tensor of the same bits: torch keeps no unsigned ones."""
    return torch.from_numpy(hashes.view(np.int64).copy())


def hashes_of(values: Tensor) -> Hashes:
    """Turn a tensor of `tensor_of` back into hashes."""
    hashes: Hashes = values.cpu().numpy().view(np.uint64).copy()
    return hashes


def _in_sorted(values: Hashes, known: Hashes) -> npt.NDArray[np.bool_]:
    if not len(known):
        return np.zeros(len(values), bool)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    found: npt.NDArray[np.bool_] = known[places] == values
    return found
