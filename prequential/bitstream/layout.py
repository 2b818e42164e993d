"""Where a batch holds the targets of its loss calls: found by what becomes of tokens that are put there for a try."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prequential.batches import in_rows, integer_tensors
from prequential.bitstream.calls import Scores, all_calls
from prequential.bitstream.corpus import Corpus, Positions, leaves_of
from prequential.errors import MeasureError

# Tokens are put in the place of the data's until one tensor is left, or so often: where there are few symbols, tensors
# agree by chance.
_TRIES = 32
_GIVES = "give it inputs and targets, or tokens that are shifted inside, in rows, as monitor.tokens gave them"


class Layout(NamedTuple):
    """How the targets of the loss calls stand in a batch.

    Attributes:
        place: Which of its integer tensors holds them.
        shift: How many columns behind the first of them begin.
        slot: Whether the shift leaves an ignored target at the end of each row.
        side_by_side: Whether each loss call covers all rows; else the calls follow each other through the batch.
    """

    place: int
    shift: int
    slot: bool
    side_by_side: bool

    def targets(self, leaves: Mapping[int, Positions]) -> Positions:
        """Positions of the targets in rows, shape (B, T); -1 for one that is no token of the corpus."""
        return self.cut(_rows(leaves[self.place]))

    def cut(self, rows: Positions) -> Positions:
        """The columns of a tensor that are targets."""
        cut = rows[:, self.shift :]
        return np.pad(cut, ((0, 0), (0, self.shift)), constant_values=-1) if self.slot else cut

    def flat(self, sizes: Sequence[int], shape: tuple[int, ...]) -> Positions | None:
        """Where each target stands among those of all calls, in their order, shape (B, T); None if it does not fit.

        Args:
            sizes: Targets of each call.
            shape: (B, T).
        """
        return _flat(tuple(sizes), shape, self.side_by_side)


@functools.lru_cache(64)
def _flat(sizes: tuple[int, ...], shape: tuple[int, ...], side_by_side: bool) -> Positions | None:
    parts = torch.split(torch.arange(sum(sizes)), list(sizes))
    rows = in_rows(parts, shape[0], side_by_side=side_by_side) if shape[0] else None
    return None if rows is None or tuple(rows.shape) != shape else rows.numpy()


def find_layout(corpus: Corpus, batch: Any, step: Callable[[Any], Any], symbols: int) -> Layout:
    """Find where the first micro-batch holds its targets.

    Args:
        corpus: The tokens.
        batch: The micro-batch, with placeholders.
        step: Runs the training step on a batch, and leaves nothing behind.
        symbols: Tokens are below it.

    Raises:
        MeasureError: The step cannot be coded, or no tensor holds its targets.
    """
    leaves = leaves_of(batch)
    if not leaves:
        raise MeasureError(
            "expected batches that hold tokens of monitor.tokens(data), for a bitstream, got one without: read the "
            "data by it"
        )
    layouts = _candidates(leaves)
    sizes: list[int] = []
    for salt in range(_TRIES):
        if salt and _are_one(layouts, leaves, sizes):
            break
        tokens = torch.randint(max(2, symbols), (len(corpus),), generator=torch.Generator().manual_seed(salt))
        shown = corpus.shown(batch, tokens)
        calls = all_calls(lambda: step(shown))  # noqa: B023  called at once
        sizes = [len(call.targets) for call in calls]
        layouts = [layout for layout in layouts if _holds(layout, leaves, shown, calls, tokens)]
    if not layouts:
        raise MeasureError(
            f"expected the {sum(sizes):,} targets that the step scores to be one tensor of its batch, or one shifted "
            f"by one, for a bitstream, found none that holds them: {_GIVES}"
        )
    return layouts[0]


def _candidates(leaves: Mapping[int, Positions]) -> list[Layout]:
    shapes = ((0, False), (1, False), (1, True))
    return [
        Layout(place, shift, slot, side_by_side)
        for place, leaf in leaves.items()
        if leaf.ndim
        for shift, slot in shapes
        for side_by_side in (True, False)
    ]


def _holds(
    layout: Layout, leaves: Mapping[int, Positions], shown: Any, calls: Sequence[Scores], tokens: Tensor
) -> bool:
    positions = layout.targets(leaves)
    flat = layout.flat([len(call.targets) for call in calls], positions.shape)
    if flat is None or not (positions >= 0).any():
        return False
    targets = torch.cat([call.targets for call in calls]).cpu().numpy()[flat]
    values = layout.cut(_rows(integer_tensors(shown)[layout.place].cpu().numpy()))
    expected = np.where(positions >= 0, tokens.numpy()[positions], values)
    return bool(np.where(positions >= 0, targets == expected, (targets == expected) | (targets == -1)).all())


def _are_one(layouts: Sequence[Layout], leaves: Mapping[int, Positions], sizes: Sequence[int]) -> bool:
    """Whether all layouts, or none, say the same of this batch."""
    found = set()
    for layout in layouts:
        positions = layout.targets(leaves)
        flat = layout.flat(sizes, positions.shape)
        found.add((positions.tobytes(), None if flat is None else flat.tobytes()))
    return len(found) < 2


def _rows(leaf: Positions) -> Positions:
    return leaf.reshape(len(leaf), -1)
