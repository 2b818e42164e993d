"""What batches show beside their loss: tokens that nothing predicts, padding, rows and passages that came before.

Settled in the first micro-batch; from then on it is counted on the device and read with the sums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prequential.batches import integer_tensors, tensors
from prequential.codelength import Tally
from prequential.columns.fed import Fed, Queue
from prequential.columns.padding import Padding
from prequential.columns.replay import LookedRows, RowPlan, Rows, RowSplit, SeenRows
from prequential.columns.rows import RowLayout, find_rows
from prequential.columns.uncoded import FirstTokens, Layout, find_layout
from prequential.identity.passages import PassageAudit, Repeats, passage_tokens
from prequential.meter import Meter, Piece
from prequential.run import REPEATS_ALLOWED


class Seen(NamedTuple):
    """What one micro-batch showed, on the host.

    Attributes:
        first_tokens: Counts of `FirstTokens`, or None.
        padding: Positions that are padding, or None if that cannot be told.
        samples: Hashes of sampled passages: those of all micro-batches that were looked at with it, at the first.
        rows: Its rows, or None.
    """

    first_tokens: list[int] | None
    padding: int | None
    samples: list[int]
    rows: SeenRows | None


class Looked(NamedTuple):
    """What N micro-batches of one shape showed, still on the device."""

    batches: int
    first_tokens: Tensor | None
    padding: Tensor | None
    samples: Tensor | None
    rows: LookedRows | None

    def on_host(self) -> list[Seen]:
        """One by one; waits for the device."""
        count = self.batches
        first = None if self.first_tokens is None else self.first_tokens.sum(2).t().tolist()
        padding = None if self.padding is None else self.padding.tolist()
        samples = [[] if self.samples is None else self.samples.tolist(), *([] for _ in range(count - 1))]
        rows = [None] * count if self.rows is None else self.rows.on_host()
        return [
            Seen(None if first is None else first[n], None if padding is None else padding[n], samples[n], rows[n])
            for n in range(count)
        ]


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
        self._begin(vocab_size)
        integers, targets = integer_tensors(batch), torch.cat([p.targets for p in pieces]) if pieces else None
        layout = None if declared else find_layout(integers, positions, targets)
        self._first_tokens = FirstTokens.of(integers, layout, table) if layout is not None else None
        self._tokens = layout.inputs if layout is not None else _place_of(targets, integers)
        self._audit = PassageAudit(passage_tokens(vocab_size)) if vocab_size and self._tokens is not None else None
        found = find_rows(batch, pieces, vocab_size, positions)
        self.rows = Rows(found, meter, plan) if found is not None else None

    def _begin(self, vocab_size: int | None) -> None:
        self._vocab_size, self._padding = vocab_size, Padding()
        self._queue, self._looked, self._batches = Queue(self._look), list[Looked](), 0

    @classmethod
    def resumed(
        cls,
        state: Mapping[str, Any],
        *,
        vocab_size: int | None,
        table: npt.NDArray[np.int64] | None,
        meter: Meter,
        plan: RowPlan,
    ) -> BatchWatch:
        """Go on from a `state`: where things stand in a batch is not looked for again, a later one may show less."""
        self = cls.__new__(cls)
        self._begin(vocab_size)
        first, self._tokens, audit, rows = (state[name] for name in ("first_tokens", "tokens", "passages", "rows"))
        self._first_tokens = None if first is None else FirstTokens.resumed(first, table, meter.device)
        self._audit = None if audit is None else PassageAudit(int(audit["length"]))
        if self._audit is not None:
            self._audit.load(audit)
        self._padding.resume(state["filler"], meter.device)
        self.rows = None if rows is None else Rows(RowLayout(*rows["layout"]), meter, plan)
        if self.rows is not None:
            self.rows.load(rows)
        return self

    def state(self) -> dict[str, Any]:
        """What it knows between two intervals, as tensors and plain values, for a checkpoint."""
        return {
            "first_tokens": None if self._first_tokens is None else self._first_tokens.state(),
            "tokens": self._tokens,
            "passages": None if self._audit is None else self._audit.state(),
            "filler": self._padding.filler,
            "rows": None if self.rows is None else self.rows.state(),
        }

    def facts(self) -> dict[str, Any]:
        """What the first micro-batch showed of where things stand, in the values of JSON, for ranks to agree on."""
        first, rows = self._first_tokens, self.rows
        return {
            "first_tokens": None
            if first is None
            else {
                "layout": list(first.layout),
                "begin_id": first.begin_id,
                "begun_with": list(first.begun_with),
            },
            "tokens": self._tokens,
            "passages": None if self._audit is None else self._audit.length,
            "rows": None if rows is None else list(rows.layout),
        }

    @classmethod
    def agreed(
        cls,
        facts: Mapping[str, Any],
        *,
        vocab_size: int | None,
        table: npt.NDArray[np.int64] | None,
        meter: Meter,
        plan: RowPlan,
    ) -> BatchWatch:
        """Begin with `facts` that ranks have agreed on."""
        first, rows, length = facts["first_tokens"], facts["rows"], facts["passages"]
        state = {
            "first_tokens": None if first is None else FirstTokens(Layout(*first["layout"]), first["begin_id"]).state(),
            "tokens": facts["tokens"],
            "passages": None if length is None else PassageAudit(length).state(),
            "filler": None,
            "rows": None if rows is None else Rows(RowLayout(*rows), meter, plan).state(),
        }
        return cls.resumed(state, vocab_size=vocab_size, table=table, meter=meter, plan=plan)

    def among(self, ranks: int) -> None:
        """Say of how many data-parallel ranks the sums come that are put into columns."""
        if self._first_tokens is not None:
            self._first_tokens.ranks = ranks

    def take_share(self) -> dict[str, Any]:
        """Hand over what is counted beside the sums, in the values of JSON, for the rank that keeps the book."""
        audit, rows = self._audit, self.rows
        return {
            "passages": [0, 0] if audit is None else audit.take_counts(),
            "lengths": [] if rows is None else sorted(rows.lengths),
        }

    def add_share(self, share: Mapping[str, Any]) -> None:
        """Take in what another rank handed over."""
        if self._audit is not None:
            self._audit.add_counts(share["passages"])
        if self.rows is not None:
            self.rows.lengths.update(share["lengths"])

    @property
    def last_targets(self) -> list[int] | None:
        """The last target of each row of the last micro-batch; waits for the device."""
        return None if self._first_tokens is None else self._first_tokens.last

    def go_on_after(self, last: Sequence[int] | None, device: torch.device) -> None:
        """Say what `last_targets` were where this rank goes on."""
        if self._first_tokens is not None:
            self._first_tokens.go_on_after(last, device)

    @property
    def sampled_below(self) -> int:
        """Hashes of passages, from 0 to 2**64, that are sampled; smaller as more of them are known."""
        return 2**64 if self._audit is None else self._audit.limit

    @staticmethod
    def thinned(seen: Sequence[Seen], below: int) -> list[Seen]:
        """The same without hashes of passages that are not sampled by a rank which knows of more."""
        return [one._replace(samples=[value for value in one.samples if value + 2**63 < below]) for one in seen]

    @property
    def tells_replay(self) -> bool:
        """Whether replay is known by the rows themselves, whatever the number of the epoch."""
        return self.rows is not None and self.rows.tells_replay

    def observe(self, batch: Any, pieces: Sequence[Piece]) -> None:
        """Take in one micro-batch and what its loss calls covered; does not wait for the device."""
        if not any(tensor.numel() for tensor in integer_tensors(batch)):  # an empty batch
            return
        self._batches += 1
        if self.rows is not None:
            self._queue.add(self.rows.fed(batch, pieces))
        elif self._first_tokens is not None or self._audit is not None:
            self._queue.add(Fed(tensors(batch), None, None, None, None, None))

    def take(self) -> int:
        """Say how many micro-batches came since the last call."""
        batches, self._batches = self._batches, 0
        return batches

    def read(self) -> list[Seen]:
        """What all micro-batches showed that were not read yet, one by one; waits for the device."""
        self._queue.flush()
        looked, self._looked = self._looked, []
        return [seen for some in looked for seen in some.on_host()]

    def in_columns(self, tally: Tally, seen: Sequence[Seen], *, replay: bool) -> Columns:
        """Put every position into its column.

        First tokens are charged by the uniform code, empty slots left out, padding told from side information, rows
        that came before moved to the replay column, and passages remembered.

        Args:
            tally: Sums of the interval.
            seen: What its micro-batches showed.
            replay: Whether all of it is replay, by the number of its epoch.
        """
        by_number = replay and not self.tells_replay
        rows = [one.rows for one in seen if one.rows is not None]
        split = self.rows.split(rows, by_number=by_number) if self.rows is not None else RowSplit()
        if self._audit is not None and not by_number:
            self._audit.count([sample for one in seen for sample in one.samples])
        counts = [sum(column) for column in zip(*(one.first_tokens or () for one in seen), strict=True)]
        tally = self._masks_told(tally, counts, [one.padding for one in seen if one.padding is not None])
        if by_number:
            return Columns(tally.as_replay(), split.sources, {})
        tally = split.moved(tally)
        if self._first_tokens is not None and counts:
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

    def _masks_told(self, tally: Tally, counts: Sequence[int], padding: Sequence[int]) -> Tally:
        masked = tally.masked_tokens
        if self._first_tokens is not None and counts:
            masked -= self._first_tokens.empty_slots(counts)
        filled = min(masked, sum(padding))
        return replace(tally, masked_tokens=masked - filled, padding_tokens=filled)

    def _look(self, fed: Fed, batches: int) -> None:
        """Look at N micro-batches of one shape; does not wait for the device."""
        integers = [tensor for tensor in fed.tensors if not tensor.is_floating_point() and not tensor.is_complex()]
        by_row = self._first_tokens.look(integers) if self._first_tokens is not None else None
        rows = self.rows.look(fed, by_row) if self.rows is not None else None
        padding = self._padding_of(fed, integers) if fed.targets is not None else None
        self._looked.append(Looked(batches, by_row, padding, self._sampled(integers), rows))

    def _sampled(self, integers: Sequence[Tensor]) -> Tensor | None:
        if self._audit is None or self._tokens is None:
            return None
        rows = integers[self._tokens]
        if rows.dim() < 2 or rows.shape[-1] < self._audit.length:
            return None
        return self._audit.sample(rows.reshape(-1, rows.shape[-1]))

    def _padding_of(self, fed: Fed, integers: Sequence[Tensor]) -> Tensor | None:
        assert fed.targets is not None
        ignored, tokens = fed.targets == fed.ignore_index, None
        if self._first_tokens is not None:
            layout = self._first_tokens.layout
            tokens = integers[layout.inputs]
            ignored = ignored[:, :, :-1] if layout.empty_slot else ignored
            if tokens.dim() != 3 or tokens.shape[1] != ignored.shape[1]:
                return None
        return self._padding.look(None if fed.mask is None else fed.tensors[fed.mask], ignored, tokens)


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
