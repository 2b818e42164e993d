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

from prequential.calls import CallSums, KeptCall, Kind, bytes_of, sum_kept, summed, widened
from prequential.codelength import Tally
from prequential.errors import MeasureError
from prequential.hashing import BASE, powers, signed
from prequential.scoring import nats_per_token, pair_sum, two_sum

# Calls of more targets than this are summed at once: to copy them would cost more than it saves.
_KEPT_TARGETS = 2**15
# Calls that wait to be summed, at most, and their targets: 16 MiB.
_WAITING, _WAITING_TARGETS = 512, 2**21

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
    """A meter's sums as they lie on the device: float64 nats (or a float32 pair), int64 counts, calls to be summed."""

    nats: Tensor
    counts: Tensor
    calls: tuple[KeptCall, ...] = ()

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
        keeps_calls: Whether small calls are kept and summed together when the sums are read. Not where other calls are
            compiled, which could not tell at which position of the data they stand.

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
        self.by_target = self.keeps_calls = False
        self._calls: list[KeptCall] = []  # since the last `take`
        self._waiting: list[KeptCall] = []
        self._origin: Tensor | None = None  # the scale at the first of the calls that were kept
        self._passed = 0  # positions of calls that were kept since
        # What `since` was asked for last: calls that were kept, the other sums, and whether these grew.
        self._mark, self._touched = 0, False
        self._nothing = self._before = torch.zeros(3, dtype=self.dtype, device=self.device)
        if token_bytes is not None:
            # The last entry, 0 bytes, is for masked targets.
            self._token_bytes = F.pad(torch.as_tensor(token_bytes, dtype=torch.int64), (0, 1)).to(self.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of sums of nats: float64, or float32 where the device has none."""
        return self._nats.dtype

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
        kind = Kind(targets.numel(), vocab_size, ignore_index, mean)
        table = self._bytes_table(vocab_size)
        if not torch.compiler.is_compiling() and self._keeps(kind):
            self._keep(kind, nats.detach(), targets, table)
            return
        self._go_on()
        high, low = self._summed(nats.detach())
        size = kind.targets
        found = summed(kind, high, low, targets.reshape(-1), table=table, powers=self._powers(size), scale=self._scale)
        self._scale.mul_(signed(pow(BASE, size, 2**64)))
        self._accumulate(found)
        self._stated.add_(self._constant(*kind.stated, 0))

    def add_declared(
        self, nats: Tensor | float, tokens: Tensor | int, *, vocab_size: int | None, raw_bytes: Tensor | int = 0
    ) -> None:
        """Add sums that the training step declared itself: summed nats and the number of tokens they stand for."""
        coded = self._count(tokens)
        high, low = self._summed(torch.as_tensor(nats, device=self.device).detach())
        finite = torch.isfinite(high)
        high = torch.where(finite, high, coded * (math.log(vocab_size) if vocab_size else 0.0))
        counts = torch.stack([coded, self._count(raw_bytes), coded * ~finite, self._zero])
        self._accumulate(CallSums(high, torch.where(finite, low, 0.0), counts))
        self._stated.add_(self._constant(0, 1, vocab_size or 0, (vocab_size or 0) ** 2, 0))
        self._counts[_POSITIONS] += coded

    def identify(self, content: Tensor) -> None:
        """Add the content of a tensor, at the next positions, to the fingerprint of the data."""
        self._go_on()
        values = as_integers(content).reshape(-1)
        self._counts[_FINGERPRINT] += (values * self._powers(len(values))).sum() * self._scale
        self._scale.mul_(signed(pow(BASE, len(values), 2**64)))

    def raw_bytes(self, targets: Tensor, *, ignore_index: int = -100) -> Tensor:
        """Bytes of source data that the targets stand for, by the table of bytes per token; stays on the device."""
        targets = targets.detach()
        table = self._bytes_table(0)
        assert table is not None
        return bytes_of(table, targets, targets != ignore_index).sum()

    def bytes_of_rows(self, targets: Tensor, kept: Tensor) -> Tensor:
        """Bytes that targets of shape (..., T) stand for, by row, shape (...); 0 without a table of bytes per token."""
        table = self._bytes_table(0)
        return torch.zeros_like(targets[..., 0]) if table is None else bytes_of(table, targets, kept).sum(-1)

    def not_understood(self, flag: Tensor | None = None) -> None:
        """Count a loss call that could not be turned into a code length; given a flag on the device, if it is set."""
        if flag is None:
            self._stated.add_(self._constant(0, 0, 0, 0, 1))
        else:
            self._counts[_NOT_UNDERSTOOD].add_(flag)

    @property
    def position(self) -> Tensor:
        """Where the next target stands in the fingerprint, on the host: for a checkpoint; waits for the device."""
        self._go_on()
        return self._scale.cpu()

    @position.setter
    def position(self, position: Tensor) -> None:
        self._origin = None
        self._scale.copy_(position)

    def begin_at(self, position: Tensor | int) -> None:
        """Let the next target stand at this place of the fingerprint: a number, or what `position` was."""
        if isinstance(position, int):
            position = torch.tensor(signed(pow(BASE, position, 2**64)))
        self.position = position

    def take(self) -> Sums:
        """Hand over the sums so far, still on the device, and start again from zero."""
        sums = self.peek()
        self._nats.zero_()
        self._counts.zero_()
        self._calls, self._mark, self._touched = [], 0, False
        self._before = self._nothing
        return sums

    def peek(self) -> Sums:
        """Copy the sums so far, still on the device."""
        return Sums(self._nats.clone(), self._counts.clone(), tuple(self._calls))

    def since(self, *, wanted: bool) -> Tensor | None:
        """Coded tokens, raw bytes and nats since the last call of this method or of `take`; stays on the device.

        Args:
            wanted: Whether they are asked for, and not only passed over.

        Returns:
            Shape (3,): float64, or float32 without it; None if it is not wanted.
        """
        calls, self._mark = self._calls[self._mark :], len(self._calls)
        touched, self._touched = self._touched, False
        if not wanted and not touched:
            return None
        progress = torch.cat([self._counts[:_NONFINITE].to(self.dtype), self._nats.sum().reshape(1)])
        since, self._before = progress - self._before, progress
        sum_kept(calls if wanted else [])
        for call in calls if wanted else []:
            nats, seen = call.on_device
            since = since + torch.cat([seen[:_NONFINITE].to(self.dtype), nats.reshape(1)])
        return since if wanted else None

    def read(self) -> Tally:
        """Wait for the device and return the sums so far."""
        return read_sums([self.peek()])[0].tally

    def _keeps(self, kind: Kind) -> bool:
        return self.keeps_calls and len(self._nats) == 1 and kind.targets <= _KEPT_TARGETS

    def _keep(self, kind: Kind, nats: Tensor, targets: Tensor, table: Tensor | None) -> None:
        """Copy a call, which the script may change in place, to be summed with others."""
        if self._origin is None:
            self._origin, self._passed = self._scale.clone(), 0
        copied = nats.sum(dtype=torch.float64) if nats.dim() else nats.clone()
        flat = targets.detach().reshape(-1).clone()
        call = KeptCall(kind, copied, flat, table=table, scale=self._origin, position=self._passed)
        self._calls.append(call)
        self._waiting.append(call)
        self._passed += kind.targets
        if len(self._waiting) >= min(_WAITING, _WAITING_TARGETS // max(1, kind.targets)):
            sum_kept(self._waiting)
            self._waiting = []

    def _go_on(self) -> None:
        """Move on to the position after the calls that were kept."""
        if self._origin is not None:
            self._scale.mul_(signed(pow(BASE, self._passed, 2**64)))
            self._origin = None

    def _accumulate(self, found: CallSums) -> None:
        if not torch.compiler.is_compiling():
            self._touched = True
        self._seen.add_(found.counts)
        if len(self._nats) == 1:
            self._nats.add_(found.high)
        else:
            total, error = two_sum(self._nats[0], self._nats[1] + found.low, found.high)
            self._nats.copy_(torch.stack([total, error]))

    def _summed(self, nats: Tensor) -> tuple[Tensor, Tensor]:
        if len(self._nats) == 1:
            return nats.sum(dtype=torch.float64), self._zero
        return pair_sum(nats.float().reshape(-1))

    def _bytes_table(self, vocab_size: int) -> Tensor | None:
        if self._token_bytes is None:
            return None
        table = widened(self._token_bytes, vocab_size)
        if not torch.compiler.is_compiling():
            self._token_bytes = table
        return table

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


def on_device(sums: Sums) -> Sums:
    """The same with the calls that were kept summed up; does not wait for the device."""
    sum_kept(sums.calls)
    nats, counts = sums.nats.clone(), sums.counts.clone()
    for call in sums.calls:
        more_nats, seen = call.on_device
        nats.add_(more_nats)
        counts[:_POSITIONS].add_(seen)
        for place, value in zip((_POSITIONS, _CALLS, _SYMBOLS, _SYMBOLS_SQUARED), call.kind.stated, strict=True):
            counts[place] += value
    return Sums(nats, counts)


def read_sums(parts: Sequence[Sums]) -> list[Reading]:
    """Bring sums from the device to the host, in one transfer for all of them."""
    if not parts:
        return []
    sum_kept([call for part in parts for call in part.calls])
    nats = torch.stack([part.nats for part in parts]).cpu().double().sum(dim=1).tolist()
    counts = torch.stack([part.counts for part in parts]).cpu().tolist()
    return [_reading(*_with_calls(*row)) for row in zip(nats, counts, (part.calls for part in parts), strict=True)]


def _with_calls(nats: float, counts: list[int], calls: Sequence[KeptCall]) -> tuple[float, list[int]]:
    """Add calls that were summed later."""
    for call in calls:
        more_nats, seen = call.sums
        nats += more_nats
        more = [*seen, *call.kind.stated, 0]
        counts = [a + b for a, b in zip(counts, more, strict=True)]
    return nats, counts


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
