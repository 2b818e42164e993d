"""Which of the targets that a loss ignores are padding, no part of the data.

What a loss ignores is either padding, which fills rows up, or side information: prompts, and whatever else both sides
know. Two things show padding: an attention mask in the batch that is 0 there; without one, the filler: a token that
ends a row at least twice over, ignored each time. Once it is known, a single one at the end of a row is padding too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_MASK = "attention_mask"


class Padding:
    """Counts padding on the device."""

    def __init__(self) -> None:
        self._count: Tensor | None = None
        self._filler: Tensor | None = None

    def observe(self, batch: Any, ignored: Tensor, tokens: Tensor | None) -> None:
        """Take in one micro-batch; does not wait for the device.

        Args:
            batch: The micro-batch, for its attention mask.
            ignored: Which targets are ignored, bool, shape (B, T).
            tokens: Tokens of the rows, of which each target is the next, shape (B, T) or (B, T + 1); None if the batch
                does not hold them.
        """
        mask = batch.get(_MASK) if isinstance(batch, Mapping) else None
        if isinstance(mask, Tensor) and mask.dim() == 2 and len(mask) == len(ignored):
            seen = mask if tokens is None else _next(mask, ignored.shape[1])
            self._add((ignored & (seen == 0)).sum() if seen.shape == ignored.shape else None)
        elif tokens is not None and tokens.shape[1] > 1:
            self._add(self._ends(ignored, _next(tokens, ignored.shape[1])))

    def take(self) -> Tensor | None:
        """Hand over the count so far, still on the device, and start again from zero."""
        count, self._count = self._count, None
        return count

    def _ends(self, ignored: Tensor, tokens: Tensor) -> Tensor:
        last = tokens[:, -1]
        run = (ignored & (tokens == last.unsqueeze(1))).flip(1).long().cumprod(1).sum(1)
        filler = torch.full_like(last[0], -1) if self._filler is None else self._filler
        place = run.argmax()
        self._filler = torch.where(run[place] > 1, last[place], filler)
        return torch.where(last == self._filler, run, 0).sum()

    def _add(self, count: Tensor | None) -> None:
        if count is not None:
            self._count = count if self._count is None else self._count + count


def _next(tokens: Tensor, length: int) -> Tensor:
    """The token that each target is: the next one of its row; the last one stands for what is not seen after it."""
    following = tokens[:, 1:]
    return following if following.shape[1] == length else torch.cat([following, following[:, -1:]], dim=1)
