"""Tokens of the data that nothing predicts: the first of each row.

A model that predicts each token from those before it in its row never pays for the row's first. A receiver needs it all
the same, so it is charged by the uniform code, log2 V bits. Two layouts of a batch show it:

- *pairs*: inputs and targets, the targets being the inputs moved on by one;
- *shift inside*: the tokens once, which the training step shifts itself.

Not charged is a first token that is known to both sides: the same in every row of the first batch (a begin-of-text
token), or part of a masked prompt. Nor is one that was a target just before, where rows are cut from one contiguous
stream (each row goes on from the row before it) or from several side by side (each row goes on from the same row of the
batch before it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Counts: rows; first tokens to be charged if rows stand alone, if each goes on from the row before it, if each goes on
# from the same row of the batch before; their bytes; and first tokens that were seen to go on, in both ways.
_ROWS, _ALONE, _AFTER_ROW, _AFTER_BATCH = range(4)
_BYTES, _SEEN_AFTER_ROW, _SEEN_AFTER_BATCH = slice(4, 7), 7, 8
_NOTHING_BEFORE = -(2**62)


class Layout(NamedTuple):
    """Where rows stand among the integer tensors of a batch.

    Attributes:
        inputs: Place of the tensor whose rows begin with the tokens that nothing predicts.
        targets: Place of the tensor whose rows end with the last targets; the same one where the shift is inside.
        empty_slot: Whether the shift leaves an ignored target at the end of each row: no token of the data.
    """

    inputs: int
    targets: int
    empty_slot: bool


class Charge(NamedTuple):
    """What a stretch of batches adds to the uncoded column: tokens, and the bytes that they stand for."""

    tokens: int
    raw_bytes: int


def find_layout(tensors: Sequence[Tensor], positions: int, targets: Tensor | None) -> Layout | None:
    """Find how the first micro-batch shows its rows; None where it shows no token that nothing predicts.

    Args:
        tensors: Integer tensors of the batch.
        positions: Target positions that the loss covered.
        targets: Those targets, flat, if they were seen (not under ``torch.compile``).
    """
    rows = [_as_rows(tensor) for tensor in tensors]
    for inputs, moved_on in permutations(range(len(rows)), 2):
        if positions == rows[moved_on].numel() and _is_pair(rows[inputs], rows[moved_on]):
            return Layout(inputs, moved_on, empty_slot=False)
    for place, tokens in enumerate(rows):
        count, length = tokens.shape
        if positions == count * (length - 1) and (targets is None or _agrees(targets, tokens[:, 1:])):
            return Layout(place, place, empty_slot=False)
        if targets is not None and positions == count * length and _is_shifted(targets.view(count, length), tokens):
            return Layout(place, place, empty_slot=True)
    return None


@dataclass
class FirstTokens:
    """Counts first tokens on the device, and says on the host which of them are to be charged.

    Args:
        layout: Where rows stand in a batch.
        begin_id: The token that all rows begin with, or None.
        token_bytes: Bytes per token id, shape (V,), on the device; None if unknown.
        ranks: From how many data-parallel ranks the counts come that are charged: each has streams of its own.
        begun_with: The token that all rows of the first micro-batch begin with, or None; their number; and whether
            tokens like the first of them stand for bytes.
    """

    layout: Layout
    begin_id: int | None
    token_bytes: Tensor | None = None
    _last: Tensor | None = None
    _constants: tuple[Tensor, Tensor, Tensor] | None = None
    _streams: int | None = None
    _total: list[int] = field(default_factory=lambda: [0] * 9)
    _charged: tuple[int, int] = (0, 0)
    ranks: int = 1
    begun_with: tuple[int | None, int, bool] = (None, 0, True)

    @classmethod
    def of(cls, tensors: Sequence[Tensor], layout: Layout, table: npt.NDArray[np.int64] | None) -> FirstTokens:
        """Begin with the first micro-batch, which shows what rows begin with; waits for the device.

        Args:
            tensors: Integer tensors of the batch.
            layout: Where rows stand in it.
            table: Bytes per token id, or None.
        """
        first = _as_rows(tensors[layout.inputs])[:, 0]
        begin, same = int(first[0]), bool((first == first[0]).all())
        spelt = table is None or not 0 <= begin < len(table) or table[begin] > 0
        is_known = same and (len(first) > 1 or not spelt)
        token_bytes = None if table is None else torch.tensor(table, device=first.device)
        begun_with = begin if same else None, len(first), bool(spelt)
        return cls(layout, begin if is_known else None, token_bytes, begun_with=begun_with)

    def look(self, tensors: Sequence[Tensor]) -> Tensor:
        """Count in the integer tensors of N micro-batches, stacked; does not wait for the device.

        Returns:
            What each row adds to the counts, shape (9, N, rows).
        """
        inputs, targets = _all_rows(tensors[self.layout.inputs]), _all_rows(tensors[self.layout.targets])
        first, last = inputs[:, :, 0], targets[:, :, -1]
        every, nothing, none = self._blanks(first)
        fresh = every if self.begin_id is None else first != self.begin_id
        for tensor in tensors:  # a negative target at the front: the row begins with a masked prompt
            if tensor.dim() > 2 and tensor.shape[1] == first.shape[1]:
                fresh = fresh & (tensor[:, :, 0] >= 0)
        before = nothing[0, :1] if self._last is None else self._last
        ends = torch.cat([before[-1:], last[:-1, -1]]).unsqueeze(1)
        before_row = torch.cat([ends, last[:, :-1]], dim=1)
        before_batch = torch.cat([before.unsqueeze(0) if len(before) == first.shape[1] else nothing[:1], last[:-1]])
        alone = [fresh, fresh & _breaks(first, before_row), fresh & _breaks(first, before_batch)]
        seen = [fresh & (first == before_row), fresh & (first == before_batch)]
        kinds = torch.stack(alone).long()
        spelt = none if self.token_bytes is None else kinds * self._bytes_of(first)
        self._last = last[-1]
        self._streams = self._streams or first.shape[1]
        return torch.cat([every.long().unsqueeze(0), kinds, spelt, torch.stack(seen).long()])

    def _blanks(self, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Constants for as many rows, made once: every row, nothing before a row, no bytes."""
        if self._constants is None or self._constants[0].shape != first.shape:
            every = torch.ones_like(first, dtype=torch.bool)
            self._constants = every, torch.full_like(first, _NOTHING_BEFORE), first.new_zeros(3, *first.shape).long()
        return self._constants

    def charge(self, counts: Sequence[int]) -> Charge:
        """Say what counts that have reached the host add.

        Rows are taken for one stream once some were seen to go on from the row before, and as long as only one of them,
        ever, did not; for streams side by side as long as only as many did not as there are rows in a batch. When that
        turns out not to hold, what was passed over so far is charged too.
        """
        self._total = [so_far + more for so_far, more in zip(self._total, counts, strict=True)]
        raw_bytes = self._total[_BYTES]
        kind = _ALONE
        if self._total[_SEEN_AFTER_ROW] and self._total[_AFTER_ROW] <= self.ranks:
            kind = _AFTER_ROW
        elif self._total[_SEEN_AFTER_BATCH] and self._total[_AFTER_BATCH] <= (self._streams or 0) * self.ranks:
            kind = _AFTER_BATCH
        # What was charged stays charged, should rows turn out to go on only later: columns never shrink.
        due = max(self._total[kind], self._charged[0]), max(raw_bytes[kind - 1], self._charged[1])
        (tokens, spelt), self._charged = (due[0] - self._charged[0], due[1] - self._charged[1]), due
        return Charge(tokens, spelt)

    def state(self) -> dict[str, Any]:
        """What it knows between two intervals, as tensors and plain values, for a checkpoint."""
        return {
            "layout": list(self.layout),
            "begin_id": self.begin_id,
            "last": None if self._last is None else self._last.cpu(),
            "streams": self._streams,
            "total": list(self._total),
            "charged": list(self._charged),
        }

    @classmethod
    def resumed(
        cls, state: Mapping[str, Any], table: npt.NDArray[np.int64] | None, device: torch.device
    ) -> FirstTokens:
        """Go on from a `state`."""
        token_bytes = None if table is None else torch.tensor(table, device=device)
        self = cls(Layout(*state["layout"]), state["begin_id"], token_bytes)
        self._last = None if state["last"] is None else state["last"].to(device)
        self._streams, self._total = state["streams"], list(state["total"])
        self._charged = (state["charged"][0], state["charged"][1])
        return self

    @property
    def last(self) -> list[int] | None:
        """The last target of each row of the last micro-batch; waits for the device."""
        return None if self._last is None else self._last.tolist()

    def go_on_after(self, last: Sequence[int] | None, device: torch.device) -> None:
        """Say what the last targets before the next micro-batch were."""
        self._last = None if last is None else torch.tensor(last, device=device)

    def empty_slots(self, counts: Sequence[int]) -> int:
        """Target positions among these counts that only a shift left empty: they are no tokens of the data."""
        return counts[_ROWS] if self.layout.empty_slot else 0

    def _bytes_of(self, tokens: Tensor) -> Tensor:
        assert self.token_bytes is not None
        inside = (tokens >= 0) & (tokens < len(self.token_bytes))
        return self.token_bytes[torch.where(inside, tokens, 0)] * inside


