"""What batches tell by their shapes, without the device: their tensors, and whether the loss covers their targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_MASK = "attention_mask"


def integer_tensors(batch: Any) -> list[Tensor]:
    """All integer tensors in a batch: nested lists, tuples and mappings are searched."""
    return [leaf for leaf in tensors(batch) if not leaf.is_floating_point() and not leaf.is_complex()]


def tensors(batch: Any) -> list[Tensor]:
    """All tensors in a batch, in the order in which they stand there."""
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, Mapping):
        return [leaf for value in batch.values() for leaf in tensors(value)]
    if isinstance(batch, (list, tuple)):
        return [leaf for value in batch for leaf in tensors(value)]
    return []


def place_of_mask(batch: Any) -> int | None:
    """Place of the attention mask among the tensors of a batch; None if it has none."""
    mask = batch.get(_MASK) if isinstance(batch, Mapping) else None
    return next((place for place, leaf in enumerate(tensors(batch)) if leaf is mask), None)


def in_rows(parts: Sequence[Tensor], count: int, *, side_by_side: bool) -> Tensor | None:
    """Put what several loss calls covered into rows, shape (count, T); None where it does not fit.

    Args:
        parts: A tensor for each call.
        count: Number of rows.
        side_by_side: Whether each call covers a piece of all rows; else the calls follow each other through the batch.
    """
    if not side_by_side:
        parts = [torch.cat([part.reshape(-1) for part in parts])]
    if any(part.numel() % count for part in parts):
        return None
    return torch.cat([part.reshape(count, -1) for part in parts], dim=1)


class TargetCoverage:
    """Which tensors of the batches the loss covers, whole or but for a shift by one in each row.

    Args:
        batch: The first micro-batch.
        positions: Target positions that its loss covered.
        bits: Whether bits were scored, which any tensor may hold; else targets are integers.

    Attributes:
        sizes: Positions of each tensor of the first micro-batch that may hold targets.
        agrees: Whether the loss covered one of them.
    """

    def __init__(self, batch: Any, positions: int, *, bits: bool) -> None:
        self._leaves = tensors if bits else integer_tensors
        leaves = self._leaves(batch)
        self.sizes = [leaf.numel() for leaf in leaves]
        self._positions, self._number = positions, len(leaves)
        self._covered = [
            (place, shifted)
            for place, leaf in enumerate(leaves)
            for shifted in (False, True)
            if positions == _positions(leaf, shifted)
        ]
        self._expected = [0] * len(self._covered)
        self.agrees = bool(self._covered)

    @property
    def larger(self) -> int | None:
        """Size of the largest tensor that may hold targets too, and more of them than were covered; None if none."""
        covered = {place for place, _ in self._covered}
        others = [size for place, size in enumerate(self.sizes) if place not in covered and size > self._positions]
        return max(others, default=None)

    def observe(self, batch: Any) -> None:
        """Take in the shapes of one micro-batch."""
        leaves = self._leaves(batch)
        if len(leaves) != self._number:  # batches of another kind: nothing is known of them, nor of this interval
            self._covered, self._expected = [], []
        for number, (place, shifted) in enumerate(self._covered):
            self._expected[number] += _positions(leaves[place], shifted)

    def take(self) -> list[int]:
        """Positions that the loss must have covered since the last call, one number for each tensor it may be."""
        expected, self._expected = self._expected, [0] * len(self._covered)
        return expected


def _positions(leaf: Tensor, shifted: bool) -> int:
    return leaf.numel() - (leaf.numel() // max(1, leaf.shape[-1] if leaf.dim() else 1) if shifted else 0)
