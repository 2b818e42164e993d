"""Logits and targets in, sums of -ln p out: kept on the device, read once in a while.

A `Meter` never waits for the device except in `read`. Sums are float64 (a pair of float32 where the device has no
float64), counts are int64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from prequential.codelength import Tally
from prequential.errors import MeasureError
from prequential.hashing import BASE, powers, signed
from prequential.scoring import nats_per_token, pair_sum, two_sum

# Places of the counts in the int64 vector that lives on the device: first what depends on the data, then what the
# shapes say.
(
    _CODED,
    _RAW_BYTES,
    _NONFINITE,
    _FINGERPRINT,
    _POSITIONS,
    _CALLS,
    _SYMBOLS,
    _SYMBOLS_SQUARED,
    _NOT_UNDERSTOOD,
) = range(9)


class Piece(NamedTuple):
    """The targets of one loss call, flat.

    Attributes:
        targets: Integer ids.
        nats: Nats of each; None if only their sum is known.
        vocab_size: Number of symbols V.
        ignore_index: Target id that stands for "no target here".
    """

    targets: Tensor
    nats: Tensor | None
    vocab_size: int
    ignore_index: int


class Reading(NamedTuple):
    """What a meter held when it was read.

    Attributes:
        tally: Sums and counts since the last `Meter.take`.
        calls: Loss calls in it.
        vocab_size: Number of symbols V, if all those calls had the same.
        not_understood: Loss calls that could not be turned into a code length.
    """

    tally: Tally
    calls: int
    vocab_size: int | None
    not_understood: int


class Sums(NamedTuple):
    """A meter's sums as they lie on the device: float64 nats (or a float32 pair) and the int64 counts."""

    nats: Tensor
    counts: Tensor

    @property
    def coded(self) -> Tensor:
        """How many tokens were coded."""
        return self.counts[_CODED]


