"""Micro-batches as they were fed, kept until there are enough of them to be looked at together.

To look at one costs some fifty small kernels, however small it is; to look at a hundred of one shape costs as many.
Small ones are therefore copied, since a script may write into them, and stacked. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# A micro-batch with more numbers than this is looked at alone, and not copied; so many numbers may wait.
_COPIED, _WAITING = 2**15, 2**21
# Micro-batches that are looked at together, at most.
_STACKED = 256


class Fed(NamedTuple):
    """One micro-batch, or with `stacked` several of one shape, which then have a dimension of their own in front.

    Attributes:
        tensors: All tensors of the batch.
        targets: Targets of its loss calls in rows, shape (B, T); None where they were not seen, or do not fit.
        nats: Their nats, shape (B, T); None where they are not known target by target.
        since: Sums of the micro-batch (coded tokens, bytes, nats), shape (3,), where it has to be split by them.
        sources: Where each row comes from: ids, shape (B,), or a list of names; None if that is not asked for.
        starts: At which token of the corpus each row begins; None if that is not asked for.
        ignore_index: Target id that stands for "no target here".
        vocab_size: Number of symbols V.
        mask: Place of the attention mask among the tensors, or None.
    """

    tensors: list[Tensor]
    targets: Tensor | None
    nats: Tensor | None
    since: Tensor | None
    sources: Any
    starts: Any
    ignore_index: int = -100
    vocab_size: int = 0
    mask: int | None = None

    @property
    def shape(self) -> tuple[Any, ...]:
        """What two micro-batches must have in common to be stacked."""
        held = [*self.tensors, self.targets, self.nats, self.since]
        shapes = [None if one is None else (one.shape, one.dtype) for one in held]
        return (*shapes, self.ignore_index, self.vocab_size, self.mask)

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return sum(tensor.numel() for tensor in self.tensors) + (0 if self.targets is None else self.targets.numel())

    def copied(self) -> Fed:
        """The same, whatever the script writes into its batch; targets and nats in rows are copies already."""
        return self._replace(tensors=[tensor.detach().clone() for tensor in self.tensors])


def stacked(parts: Sequence[Fed]) -> Fed:
    """Put micro-batches of one shape behind each other in a new first dimension."""
    return parts[0]._replace(
        tensors=[_stack(same) for same in zip(*(part.tensors for part in parts), strict=True)],
        targets=_stack_any([part.targets for part in parts]),
        nats=_stack_any([part.nats for part in parts]),
        since=_stack_any([part.since for part in parts]),
        sources=[part.sources for part in parts],
        starts=[part.starts for part in parts],
    )


def _stack_any(tensors: Sequence[Tensor | None]) -> Tensor | None:
    there = [tensor for tensor in tensors if tensor is not None]
    return _stack(there) if there else None


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0].detach().unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))


class Queue:
    """Hands micro-batches on in stacks, in their order.

    Args:
        look: Called with each stack.
    """

    def __init__(self, look: Callable[[Fed, int], None]) -> None:
        self._look = look
        self._waiting: list[Fed] = []
        self._shape: tuple[Any, ...] = ()

    def add(self, fed: Fed) -> None:
        """Take in the next micro-batch."""
        size, shape = fed.size, fed.shape
        if size > _COPIED or shape != self._shape or len(self._waiting) >= min(_STACKED, _WAITING // max(1, size)):
            self.flush()
        self._shape = shape
        self._waiting.append(fed if size > _COPIED else fed.copied())
        if size > _COPIED:
            self.flush()

    def flush(self) -> None:
        """Hand on what waits."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._look(stacked(waiting), len(waiting))
