"""Loss calls to sums of -ln p and counts, one call or many of one shape at a time.

A call costs about as many small kernels as a hundred of them do. Where nothing is compiled, small calls are therefore
kept as they came, two copies each, and summed together when the sums are read.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from prequential.hashing import BASE, kept_powers, signed


class Kind(NamedTuple):
    """What calls that are summed together have in common.

    Attributes:
        targets: Number of target positions.
        vocab_size: Number of symbols V.
        ignore_index: Target id that stands for "no target here".
        mean: Whether nats are means over the targets that are not ignored; else sums.
    """

    targets: int
    vocab_size: int
    ignore_index: int
    mean: bool

    @property
    def stated(self) -> tuple[int, int, int, int]:
        """What the shapes say of a call: its positions, 1, V and V squared."""
        return self.targets, 1, self.vocab_size, self.vocab_size**2


class CallSums(NamedTuple):
    """What calls add: nats, float64 or a float32 pair of high and low, and coded, bytes, not finite, fingerprint."""

    high: Tensor
    low: Tensor
    counts: Tensor


class Group:
    """Sums of calls that were summed together.

    Args:
        found: What they add.

    Attributes:
        found: The same.
    """

    def __init__(self, found: CallSums) -> None:
        self.found = found

    @functools.cached_property
    def on_host(self) -> list[tuple[float, list[int]]]:
        """For each call its nats, and coded tokens, bytes, tokens that were not finite, fingerprint; waits."""
        return list(zip(self.found.high.tolist(), self.found.counts.t().tolist(), strict=True))


class KeptCall:
    """A loss call that waits to be summed.

    Attributes:
        kind: Its shape and how to read it.
        group: Those that it was summed with; None until then.
        place: Its place among them.
    """

    def __init__(
        self, kind: Kind, nats: Tensor, targets: Tensor, *, table: Tensor | None, scale: Tensor, position: int
    ) -> None:
        self.kind, self.nats, self.targets, self.table = kind, nats, targets, table
        self.scale, self.position = scale, position
        self.group: Group | None = None
        self.place = 0

    @property
    def sums(self) -> tuple[float, list[int]]:
        """Nats, and coded tokens, raw bytes, tokens that were not finite, fingerprint; waits for the device."""
        assert self.group is not None
        return self.group.on_host[self.place]

    @property
    def on_device(self) -> tuple[Tensor, Tensor]:
        """The same, where it lies."""
        assert self.group is not None
        return self.group.found.high[self.place], self.group.found.counts[:, self.place]


def summed(
    kind: Kind, high: Tensor, low: Tensor, targets: Tensor, *, table: Tensor | None, powers: Tensor, scale: Tensor
) -> CallSums:
    """Sum calls of one kind; runs inside ``torch.compile``.

    A call whose nats are infinite or NaN is charged by the uniform code, ln V a token, and counted. The fingerprint of
    a call is the sum of target x BASE ** position, modulo 2**64: what the values are and in which order.

    Args:
        kind: What they have in common.
        high: Nats of each call, shape (N,) or ().
        low: What rounding took from them, or 0.
        targets: Their targets, shape (N, P) or (P,).
        table: Bytes of each token id, and 0 in the last place; None if unknown.
        powers: BASE ** 0, 1, ..., shape (P,).
        scale: BASE ** position of each call.
    """
    kept = targets != kind.ignore_index
    coded = kept.sum(-1)
    if kind.mean:
        high, low = high * coded, low * coded
    finite = torch.isfinite(high)
    raw_bytes = torch.zeros_like(coded) if table is None else bytes_of(table, targets, kept).sum(-1)
    fingerprint = (targets * powers).sum(-1) * scale
    # The mean over no targets is 0/0: no token is charged for it, since coded is 0 there.
    high = torch.where(finite, high, coded * (math.log(kind.vocab_size) if kind.vocab_size else 0.0))
    return CallSums(high, torch.where(finite, low, 0.0), torch.stack([coded, raw_bytes, coded * ~finite, fingerprint]))


def bytes_of(table: Tensor, targets: Tensor, kept: Tensor) -> Tensor:
    """Bytes that each target stands for; 0 where it is not kept."""
    return table[torch.where(kept, targets, len(table) - 1)]


def widened(table: Tensor, vocab_size: int) -> Tensor:
    """A table of bytes with room for V symbols: a model's vocabulary is often padded beyond the tokenizer's."""
    return F.pad(table, (0, vocab_size + 1 - len(table))) if len(table) <= vocab_size else table


def sum_kept(calls: Sequence[KeptCall]) -> None:
    """Sum calls that wait, those of one kind that follow each other together; does not wait for the device."""
    waiting = [call for call in dict.fromkeys(calls) if call.group is None]
    # What belongs together has one kind, and positions that go on from each other.
    runs = [
        (call.kind, id(call.table), id(call.scale), call.position - place * call.kind.targets)
        for place, call in enumerate(waiting)
    ]
    for _, run in itertools.groupby(zip(runs, waiting, strict=True), key=lambda pair: pair[0]):
        _sum_together([call for _, call in run])


def _sum_together(calls: Sequence[KeptCall]) -> None:
    kind, device = calls[0].kind, calls[0].targets.device
    steps = kept_powers(pow(BASE, kind.targets, 2**64), len(calls), device)
    found = summed(
        kind,
        torch.stack([call.nats for call in calls]).double(),
        torch.zeros((), device=device),
        torch.stack([call.targets for call in calls]),
        table=calls[0].table,
        powers=kept_powers(BASE, kind.targets, device),
        scale=steps * calls[0].scale * signed(pow(BASE, calls[0].position, 2**64)),
    )
    group = Group(found)
    for place, call in enumerate(calls):
        call.group, call.place = group, place
        del call.nats, call.targets
