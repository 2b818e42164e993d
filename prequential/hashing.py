"""Hashes of integers modulo 2**64, on the device: polynomials of a sequence, and a mixer that spreads them.

Not cryptographic: they tell data apart by accident, they do not stop anybody who wants two things to look alike.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

# Base of all polynomials: odd, so that its powers modulo 2**64 never vanish; else arbitrary.
BASE = 0x9E3779B97F4A7C15
INVERSE = pow(BASE, -1, 2**64)
_MIXERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)  # the finaliser of splitmix64, Steele et al. 2014


def signed(value: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit number."""
    return value - 2**64 if value >= 2**63 else value


def powers(base: int, count: int, device: torch.device) -> Tensor:
    """1, base, base squared, ... modulo 2**64, shape (count,)."""
    series = torch.full((count,), signed(base), dtype=torch.int64, device=device)
    series[:1] = 1
    return series.cumprod(0)


@functools.lru_cache(maxsize=32)
def kept_powers(base: int, count: int, device: torch.device) -> Tensor:
    """Give the same as `powers`, kept for the next call; not for use inside ``torch.compile``."""
    return powers(base, count, device)


def polynomial(rows: Tensor) -> Tensor:
    """Hash each row of shape (B, L): ``sum of (value[j] + 1) * BASE**j``, shape (B,)."""
    return ((rows + 1) * kept_powers(BASE, rows.shape[1], rows.device)).sum(1)


def mixed(values: Tensor) -> Tensor:
    """Spread each value over all 64 bits, so that the smallest are a fair sample."""
    for shift, mixer in zip((30, 27), _MIXERS, strict=True):
        values = (values ^ _shifted(values, shift)) * mixer
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Shift right as unsigned numbers."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
