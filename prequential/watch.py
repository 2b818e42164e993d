"""What batches show beside their loss: tokens that nothing predicts, and passages that came before.

Settled in the first micro-batch; from then on it is counted on the device and read with the sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prequential.codelength import Tally
from prequential.identity import PassageAudit, Repeats, passage_tokens
from prequential.run import REPEATS_ALLOWED
from prequential.uncoded import FirstTokens, find_layout


class Watched(NamedTuple):
    """What one interval showed, still on the device."""

    first_tokens: Tensor | None
    samples: list[Tensor]


class BatchWatch:
    """Watches the integer tensors of every batch.

    Args:
        tensors: Integer tensors of the first micro-batch.
        positions: Target positions that its loss covered.
        targets: Those targets, flat, if they were seen.
        vocab_size: Number of symbols V, or None.
        table: Bytes per token id, or None.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        positions: int,
        targets: Tensor | None,
        *,
        vocab_size: int | None,
        table: npt.NDArray[np.int64] | None,
    ) -> None:
        layout = find_layout(tensors, positions, targets)
        self._first_tokens = FirstTokens.of(tensors, layout, table) if layout is not None else None
        self._vocab_size = vocab_size
        self._tokens = layout.inputs if layout is not None else _place_of(targets, tensors)
        self._audit = PassageAudit(passage_tokens(vocab_size)) if vocab_size and self._tokens is not None else None
        self._samples: list[Tensor] = []

    def observe(self, tensors: Sequence[Tensor]) -> None:
        """Take in the integer tensors of one micro-batch; does not wait for the device."""
        if self._first_tokens is not None:
            self._first_tokens.observe(tensors)
        if self._audit is not None and self._tokens is not None:
            rows = tensors[self._tokens]
            if rows.dim() and rows.shape[-1] >= self._audit.length:
                self._samples.append(self._audit.sample(rows.reshape(-1, rows.shape[-1])))

    def take(self) -> Watched:
        """Hand over what was counted so far, still on the device, and start again."""
        watched = Watched(self._first_tokens.take() if self._first_tokens is not None else None, self._samples)
        self._samples = []
        return watched

    def in_columns(self, tally: Tally, watched: Watched, *, replay: bool) -> Tally:
        """Charge first tokens by the uniform code, leave empty slots out, and remember passages; waits for the device.

        Args:
            tally: Sums of the interval.
            watched: What was seen in it.
            replay: Whether all of it is replay: free, and no passage of it counts.
        """
        if watched.samples and self._audit is not None and not replay:
            self._audit.count(torch.cat(watched.samples).tolist())
        if self._first_tokens is None or watched.first_tokens is None:
            return tally
        counts = watched.first_tokens.tolist()
        tally = replace(tally, masked_tokens=tally.masked_tokens - self._first_tokens.empty_slots(counts))
        if replay:
            return tally
        charge = self._first_tokens.charge(counts)
        return replace(
            tally,
            uncoded_tokens=charge.tokens,
            uncoded_nats=charge.tokens * math.log(self._vocab_size or 1),
            raw_bytes=tally.raw_bytes + charge.raw_bytes,
        )

    def repeats(self) -> Repeats | None:
        """The share of tokens in repeated passages; None if the batches do not tell."""
        return self._audit.repeats() if self._audit is not None else None


def repeated(repeats: Repeats) -> str | None:
    """Say that a run was no single pass, if the estimate is beyond doubt above what text repeats by itself."""
    if repeats.share - 2 * repeats.standard_error <= REPEATS_ALLOWED:
        return None
    return (
        f"an estimate of {100 * repeats.share:.1f} % (+- {200 * repeats.standard_error:.1f}) of the tokens stand in "
        "passages that had come before: the result codes a stream, not the corpus"
    )


def facts_of(repeats: Repeats | None) -> dict[str, Any]:
    """What the end line of a book holds of the audit."""
    return {} if repeats is None else {"repeats": repeats._asdict()}


def _place_of(targets: Tensor | None, tensors: Sequence[Tensor]) -> int | None:
    """The place of the tensor that holds the targets themselves, in rows; None if no tensor does, or none were seen."""
    if targets is None:
        return None
    for place, tensor in enumerate(tensors):
        if tensor.dim() > 1 and tensor.numel() == targets.numel() and _holds(tensor, targets):
            return place
    return None


def _holds(tensor: Tensor, targets: Tensor) -> bool:
    return bool(((tensor.reshape(-1) == targets) | (targets < 0)).all())
