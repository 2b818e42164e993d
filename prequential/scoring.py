"""Logits and targets to nats per token, and float32 sums that keep their rounding errors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Rows of logits upcast at a time: bounds the extra memory to this many rows x V float32.
_CHUNK_ROWS = 4096


def nats_per_token(logits: Tensor, targets: Tensor, *, ignore_index: int = -100) -> Tensor:
    """Score each target: ``-ln softmax(logits)[target]``, 0 where the target is ``ignore_index``.

    Half-precision logits are upcast to float32, float64 stays; the work goes by blocks of rows.

    Args:
        logits: Shape (N, V), or (N, V, d1, ...) as `torch.nn.functional.cross_entropy` takes them.
        targets: Integer ids, shape (N,) or (N, d1, ...).
        ignore_index: Target id that stands for "no target here".

    Returns:
        Nats in float64 (float32 where the device has none), in the shape of ``targets``.
    """
    with torch.no_grad():
        logits = logits.detach()
        if targets.dim() == 0 or len(targets) <= _CHUNK_ROWS:
            return _score(logits, targets, ignore_index)
        blocks = zip(torch.split(logits, _CHUNK_ROWS), torch.split(targets, _CHUNK_ROWS), strict=True)
        return torch.cat([_score(rows, ids, ignore_index) for rows, ids in blocks])


def _score(logits: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    """``log sum exp(logits - top) - (logits[target] - top)``, exponentials in the logits' precision, sums in float64.

    A float32 log-softmax is biased by up to 2e-9 of the nats, which shows in a sum over millions of tokens.
    """
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    if logits.device.type == "mps":  # no float64 there
        return F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="none")
    classes = 1 if logits.dim() > 1 else 0
    kept = targets != ignore_index
    top = logits.amax(classes, keepdim=True)
    chosen = logits.gather(classes, torch.where(kept, targets, 0).unsqueeze(classes))
    log_total = (logits - top).exp().sum(classes, dtype=torch.float64).log()
    nats = log_total - (chosen.double() - top.double()).squeeze(classes)
    return torch.where(kept, nats, 0.0)


def two_sum(high: Tensor, low: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Add ``value`` to the unevaluated sum ``high + low`` without losing the rounding error (Knuth's TwoSum)."""
    total = high + value
    part = total - high
    error = (high - (total - part)) + (value - part)
    return total, low + error


def pair_sum(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sum a vector into an unevaluated pair ``high + low`` by halving it, rounding errors kept along the way."""
    high, low = values, torch.zeros_like(values)
    while high.numel() > 1:
        if high.numel() % 2:
            high, low = F.pad(high, (0, 1)), F.pad(low, (0, 1))
        (a, b), (c, d) = high.chunk(2), low.chunk(2)
        high, error = two_sum(a, c + d, b)
        low = error
    return high.sum(), low.sum()
