"""What a micro-batch holds row by row: which rows, and what each of them cost.

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
from prequential.hashing import mixed, polynomial
from prequential.identity.exposure import CAPACITY
from prequential.meter import Meter, Piece, as_integers

# Rows of fewer bits than this repeat by chance, even where all are equally likely: half a chance pair is expected among
# as many rows as are remembered.
LEAST_BITS = 2 * math.log2(CAPACITY)
_FLOAT_BITS = 32


class RowSums(NamedTuple):
    """Rows of one micro-batch, on the device.

    Attributes:
        hashes: Of their content, int64, shape (B,).
        sums: Coded tokens, the bytes they stand for, and their nats, by row: float64 (float32 where there is none),
            shape (3, B); None if rows are only told apart.
        resolved: Whether that was summed row by row; else each row has an equal share of the batch.
        first_tokens: What `FirstTokens` counted, by row, shape (9, B); None if it does not count.
        sources: Where each row comes from: ids, shape (B,), or a list of names; None if that is not asked for.
        starts: At which token of the corpus each row begins, shape (B,); None if that is not asked for.
        length: Targets in a row.
    """

    hashes: Tensor
    sums: Tensor | None = None
    resolved: bool = False
    first_tokens: Tensor | None = None
    sources: Any = None
    starts: Any = None
    length: int = 0


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


def row_hashes(batch: Any, count: int) -> Tensor:
    """Hash the content of every row: all tensors of the batch whose leading dimension is ``count``; shape (B,)."""
    parts = [as_integers(leaf).reshape(count, -1) for leaf in tensors(batch) if leaf.dim() and len(leaf) == count]
    return mixed(polynomial(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)))


def row_sums(
    layout: RowLayout, hashes: Tensor, batch: Any, pieces: Sequence[Piece], meter: Meter, since: Tensor
) -> RowSums:
    """Sum up the rows of one micro-batch; does not wait for the device.

    Args:
        layout: Where its rows stand.
        hashes: Of its rows.
        batch: The micro-batch.
        pieces: What its loss calls covered; empty where they were compiled.
        meter: For bytes per token.
        since: Sums of the micro-batch (coded tokens, bytes, nats), to be split where it was not seen by target.
    """
    targets = layout.rows(batch, [piece.targets for piece in pieces])
    each = [piece.nats for piece in pieces if piece.nats is not None]
    nats = layout.rows(batch, each) if len(each) == len(pieces) else None
    if targets is None or nats is None or nats.shape != targets.shape:
        return RowSums(hashes, (since / len(hashes)).unsqueeze(1).expand(3, len(hashes)))
    kept = targets != pieces[0].ignore_index
    coded, summed = kept.sum(1).to(since.dtype), nats.sum(1, dtype=since.dtype)
    uniform = coded * math.log(max(2, pieces[0].vocab_size))  # a call that is not finite is charged so, whole
    summed = torch.where(torch.isfinite(summed.sum()), summed, uniform)
    raw_bytes = meter.bytes_of_rows(targets, kept).to(since.dtype)
    return RowSums(hashes, torch.stack([coded, raw_bytes, summed]), resolved=True)


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