class Meter:
    """Sums of -ln p over coded tokens, with their counts, on the device.

    ``nats = sum of -ln p(target)`` over targets that are not masked.

    Args:
        device: Where logits and targets live.
        token_bytes: Bytes of source data that each token id stands for, shape (V,); None if unknown.

    Attributes:
        pieces: If a list, what every call covered is added to it, unless it is compiled.
        by_target: Whether loss calls should be scored target by target, for ``pieces``.

    Example:
        >>> import torch
        >>> meter = Meter()
        >>> meter.update(logits=torch.zeros(3, 4), targets=torch.tensor([0, 1, -100]))
        >>> tally = meter.read()
        >>> tally.coded_tokens, tally.masked_tokens, round(tally.nats, 6)
        (2, 1, 2.772589)
    """

    def __init__(
        self, *, device: torch.device | str = "cpu", token_bytes: Tensor | Sequence[int] | None = None
    ) -> None:
        self.device = torch.device(device)
        has_float64 = self.device.type != "mps"
        self._nats = torch.zeros(1 if has_float64 else 2, dtype=torch.float64 if has_float64 else torch.float32)
        self._nats = self._nats.to(self.device)
        self._counts = torch.zeros(9, dtype=torch.int64, device=self.device)
        self._seen, self._stated = self._counts[:_POSITIONS], self._counts[_POSITIONS:]
        self._scale = torch.ones((), dtype=torch.int64, device=self.device)  # BASE ** position, modulo 2**64
        self._zero = torch.zeros((), dtype=torch.int64, device=self.device)
        self._constants: dict[tuple[int, ...], Tensor] = {}
        self._powers_kept = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._token_bytes: Tensor | None = None
        self.pieces: list[Piece] | None = None
        self.by_target = False
        if token_bytes is not None:
            # The last entry, 0 bytes, is for masked targets.
            self._token_bytes = F.pad(torch.as_tensor(token_bytes, dtype=torch.int64), (0, 1)).to(self.device)

    def update(self, *, logits: Tensor, targets: Tensor, ignore_index: int = -100, mask: Tensor | None = None) -> None:
        """Add the nats of ``targets`` under ``logits``; does not wait for the device.

        Args:
            logits: Shape (..., V): unnormalised log-probabilities.
            targets: Integer ids, shape (...).
            ignore_index: Target id that stands for "no target here"; counted as masked.
            mask: Optional, shape (...): positions where it is false are counted as masked.

        Raises:
            MeasureError: The shapes do not fit, or the targets are not integers.
        """
        if logits.shape[:-1] != targets.shape:
            raise MeasureError(
                f"expected logits of shape targets.shape + (V,), got {tuple(logits.shape)} for targets of shape "
                f"{tuple(targets.shape)}: align them, one row of logits a target"
            )
        if targets.is_floating_point():
            raise MeasureError(f"expected integer target ids, got {targets.dtype}: probabilities have no code length")
        with torch.no_grad():
            if mask is not None:
                targets = torch.where(mask.bool(), targets, ignore_index)
            flat = targets.reshape(-1)
            nats = nats_per_token(logits.reshape(-1, logits.shape[-1]), flat, ignore_index=ignore_index)
            self.add(nats, flat, vocab_size=logits.shape[-1], ignore_index=ignore_index)

    def add(
        self,
        nats: Tensor,
        targets: Tensor,
        *,
        vocab_size: int,
        ignore_index: int = -100,
        mean: bool = False,
        each: Tensor | None = None,
    ) -> None:
        """Add one loss call that was scored already; does not wait for the device.

        A call whose sum is infinite or NaN is charged by the uniform code, ln V a token, and counted.

        Args:
            nats: Nats of the targets: a tensor of any shape to be summed, or with ``mean`` their mean.
            targets: Integer ids of any shape; ``ignore_index`` counts as masked.
            vocab_size: Number of symbols V.
            ignore_index: Target id that stands for "no target here".
            mean: Whether ``nats`` is the mean over the targets that are not ignored.
            each: Nats of each target, where ``nats`` is their sum or mean and they are known.
        """
        if not torch.compiler.is_compiling() and self.pieces is not None:
            each = nats if each is None else each
            each = each.detach().reshape(-1) if each.numel() == targets.numel() else None
            self.pieces.append(Piece(targets.detach().reshape(-1), each, vocab_size, ignore_index))
        kept = targets != ignore_index
        coded = kept.sum()
        raw_bytes = self._zero if self._token_bytes is None else self._bytes_of(targets, kept, vocab_size).sum()
        self._accumulate(nats.detach(), coded, vocab_size, mean, raw_bytes, self._fingerprint(targets))
        self._stated.add_(self._constant(targets.numel(), 1, vocab_size, vocab_size**2, 0))

    def add_declared(
        self, nats: Tensor | float, tokens: Tensor | int, *, vocab_size: int | None, raw_bytes: Tensor | int = 0
    ) -> None:
        """Add sums that the training step declared itself: summed nats and the number of tokens they stand for."""
        coded = self._count(tokens)
        summed = torch.as_tensor(nats, device=self.device).detach()
        self._accumulate(summed, coded, vocab_size or 0, False, self._count(raw_bytes), self._zero)
        self._stated.add_(self._constant(0, 1, vocab_size or 0, (vocab_size or 0) ** 2, 0))
        self._counts[_POSITIONS] += coded

    def identify(self, content: Tensor) -> None:
        """Add the content of a tensor, at the next positions, to the fingerprint of the data."""
        self._counts[_FINGERPRINT] += self._fingerprint(as_integers(content))

    def raw_bytes(self, targets: Tensor, *, ignore_index: int = -100) -> Tensor:
        """Bytes of source data that the targets stand for, by the table of bytes per token; stays on the device."""
        targets = targets.detach()
        return self._bytes_of(targets, targets != ignore_index, 0).sum()

    def bytes_of_rows(self, targets: Tensor, kept: Tensor) -> Tensor:
        """Bytes that targets of shape (B, T) stand for, by row, shape (B,); 0 without a table of bytes per token."""
        if self._token_bytes is None:
            return torch.zeros_like(targets[:, 0])
        return self._bytes_of(targets, kept, 0).sum(1)

    def not_understood(self, flag: Tensor | None = None) -> None:
        """Count a loss call that could not be turned into a code length; given a flag on the device, if it is set."""
        if flag is None:
            self._stated.add_(self._constant(0, 0, 0, 0, 1))
        else:
            self._counts[_NOT_UNDERSTOOD].add_(flag)

    def take(self) -> Sums:
        """Hand over the sums so far, still on the device, and start again from zero."""
        sums = Sums(self._nats.clone(), self._counts.clone())
        self._nats.zero_()
        self._counts.zero_()
        return sums

    def peek(self) -> Sums:
        """Copy the sums so far, still on the device."""
        return Sums(self._nats.clone(), self._counts.clone())

    def progress(self) -> Tensor:
        """Coded tokens, raw bytes and nats so far, still on the device, shape (3,): float64, or float32 without it."""
        nats = self._nats.sum().reshape(1)
        return torch.cat([self._counts[:_NONFINITE].to(nats.dtype), nats])

    def read(self) -> Tally:
        """Wait for the device and return the sums so far."""
        return read_sums([self.peek()])[0].tally

    def _accumulate(
        self, nats: Tensor, coded: Tensor, vocab_size: int, mean: bool, raw_bytes: Tensor, fingerprint: Tensor
    ) -> None:
        high, low = self._summed(nats)
        if mean:
            high, low = high * coded, low * coded
        finite = torch.isfinite(high)
        high = torch.where(finite, high, coded * (math.log(vocab_size) if vocab_size else 0.0))
        # The mean over no targets is 0/0: no token is charged for it, since coded is 0 there.
        self._seen.add_(torch.stack([coded, raw_bytes, coded * ~finite, fingerprint]))
        if len(self._nats) == 1:
            self._nats.add_(high)
        else:
            total, error = two_sum(self._nats[0], self._nats[1] + torch.where(finite, low, 0.0), high)
            self._nats.copy_(torch.stack([total, error]))

    def _summed(self, nats: Tensor) -> tuple[Tensor, Tensor]:
        if len(self._nats) == 1:
            return nats.sum(dtype=torch.float64), self._zero
        return pair_sum(nats.float().reshape(-1))

    def _bytes_of(self, targets: Tensor, kept: Tensor, vocab_size: int) -> Tensor:
        table = self._token_bytes
        assert table is not None
        if len(table) <= vocab_size:  # a model's vocabulary is often padded beyond the tokenizer's
            table = F.pad(table, (0, vocab_size + 1 - len(table)))
            if not torch.compiler.is_compiling():
                self._token_bytes = table
        return table[torch.where(kept, targets, len(table) - 1)]

    def _fingerprint(self, values: Tensor) -> Tensor:
        """Sum of value x BASE ** position, modulo 2**64: what the values are and in which order.

        It does not depend on how the stream of values was cut into calls. Not cryptographic: it tells data sets
        apart by accident, it does not stop anybody who wants two of them to look alike.
        """
        size = values.numel()
        fingerprint = (values.reshape(-1) * self._powers(size)).sum() * self._scale
        self._scale.mul_(signed(pow(BASE, size, 2**64)))
        return fingerprint

    def _powers(self, size: int) -> Tensor:
        """BASE ** 0, 1, ... as int64, shape (size,); the longest seen is kept."""
        if size > len(self._powers_kept) or torch.compiler.is_compiling():
            series = powers(BASE, size, self.device)
            if torch.compiler.is_compiling():
                return series
            self._powers_kept = series
        return self._powers_kept[:size]

    def _constant(self, *values: int) -> Tensor:
        """A small int64 vector, made once: a fresh one would be a transfer that waits for the device."""
        if torch.compiler.is_compiling():
            return torch.tensor(values, dtype=torch.int64, device=self.device)
        if values not in self._constants:
            self._constants[values] = torch.tensor(values, dtype=torch.int64, device=self.device)
        return self._constants[values]

    def _count(self, value: Tensor | int) -> Tensor:
        return torch.as_tensor(value, device=self.device).detach().to(torch.int64).sum()


