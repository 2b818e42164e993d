"""What micro-batches hold row by row: which rows, and what each of them cost.

A row is one sample of the batch: everything at one place of the leading dimension. Its content is hashed on the device,
so that a row which came before is known by what it is, not by where it stands. Its share of the nats is summed from the
loss calls, where these were seen target by target; else the batch is split among its rows in proportion, an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prequential.batches import in_rows, tensors
from prequential.columns.fed import Fed
from prequential.hashing import mixed, polynomial
from prequential.identity.exposure import CAPACITY
from prequential.meter import Meter, Piece, as_integers

# Rows of fewer bits than this repeat by chance, even where all are equally likely: half a chance pair is expected among
# as many rows as are remembered.
LEAST_BITS = 2 * math.log2(CAPACITY)
_FLOAT_BITS = 32


class RowLayout(NamedTuple):
    """Where the rows of a batch stand, and how the targets of its loss calls fall into them.

    Attributes:
        place: Which tensor of the batch holds the targets.
        side_by_side: Whether each loss call covers all rows; else the calls follow each other through the batch.
        bits: Information in a row: log2 V for a token, 32 bits for a float.
    """

    place: int
    side_by_side: bool
    bits: float

    @property
    def identifies(self) -> bool:
        """Whether rows hold enough to be told apart."""
        return self.bits >= LEAST_BITS

    def count(self, batch: Any) -> int:
        """Number of rows of a batch."""
        return len(tensors(batch)[self.place])

    def rows(self, batch: Any, parts: Sequence[Tensor]) -> Tensor | None:
        """Put flat parts, one a loss call, into rows of shape (B, T); None where they do not fit."""
        return in_rows(parts, self.count(batch), side_by_side=self.side_by_side) if parts else None

    def length(self, batch: Any, pieces: Sequence[Piece]) -> int:
        """Targets in a row: those of the loss calls, or where these were not seen all that the row holds."""
        size = sum(piece.targets.numel() for piece in pieces) or tensors(batch)[self.place].numel()
        return size // max(1, self.count(batch))


def find_rows(batch: Any, pieces: Sequence[Piece], vocab_size: int | None, positions: int) -> RowLayout | None:
    """Find the rows of the first micro-batch; None where its tensors do not show the targets.

    Args:
        batch: The micro-batch.
        pieces: What its loss calls covered, if they were seen.
        vocab_size: Number of symbols V, or None.
        positions: Target positions that they covered.
    """
    targets = [piece.targets for piece in pieces]
    for place, leaf in enumerate(tensors(batch)):
        if not leaf.dim() or not len(leaf):
            continue
        if not targets and positions in (leaf.numel(), leaf.numel() - leaf.numel() // leaf.shape[-1]):
            return RowLayout(place, True, _bits(batch, place, vocab_size))
        for side_by_side in (True, False) if targets else ():
            if _holds(leaf, in_rows(targets, len(leaf), side_by_side=side_by_side)):
                return RowLayout(place, side_by_side, _bits(batch, place, vocab_size))
    return None


def row_hashes(tensors: Sequence[Tensor], count: int) -> Tensor:
    """Hash the content of every row of N micro-batches.

    Args:
        tensors: All their tensors, stacked, shape (N, ...); a row is what stands at one place of all those of shape
            (N, ``count``, ...).
        count: Rows of a micro-batch, B.

    Returns:
        Shape (N, B).
    """
    held = [leaf for leaf in tensors if leaf.dim() > 1 and leaf.shape[1] == count]
    parts = [as_integers(leaf).reshape(len(leaf) * count, -1) for leaf in held]
    return mixed(polynomial(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))).view(-1, count)


def row_sums(fed: Fed, shape: torch.Size, meter: Meter) -> Tensor:
    """Sum up the rows of N micro-batches; does not wait for the device.

    Args:
        fed: The micro-batches, stacked. Those that were not seen target by target are split in proportion.
        shape: (N, B).
        meter: For bytes per token.

    Returns:
        Coded tokens, the bytes they stand for, and their nats, by row: float64 (float32 where there is none), shape
        (3, N, B).
    """
    if fed.since is not None:
        return (fed.since / shape[1]).t().unsqueeze(2).expand(3, *shape)
    assert fed.targets is not None
    assert fed.nats is not None
    kept = fed.targets != fed.ignore_index
    coded, summed = kept.sum(2).to(meter.dtype), fed.nats.sum(2, dtype=meter.dtype)
    uniform = coded * math.log(max(2, fed.vocab_size))  # a micro-batch that is not finite is charged so, whole
    summed = torch.where(torch.isfinite(summed.sum(1, keepdim=True)), summed, uniform)
    return torch.stack([coded, meter.bytes_of_rows(fed.targets, kept).to(meter.dtype), summed])


def _holds(leaf: Tensor, targets: Tensor | None) -> bool:
    """Whether a tensor of the batch holds these targets: as they are, or moved on by one inside each row."""
    if targets is None:
        return False
    tokens = (leaf > 0.5).long() if leaf.is_floating_point() else leaf
    tokens, length = tokens.reshape(len(leaf), -1), targets.shape[1]
    shifted = tokens[:, 1:]
    if length == tokens.shape[1] and (_agree(targets, tokens) or _agree(targets[:, :-1], shifted)):
        return True
    return length == shifted.shape[1] and _agree(targets, shifted)


def _agree(targets: Tensor, tokens: Tensor) -> bool:
    kept = targets >= 0
    return bool(kept.any()) and bool(((targets == tokens) | ~kept).all())


def _bits(batch: Any, place: int, vocab_size: int | None) -> float:
    """Information in a row: its targets, the token before them, and whatever floats stand beside them."""
    leaves = tensors(batch)
    holder = leaves[place]
    floats = [leaf for leaf in leaves if leaf.is_floating_point() and leaf.dim() and len(leaf) == len(holder)]
    tokens = 0 if holder.is_floating_point() else holder[0].numel() + 1
    return tokens * math.log2(vocab_size or 2) + _FLOAT_BITS * sum(leaf[0].numel() for leaf in floats)
