"""The loss that a training step returns, held against the code length of the same micro-batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prequential.codelength import Tally

# A returned loss further from the captured nats per token than this, relatively, is no plain likelihood. In half
# precision both the log-probabilities and their mean are rounded: 1 % was seen.
_TOLERANCE = 1e-3
_TOLERANCE_HALF = 3e-2


def returned_loss(outputs: Any) -> Tensor | None:
    """The scalar loss in what a training step returned, detached; None if there is none."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return loss.detach() if isinstance(loss, Tensor) and loss.numel() == 1 else None


def not_likelihood(loss: Tensor, tally: Tally, step: int) -> str | None:
    """Say by how much a returned loss is something else than the mean or the sum of the nats of its micro-batch.

    Args:
        loss: The returned loss, on any device.
        tally: What was captured in the same micro-batch.
        step: The optimiser step, for the message.

    Returns:
        One sentence, or None where they agree or there is nothing to compare.
    """
    if not tally.coded_tokens or not tally.nats or tally.nonfinite_tokens:
        return None
    returned, mean = float(loss), tally.nats / tally.coded_tokens
    apart = min(abs(returned - mean) / mean, abs(returned - tally.nats) / tally.nats)
    half = loss.dtype in (torch.float16, torch.bfloat16)
    if apart <= (_TOLERANCE_HALF if half else _TOLERANCE):
        return None
    return (
        f"step {step} returned a loss of {returned:.4f}, its code length is {mean:.4f} nats a token: the "
        "difference (label smoothing, weights, auxiliary terms, scaling) is not likelihood and not counted"
    )