def as_integers(content: Tensor) -> Tensor:
    """View any tensor as int64, floats by their bits, so that equal content gives equal integers."""
    if content.is_floating_point():
        content = content.detach().contiguous().double().view(torch.int64)
    return content.detach().to(torch.int64)


def read_sums(parts: Sequence[Sums]) -> list[Reading]:
    """Bring sums from the device to the host, in one transfer for all of them."""
    if not parts:
        return []
    nats = torch.stack([part.nats for part in parts]).cpu().double().sum(dim=1).tolist()
    counts = torch.stack([part.counts for part in parts]).cpu().tolist()
    return [_reading(value, row) for value, row in zip(nats, counts, strict=True)]


def _reading(nats: float, counts: list[int]) -> Reading:
    tally = Tally(
        nats=nats,
        coded_tokens=counts[_CODED],
        masked_tokens=counts[_POSITIONS] - counts[_CODED],
        raw_bytes=counts[_RAW_BYTES],
        nonfinite_tokens=counts[_NONFINITE],
        fingerprint=counts[_FINGERPRINT] % 2**64,
    )
    calls, symbols = counts[_CALLS], counts[_SYMBOLS]
    # All calls had the same V if, and only if, the mean of the squares is the square of the mean.
    is_one = symbols > 0 and calls * counts[_SYMBOLS_SQUARED] == symbols**2
    vocab_size = symbols // calls if is_one else None
    return Reading(tally, calls, vocab_size, counts[_NOT_UNDERSTOOD])
