"""One micro-batch on its way through a coder: which of its targets are due in which pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prequential.bitstream.calls import Scores
from prequential.bitstream.corpus import Positions, leaves_of
from prequential.bitstream.layout import Layout
from prequential.bitstream.plan import Known, make_plan
from prequential.errors import MeasureError


class Batch:
    """The plan of one micro-batch; making it marks its positions as known.

    Args:
        layout: Where it holds its targets.
        batch: The micro-batch, with placeholders.
        known: Which positions came before.

    Attributes:
        positions: Of the targets, rows one after the other, shape (B * T,).
        tried: What a coder has tried, for its own use.
    """

    def __init__(self, layout: Layout, batch: Any, known: Known) -> None:
        leaves = leaves_of(batch)
        targets = layout.targets(leaves) if layout.place in leaves else np.empty((0, 0), dtype=np.int64)
        self._layout, self._shape = layout, targets.shape
        self.positions = targets.reshape(-1)
        self.plan = make_plan(targets, _inputs(list(leaves.values()), len(targets)), known)
        self.tried: list[tuple[Positions, Tensor]] = []

    def begin(self, number: int) -> int:
        """Where in the order a pass begins."""
        return int(self.plan.ends[number - 1]) if number else 0

    def due(self, number: int) -> Positions:
        """Places of the targets that a pass gives."""
        return self.plan.order[self.begin(number) : self.plan.ends[number]]

    def flat(self, sizes: Sequence[int]) -> Positions:
        """Where each target stands among those of all loss calls, shape (B * T,).

        Raises:
            MeasureError: The calls do not cover the targets.
        """
        flat = self._layout.flat(sizes, self._shape)
        if flat is None:
            raise MeasureError(
                f"expected loss calls over the {len(self.positions):,} targets of the batch, got {sum(sizes):,} targets"
            )
        return flat.reshape(-1)

    def logits(self, calls: Sequence[Scores], places: Positions) -> Tensor:
        """Rows of logits for some of the targets, shape (len(places), V)."""
        chosen = self.flat([len(call.targets) for call in calls])[places]
        if len(calls) == 1:
            return calls[0].logits[torch.from_numpy(chosen).to(calls[0].logits.device)]
        ends = np.cumsum([len(call.targets) for call in calls])
        which = np.searchsorted(ends, chosen, side="right")
        starts = ends - [len(call.targets) for call in calls]
        return torch.stack([calls[c].logits[int(i)] for c, i in zip(which, chosen - starts[which], strict=True)])


def _inputs(leaves: Sequence[Positions], count: int) -> Positions:
    """Positions that each row holds, shape (count, K): those of a tensor that is not in rows count for each of them."""
    if not count:
        return np.concatenate([leaf.reshape(1, -1) for leaf in leaves], 1) if leaves else np.empty((0, 0), np.int64)
    parts = [
        leaf.reshape(count, -1)
        if leaf.ndim and len(leaf) == count
        else np.broadcast_to(leaf.reshape(1, -1), (count, leaf.size))
        for leaf in leaves
    ]
    return np.concatenate(parts, axis=1)
