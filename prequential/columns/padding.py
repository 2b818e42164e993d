"""Which of the targets that a loss ignores are padding, no part of the data.

What a loss ignores is either padding, which fills rows up, or side information: prompts, and whatever else both sides
know. Two things show padding: an attention mask in the batch that is 0 there; without one, the filler: a token that
ends a row at least twice over, ignored each time. Once it is known, a single one at the end of a row is padding too.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Padding:
    """Counts padding on the device."""

    def __init__(self) -> None:
        self._filler: Tensor | None = None

    def look(self, mask: Tensor | None, ignored: Tensor, tokens: Tensor | None) -> Tensor | None:
        """Count the padding of N micro-batches; does not wait for the device.

        Args:
            mask: Their attention masks, shape (N, B, L), or None.
            ignored: Which targets are ignored, bool, shape (N, B, T).
            tokens: Tokens of the rows, of which each target is the next, shape (N, B, T) or (N, B, T + 1); None if the
                batches do not hold them.

        Returns:
            Positions of each micro-batch, shape (N,); None where nothing can be told.
        """
        if mask is not None and mask.dim() == 3 and mask.shape[1] == ignored.shape[1]:
            seen = mask if tokens is None else _next(mask, ignored.shape[2])
            return (ignored & (seen == 0)).sum((1, 2)) if seen.shape == ignored.shape else None
        if tokens is not None and tokens.shape[2] > 1:
            return self._ends(ignored, _next(tokens, ignored.shape[2]))
        return None

    @property
    def filler(self) -> Tensor | None:
        """The token that fills rows up, on the host, for a checkpoint; None while none was looked for."""
        return None if self._filler is None else self._filler.cpu()

    def resume(self, filler: Tensor | None, device: torch.device) -> None:
        """Go on with the filler of a checkpoint."""
        self._filler = None if filler is None else filler.to(device)

    def _ends(self, ignored: Tensor, tokens: Tensor) -> Tensor:
        last = tokens[:, :, -1]
        run = (ignored & (tokens == last.unsqueeze(2))).flip(2).long().cumprod(2).sum(2)
        longest, place = run.max(1, keepdim=True)
        found = torch.where(longest > 1, last.gather(1, place), -1).squeeze(1)
        # The filler that each micro-batch knows of: its own, or the last one that was found before.
        before = torch.full_like(found[:1], -1) if self._filler is None else self._filler
        chain = torch.cat([before, found])
        known = chain[torch.where(chain >= 0, torch.arange(len(chain), device=chain.device), 0).cummax(0).values]
        self._filler = known[-1:]
        return torch.where(last == known[1:].unsqueeze(1), run, 0).sum(1)


def _next(tokens: Tensor, length: int) -> Tensor:
    """The token that each target is: the next one of its row; the last one stands for what is not seen after it."""
    following = tokens[:, :, 1:]
    return following if following.shape[2] == length else torch.cat([following, following[:, :, -1:]], dim=2)
