"""The loss calls of the first micro-batch, held back until it is known which of them count, and where.

Two habits make a call something else than the code of its targets: a second pass over the same targets with weights
that have learnt from the first (sharpness-aware minimisation), and a mask by which the losses are multiplied after the
call. Both are proved from the first micro-batch or not assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prequential.batches import TargetCoverage, tensors
from prequential.capture.likelihoods import Scored

# A returned loss this close to the masked mean, relatively, is the masked mean: float32 sums are rounded.
_SAME = 1e-6
# Columns that a shift cuts off a mask, on the left and on the right.
_CUTS = ((0, 0), (1, 0), (0, 1))


class Call(NamedTuple):
    """A loss call as it was seen: for messages, and to tell the chunks of one loss from several losses.

    Attributes:
        name: Name of the function.
        shape: Shape of its first argument.
        vocab_size: Number of symbols V; None where the call could not be turned into a code length.
        result: A copy of what it returned, detached; None if that was no tensor.
        plain: Whether that was -log p itself, without weights or smoothing.
        updated: Whether the weights had been updated since the training step began.
    """

    name: str
    shape: tuple[int, ...]
    vocab_size: int | None
    result: Tensor | None
    plain: bool
    updated: bool

    def __str__(self) -> str:
        return f"{self.name} on {self.shape}"


class Held(NamedTuple):
    """A loss call that is not counted yet.

    Attributes:
        call: The call.
        scored: Its targets and nats: copies, since a script may change either in place.
        targets: The tensor that the script gave, kept so that its memory is not used again.
    """

    call: Call
    scored: Scored
    targets: Tensor


class Mask(NamedTuple):
    """Where in the batch the mask lies: the place of a tensor, and how many columns are cut off on either side."""

    place: int
    cut: tuple[int, int]

    def of(self, batch: Any, positions: int) -> Tensor | None:
        """The mask for a batch, flat and as it stands there; None if it does not fit."""
        leaf, (before, after) = tensors(batch)[self.place], self.cut
        if leaf.is_complex() or (leaf.dim() == 0 and self.cut != (0, 0)):
            return None
        cut = leaf[..., before : leaf.shape[-1] - after] if leaf.dim() else leaf
        return cut.reshape(-1) if cut.numel() == positions else None


def is_first_pass_only(held: Sequence[Held], batch: Any) -> bool:
    """Whether all calls after the update repeat targets from before it, so that only those before it are the code.

    Equal targets may be two micro-steps with equal labels, unless the first pass alone covers a tensor of the batch
    or the targets are the same memory.

    Args:
        held: The calls.
        batch: The first micro-batch.
    """
    first = [call for call in held if not call.call.updated]
    later = [call for call in held if call.call.updated]
    whole = TargetCoverage(batch, sum(call.targets.numel() for call in first), bits=True).agrees
    return bool(first and later) and all(any(_repeats(call, other, whole) for other in first) for call in later)


def find_mask(held: Sequence[Held], batch: Any, loss: Tensor | None) -> Mask | None:
    """Find the mask by which the losses of the one call were multiplied, if the returned loss proves it.

    Args:
        held: The calls that count.
        batch: The first micro-batch.
        loss: The returned loss.
    """
    if len(held) != 1 or loss is None or loss.dtype not in (torch.float32, torch.float64):
        return None
    result = held[0].call.result
    if result is None or not result.dim():
        return None
    losses = result.reshape(-1).double()
    if _close(losses.mean(), loss) or _close(losses.sum(), loss):  # nothing was masked here
        return None
    found = []
    for place in range(len(tensors(batch))):
        for cut in _CUTS:
            mask = Mask(place, cut)
            kept = mask.of(batch, losses.numel())
            if kept is not None and _explains(kept.double(), losses, loss):
                found.append((mask, kept != 0))
    if any(not torch.equal(kept, found[0][1]) for _, kept in found):  # where all losses are equal any mask explains
        return None
    return found[0][0] if found else None


def masked(scored: Scored, kept: Tensor) -> Scored:
    """Leave out the positions that the script multiplies by 0."""
    mask = kept.reshape(scored.targets.shape) != 0
    nats = torch.where(mask, scored.nats.reshape(scored.targets.shape), 0.0)
    return scored._replace(nats=nats, targets=torch.where(mask, scored.targets, scored.ignore_index))


def _repeats(call: Held, other: Held, whole: bool) -> bool:
    a, b = call.targets, other.targets
    if a.shape != b.shape or not torch.equal(call.scored.targets, other.scored.targets):
        return False
    return whole or (a.data_ptr() == b.data_ptr() and a.stride() == b.stride())


def _explains(kept: Tensor, losses: Tensor, loss: Tensor) -> bool:
    if not bool(((kept == 0) | (kept == 1)).all()):
        return False
    total = (losses * kept).sum()
    return any(_close(total / count, loss) for count in (kept.sum(), 1, losses.numel()))


def _close(value: Tensor, loss: Tensor) -> bool:
    return bool((value - loss).abs() <= _SAME * value.abs())