def _breaks(first: Tensor, before: Tensor) -> Tensor:
    """Whether a first token was not the target before it; an ignored one cannot tell, and is in the masked column."""
    return (first != before) & ((before >= 0) | (before == _NOTHING_BEFORE))


def _as_rows(tensor: Tensor) -> Tensor:
    """View a batch of single tokens as one row, and more dimensions as rows of the last."""
    return tensor.reshape(1, -1) if tensor.dim() < 2 else tensor.reshape(-1, tensor.shape[-1])


def _all_rows(tensor: Tensor) -> Tensor:
    """The same for each of N micro-batches, in the first dimension."""
    return tensor.reshape(len(tensor), 1, -1) if tensor.dim() < 3 else tensor.reshape(len(tensor), -1, tensor.shape[-1])


def _is_pair(inputs: Tensor, targets: Tensor) -> bool:
    """Whether targets are the inputs moved on by one, but for where a row's padding begins."""
    if inputs.shape != targets.shape:
        return False
    kept = targets[:, :-1] >= 0
    equal = kept & (targets[:, :-1] == inputs[:, 1:])
    other = (kept & ~equal).sum(dim=1)
    return bool((other <= 1).all()) and int(equal.sum()) > int(other.sum())


def _is_shifted(targets: Tensor, tokens: Tensor) -> bool:
    return bool((targets[:, -1] < 0).all()) and _agrees(targets[:, :-1], tokens[:, 1:])


def _agrees(targets: Tensor, tokens: Tensor) -> bool:
    """Whether all targets that are not ignored are these tokens, and there is one."""
    targets = targets.reshape(tokens.shape)
    kept = targets >= 0
    return bool(kept.any()) and bool(((targets == tokens) | ~kept).all())
