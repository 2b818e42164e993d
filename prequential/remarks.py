"""What a reader of the book should know of its sums: one word for programs and one sentence for people, each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prequential.codelength import Tally
from prequential.meter import Reading

# A returned loss further from the captured nats per token than this, relatively, is no plain likelihood. In half
# precision both the log-probabilities and their mean are rounded: 1 % was seen.
_TOLERANCE = 1e-3
_TOLERANCE_HALF = 3e-2
# What is returned in float32 was only added up in float32.
_TOLERANCE_EXACT = 1e-5
SCORED_AFTER_UPDATE = (
    "a step computed its loss after it had updated the weights: the model may have learnt from what it scored, "
    "which is no code"
)
NO_ROWS = (
    "the first batch does not show its rows: no tensor of it holds the targets, so that neither sources nor positions "
    "of rows can be followed"
)
MARK_MASKED = "mark targets that do not count with ignore_index (-100)"


def remarks_on(reading: Reading, step: int, vocab_size: int | None) -> list[tuple[str, str]]:
    """Events and messages for what an interval's reading shows, beside its sums.

    Args:
        reading: What the meter held.
        step: The last optimiser step of the interval.
        vocab_size: Number of symbols V, or None.
    """
    remarks = []
    if reading.tally.nonfinite_tokens:
        charge = "by the uniform code" if vocab_size else "with nothing, since V is unknown"
        message = f"{reading.tally.nonfinite_tokens:,} tokens had an infinite or NaN code length by step {step}"
        remarks.append((f"nonfinite at {step}", f"{message}: they are charged {charge}"))
    if reading.calls == 0:
        message = f"no code length was seen in the steps up to {step}: they are missing from the sums"
        remarks.append(("missed", message))
    if reading.not_understood:
        message = f"loss calls by step {step} could not be turned into a code length"
        remarks.append(("not_understood", message))
    return remarks


def returned_loss(outputs: Any) -> Tensor | None:
    """The scalar loss in what a training step returned, detached; None if there is none."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return loss.detach() if isinstance(loss, Tensor) and loss.numel() == 1 else None


def not_likelihood(loss: Tensor, tally: Tally, step: int, *, masks: bool = False) -> str | None:
    """Say by how much a returned loss is something else than the mean or the sum of the nats of its micro-batch.

    Args:
        loss: The returned loss, on any device.
        tally: What was captured in the same micro-batch.
        step: The optimiser step, for the message.
        masks: Whether the difference may be a mask or weights of the script's own.

    Returns:
        One sentence, or None where they agree or there is nothing to compare.
    """
    if not tally.coded_tokens or not tally.nats or tally.nonfinite_tokens:
        return None
    mean = tally.nats / tally.coded_tokens
    if is_one_of(loss, (mean, tally.nats)):
        return None
    apart = f"step {step} returned a loss of {float(loss):.4f}, its code length is {mean:.4f} nats a token:"
    if masks:
        return (
            f"{apart} it masks or weights the losses of its targets itself, which of them is not known; {MARK_MASKED}"
        )
    return (
        f"{apart} the difference (label smoothing, weights, auxiliary terms, scaling) is not likelihood and not counted"
    )


def is_one_of(loss: Tensor, values: Iterable[float], *, exactly: bool = False) -> bool:
    """Whether a returned loss is one of these values, but for its rounding; ``exactly`` allows that of float32 only."""
    tolerance = _TOLERANCE_EXACT if exactly else _TOLERANCE
    if loss.dtype in (torch.float16, torch.bfloat16):
        tolerance = _TOLERANCE_HALF
    return any(abs(float(loss) - value) <= tolerance * abs(value) for value in values)


def uncovered(positions: int, expected: Sequence[int], step: int) -> str | None:
    """Say that the loss did not cover the targets of the batches as it did in the first.

    Args:
        positions: Target positions that were seen in an interval.
        expected: What the tensors of its batches hold, a number for each tensor that it may be; empty if unknown.
        step: The last optimiser step of the interval.
    """
    if not expected or positions in expected:
        return None
    return (
        f"the loss covered {positions:,} target positions in the steps up to {step}, whose batches hold "
        f"{expected[0]:,}: some were scored by a call that is not seen, twice, or not at all"
    )


def fed_again(step: int, batches: int) -> str:
    """Say that a run which was resumed in the middle of an epoch is no single pass, and what to do.

    Args:
        step: The optimiser step at which it was resumed.
        batches: Micro-batches of the epoch before it.
    """
    return (
        f"resumed at step {step:,}, {batches:,} batches into an epoch, by a loader that started over: it feeds rows "
        "again, which is replay, and never gets to its end; use a loader with state_dict and load_state_dict, such as "
        "StatefulDataLoader of torchdata"
    )


def stopped_before(failure: str) -> str:
    """Say that sums are missing, since the recording had stopped before the checkpoint of a resume."""
    return (
        f"the recording had stopped before the checkpoint from which the run was resumed ({failure}): the steps "
        "between are missing from the sums"
    )


def missing_ranks(places: Sequence[int], step: int) -> str:
    """Say that the last sums of a run are missing, since not every rank sent its own."""
    return (
        f"the run ended before all ranks had sent what they saw since step {step:,} (missing: {listed_ranks(places)}): "
        "these sums are missing, of all ranks"
    )


def listed_ranks(places: Sequence[int]) -> str:
    """Name some ranks."""
    shown = ", ".join(map(str, places[:8])) + (", ..." if len(places) > 8 else "")
    return f"rank {shown}" if len(places) == 1 else f"ranks {shown}"
