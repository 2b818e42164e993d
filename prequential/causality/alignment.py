"""Where a batch holds the targets of its loss calls, and that batch with other tokens from some target of a row on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prequential.batches import in_rows

# How far the tokens of a row may stand from the targets that they are: first where a language model has them.
_SHIFTS = (-1, -2, -3, 0, 1, 2, 3)


class Alignment(NamedTuple):
    """How the targets of the loss calls fall into rows, and where the batch holds them.

    Attributes:
        row_count: Number of rows.
        side_by_side: Whether each loss call covers a piece of all rows; else the calls follow each other.
        shifts: By place of a tensor in the batch, how far behind the same token stands among the targets of its row.
    """

    row_count: int
    side_by_side: bool
    shifts: dict[int, int]

    def of(self, parts: Sequence[Tensor]) -> Tensor:
        """Put one tensor a loss call into rows of shape (row_count, T)."""
        rows = in_rows(parts, self.row_count, side_by_side=self.side_by_side)
        assert rows is not None  # they fitted when they were aligned
        return rows


def find_alignment(leaves: Sequence[Tensor], targets: Sequence[Tensor], kept: Sequence[Tensor]) -> Alignment | None:
    """Find the tensors of a batch that hold the targets, moved by a few places.

    Args:
        leaves: Tensors of the batch.
        targets: Ids of the targets, a tensor for each loss call.
        kept: Which of them count.

    Returns:
        How they are aligned, or None if no tensor holds them.
    """
    counts = dict.fromkeys(len(_as_rows(leaf)) for leaf in leaves if _may_hold(leaf))
    for side_by_side in (False, True) if len(targets) > 1 else (False,):
        sizes = [part.numel() for part in targets] if side_by_side else [sum(part.numel() for part in targets)]
        for count in counts:
            if any(size == 0 or size % count for size in sizes):
                continue
            rows = Alignment(count, side_by_side, {})
            found = [_shift(leaf, rows.of(targets), rows.of(kept)) for leaf in leaves]
            shifts = {place: shift for place, shift in enumerate(found) if shift is not None}
            if shifts:
                return rows._replace(shifts=shifts)
    return None


def _may_hold(leaf: Tensor) -> bool:
    return 1 <= leaf.dim() <= 3 and leaf.numel() > 1 and not leaf.is_complex()


def _as_rows(tensor: Tensor) -> Tensor:
    """View a batch of single tokens as one row, and pictures as rows in raster order."""
    return tensor.reshape(1, -1) if tensor.dim() < 2 else tensor.reshape(len(tensor), -1)


def _shift(leaf: Tensor, targets: Tensor, kept: Tensor) -> int | None:
    """How far behind tokens stand as targets: token ``i`` is target ``i + shift``.

    The shift with the fewest tokens that are not is taken: one a row may be another (where its padding begins), and a
    part of them, should the script put others in their place, as long as most agree, beyond what they would by chance.
    """
    if not _may_hold(leaf) or len(_as_rows(leaf)) != len(targets):
        return None
    compared = [_compared(_as_rows(leaf), targets, kept, shift) for shift in _SHIFTS]
    others, _, shift = min((other.sum().item(), number, _SHIFTS[number]) for number, (_, other) in enumerate(compared))
    equal, other = compared[_SHIFTS.index(shift)]
    one_a_row = bool((other <= 1).all()) and int(equal.sum()) > others
    agreement = int(equal.sum()) / max(1, int(equal.sum()) + others)
    return shift if one_a_row or agreement > (1 + _chance(targets[kept])) / 2 else None


def _compared(tokens: Tensor, targets: Tensor, kept: Tensor, shift: int) -> tuple[Tensor, Tensor]:
    """For each row, how many of its targets that count are the token there, and how many are another."""
    first, last = max(0, -shift), max(0, min(tokens.shape[1], targets.shape[1] - shift))
    counts = kept[:, first + shift : last + shift]
    equal = counts & (tokens[:, first:last] == targets[:, first + shift : last + shift])
    return equal.sum(dim=1), (counts & ~equal).sum(dim=1)


def _chance(targets: Tensor) -> float:
    """How likely two of the targets are equal."""
    counts = torch.unique(targets, return_counts=True)[1].double()
    return float((counts / counts.sum()).square().sum())


def cut_of(kept: Tensor) -> Tensor:
    """For each row the target from which on tokens are changed: one that counts, at other places in other rows."""
    count, length = kept.shape
    wanted = (2 * torch.arange(count, device=kept.device) + 1) * length // (2 * count)
    places = torch.arange(length, device=kept.device).expand(count, length)
    following = torch.where(kept & (places >= wanted.unsqueeze(1)), places, length).amin(dim=1)
    last = torch.where(kept, places, -1).amax(dim=1)
    found = torch.where(following < length, following, last)
    return torch.where(found < 0, length, found)  # a row without targets stays as it is


def changed(leaf: Tensor, cut: Tensor, symbols: int) -> Tensor:
    """A copy with another token at each place of a row from ``cut`` on; what is no token stays."""
    tokens = _as_rows(leaf)
    later = torch.arange(tokens.shape[1], device=leaf.device) >= cut.unsqueeze(1)
    other = 1 - tokens if leaf.is_floating_point() else ((tokens.long() + 1) % max(2, symbols)).to(leaf.dtype)
    return torch.where(later & (tokens >= 0), other, tokens).reshape(leaf.shape)


def exchanged(batch: Any, changes: Mapping[int, Tensor]) -> Any:
    """The batch with other tensors in the place of some."""
    if isinstance(batch, Tensor):
        return changes.get(id(batch), batch)
    if isinstance(batch, Mapping):
        other: Any = copy.copy(batch)
        for name, value in batch.items():
            other[name] = exchanged(value, changes)
        return other
    if isinstance(batch, (list, tuple)):
        values = [exchanged(value, changes) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)
    return batch
