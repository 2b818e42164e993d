"""What batches show beside their loss: tokens that nothing predicts, padding, rows and passages that came before.

Settled in the first micro-batch; from then on it is counted on the device and read with the sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prequential.batches import integer_tensors
from prequential.codelength import Tally
from prequential.columns.padding import Padding
from prequential.columns.replay import RowPlan, Rows, RowSplit
from prequential.columns.rows import RowSums, find_rows
from prequential.columns.uncoded import FirstTokens, find_layout
from prequential.identity.passages import PassageAudit, Repeats, passage_tokens
from prequential.meter import Meter, Piece
from prequential.run import REPEATS_ALLOWED


class Watched(NamedTuple):
    """What one interval showed, still on the device."""

    first_tokens: Tensor | None
    padding: Tensor | None
    samples: list[Tensor]
    rows: list[RowSums]


class Columns(NamedTuple):
    """The sums of one interval with every position in its column, by source where asked for, and what is estimated."""

    tally: Tally
    sources: dict[str, Tally]
    remarks: dict[str, str]


class BatchWatch:
    """Watches the tensors of every batch.

    Args:
        batch: The first micro-batch.
        positions: Target positions that its loss covered.
        pieces: What its loss calls covered, if they were seen.
        vocab_size: Number of symbols V, or None.
        table: Bytes per token id, or None.
        meter: Where loss calls are summed.
        plan: What is to be found out about rows.
        declared: Whether the script states its sums itself: then nothing is charged beside them.
    """

    def __init__(
        self,
        batch: Any,
        positions: int,
        pieces: Sequence[Piece],
        *,
        vocab_size: int | None,
        table: npt.NDArray[np.int64] | None,
        meter: Meter,
        plan: RowPlan,
        declared: bool = False,
    ) -> None:
        tensors, targets = integer_tensors(batch), torch.cat([p.targets for p in pieces]) if pieces else None
        layout = None if declared else find_layout(tensors, positions, targets)
        self._first_tokens = FirstTokens.of(tensors, layout, table) if layout is not None else None
        self._vocab_size = vocab_size
        self._tokens = layout.inputs if layout is not None else _place_of(targets, tensors)
        self._audit = PassageAudit(passage_tokens(vocab_size)) if vocab_size and self._tokens is not None else None
        self._samples: list[Tensor] = []
        self._padding = Padding()
        found = find_rows(batch, pieces, vocab_size, positions)
        self.rows = Rows(found, meter, plan) if found is not None else None

    @property
    def tells_replay(self) -> bool:
        """Whether replay is known by the rows themselves, whatever the number of the epoch."""
        return self.rows is not None and self.rows.tells_replay

    def observe(self, batch: Any, pieces: Sequence[Piece]) -> None:
        """Take in one micro-batch and what its loss calls covered; does not wait for the device."""
        tensors, by_row = integer_tensors(batch), None
        if self._first_tokens is not None:
            by_row = self._first_tokens.observe(tensors)
        if self.rows is not None:
            self.rows.observe(batch, pieces, by_row)
            self._observe_padding(batch, pieces, tensors)
        if self._audit is not None and self._tokens is not None:
            rows = tensors[self._tokens]
            if rows.dim() and rows.shape[-1] >= self._audit.length:
                self._samples.append(self._audit.sample(rows.reshape(-1, rows.shape[-1])))

    def take(self) -> Watched:
        """Hand over what was counted so far, still on the device, and start again."""
        first_tokens = self._first_tokens.take() if self._first_tokens is not None else None
        rows = self.rows.take() if self.rows is not None else []
        watched = Watched(first_tokens, self._padding.take(), self._samples, rows)
        self._samples = []
        return watched

    def in_columns(self, tally: Tally, watched: Watched, *, replay: bool) -> Columns:
        """Put every position into its column; waits for the device.

        First tokens are charged by the uniform code, empty slots left out, padding told from side information, rows
        that came before moved to the replay column, and passages remembered.

        Args:
            tally: Sums of the interval.
            watched: What was seen in it.
            replay: Whether all of it is replay, by the number of its epoch.
        """
        by_number = replay and not self.tells_replay
        split = self.rows.split(watched.rows, by_number=by_number) if self.rows is not None else RowSplit()
        if watched.samples and self._audit is not None and not by_number:
            self._audit.count(torch.cat(watched.samples).tolist())
        tally = self._masks_told(tally, watched)
        if by_number:
            return Columns(tally.as_replay(), split.sources, {})
        tally = split.moved(tally)
        if self._first_tokens is not None and watched.first_tokens is not None:
            counts = watched.first_tokens.tolist()
            charge = self._first_tokens.charge([a - b for a, b in zip(counts, split.first_tokens, strict=True)])
            tally = replace(
                tally,
                uncoded_tokens=charge.tokens,
                uncoded_nats=charge.tokens * math.log(self._vocab_size or 1),
                raw_bytes=tally.raw_bytes + charge.raw_bytes,
            )
        return Columns(tally, split.sources, split.remarks)

    def row_tokens(self, total: Tally) -> int | None:
        """Tokens of a row, first ones included where they were charged; None if that is not the same for all rows."""
        ignored = total.masked_tokens + total.padding_tokens
        if self.rows is None or len(self.rows.lengths) != 1 or ignored:
            return None
        (length,) = self.rows.lengths
        slot = self._first_tokens is not None and self._first_tokens.layout.empty_slot
        return length - slot + (total.uncoded_tokens == total.rows)

    def repeats(self) -> Repeats | None:
        """The share of tokens in repeated passages; None if the batches do not tell."""
        return self._audit.repeats() if self._audit is not None else None

    def verdict(self, total: Tally) -> str | None:
        """Say that the run was no single pass, if the passages tell; not where coverage is counted exactly.

        Args:
            total: Sums of the run: what is in the replay column by its rows is no news.
        """
        repeats = self.repeats()
        if repeats is None or (self.rows is not None and self.rows.coverage is not None):
            return None
        fed = total.coded_tokens + total.replayed_tokens
        return repeated(repeats, total.replayed_tokens / fed if self.tells_replay and fed else 0.0)

    def _masks_told(self, tally: Tally, watched: Watched) -> Tally:
        masked, padding = tally.masked_tokens, 0
        if self._first_tokens is not None and watched.first_tokens is not None:
            masked -= self._first_tokens.empty_slots(watched.first_tokens.tolist())
        if watched.padding is not None:
            padding = min(masked, int(watched.padding))
        return replace(tally, masked_tokens=masked - padding, padding_tokens=padding)

    def _observe_padding(self, batch: Any, pieces: Sequence[Piece], tensors: Sequence[Tensor]) -> None:
        targets = self.rows.layout.rows(batch, [p.targets for p in pieces]) if self.rows is not None else None
        if targets is None:
            return
        ignored, tokens = targets == pieces[0].ignore_index, None
        if self._first_tokens is not None:
            layout = self._first_tokens.layout
            tokens = tensors[layout.inputs]
            ignored = ignored[:, :-1] if layout.empty_slot else ignored
        if tokens is None or (tokens.dim() == 2 and len(tokens) == len(ignored)):
            self._padding.observe(batch, ignored, tokens)


def repeated(repeats: Repeats, replayed_share: float = 0.0) -> str | None:
    """Say that a run was no single pass, if the estimate is beyond doubt above what text repeats by itself.

    Args:
        repeats: The estimate.
        replayed_share: Share of the tokens that rows which came again explain.
    """
    if repeats.share - 2 * repeats.standard_error - replayed_share <= REPEATS_ALLOWED:
        return None
    return (
        f"an estimate of {100 * repeats.share:.1f} % (+- {200 * repeats.standard_error:.1f}) of the tokens stand in "
        "passages that had come before: the result codes a stream, not the corpus"
    )


def facts_of(watch: BatchWatch | None) -> dict[str, Any]:
    """What the end line of a book holds of the audits."""
    if watch is None:
        return {}
    rows = watch.rows
    found = {
        "repeats": watch.repeats(),
        "coverage": rows.coverage.covered() if rows is not None and rows.coverage is not None else None,
        "row_sampling": rows.sampling if rows is not None else None,
    }
    facts = {name: audit._asdict() for name, audit in found.items() if audit is not None}
    return {**facts, "row_split": {"nats": rows.split_nats}} if rows is not None and rows.split_nats else facts


def _place_of(targets: Tensor | None, tensors: Sequence[Tensor]) -> int | None:
    """The place of the tensor that holds the targets themselves, in rows; None if no tensor does, or none were seen."""
    if targets is None:
        return None
    for place, tensor in enumerate(tensors):
        if tensor.dim() > 1 and tensor.numel() == targets.numel() and _holds(tensor, targets):
            return place
    return None


def _holds(tensor: Tensor, targets: Tensor) -> bool:
    return bool(((tensor.reshape(-1) == targets) | (targets < 0)).all())
