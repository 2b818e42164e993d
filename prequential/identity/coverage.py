"""How often each token of a corpus was coded, exactly, where every row says at which token of the corpus it begins.

Kept as the places at which the number of times changes, with the change there: rows that follow each other cancel, so
that a single pass in order takes no room at all, and random crops take 32 bytes a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

Places = npt.NDArray[np.int64]


class Covered(NamedTuple):
    """Tokens of a corpus by how often they were coded.

    Attributes:
        once: Tokens that were coded once.
        repeated: Tokens that were coded more often.
        never: Tokens that were not coded; None where the length of the corpus is not known.
        share: Of all coded tokens, the share that had been coded before, 0 to 1.
    """

    once: int
    repeated: int
    never: int | None
    share: float


class Coverage:
    """Counts how often each token of a corpus was coded.

    Args:
        corpus_tokens: Length of the corpus; None if it is not known.

    Example:
        >>> coverage = Coverage(corpus_tokens=20)
        >>> coverage.add(np.array([0, 4]), 8)
        >>> coverage.covered()
        Covered(once=8, repeated=4, never=8, share=0.25)
    """

    def __init__(self, corpus_tokens: int | None = None) -> None:
        self._corpus_tokens = corpus_tokens
        self._places = self._changes = np.empty(0, np.int64)

    def add(self, starts: Places, length: int) -> None:
        """Take in rows of ``length`` tokens by the places at which they begin."""
        places = np.concatenate([self._places, starts, starts + length])
        ones = np.ones(len(starts), np.int64)
        changes = np.concatenate([self._changes, ones, -ones])
        self._places, where = np.unique(places, return_inverse=True)
        summed = np.zeros(len(self._places), np.int64)
        np.add.at(summed, where, changes)
        self._places, self._changes = self._places[summed != 0], summed[summed != 0]

    def state(self) -> dict[str, Any]:
        """Everything, as tensors, for a checkpoint."""
        return {"places": torch.from_numpy(self._places.copy()), "changes": torch.from_numpy(self._changes.copy())}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self._places, self._changes = (state[name].cpu().numpy().copy() for name in ("places", "changes"))

    def covered(self) -> Covered | None:
        """Counts so far; None without a row."""
        if not len(self._places):
            return None
        times, lengths = self._changes.cumsum()[:-1], np.diff(self._places)
        once, repeated = int(lengths[times == 1].sum()), int(lengths[times > 1].sum())
        coded = int((times * lengths).sum())
        never = None if self._corpus_tokens is None else max(0, self._corpus_tokens - once - repeated)
        return Covered(once, repeated, never, 1 - (once + repeated) / coded)
