"""Does the model see what it codes? An audit on request: later tokens are changed, earlier scores must not move.

The training step is run twice on one micro-batch: as it is, and with other tokens from some target of each row on, to
the end of the row, wherever the batch holds them. A causal model gives that target, as it was, and all before it the
same scores both times. The scores after it must move, or the audit has seen nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from prequential.batches import tensors
from prequential.capture.likelihoods import LIKELIHOODS, read_call
from prequential.causality.alignment import Alignment, changed, cut_of, exchanged, find_alignment

# Scores may differ by this much where kernels round differently for other content, in nats a token.
_TOLERANCE_NATS = 1e-2
_NOT_AUDITED = "causality was not audited"


class Finding(NamedTuple):
    """What an audit found.

    Attributes:
        causal: Whether earlier scores stayed as they were; None if that could not be found out.
        message: One sentence on what was found, or on why nothing was; None if the model is causal.
        earlier_nats: By how much an earlier score moved at most; None if the step was not run twice.
        later_nats: By how much a later score moved at most.
    """

    causal: bool | None
    message: str | None
    earlier_nats: float | None = None
    later_nats: float | None = None

    @property
    def blind(self) -> bool:
        """Whether the model looks at no token yet, so that the audit may be worth running again later."""
        return self.causal is None and self.later_nats is not None


class _Call(NamedTuple):
    """One loss call: nats and ids of its targets, which of them count, the argument as given, and V."""

    nats: Tensor
    targets: Tensor
    kept: Tensor
    given: Tensor
    vocab_size: int


class _Scores(TorchFunctionMode):
    """Keeps the nats of every target of the loss calls made while it is active.

    Args:
        before: Calls of an earlier run, whose targets are scored in place of those of this one.
    """

    def __init__(self, before: Sequence[_Call] | None = None) -> None:
        super().__init__()
        self._before = before
        self.calls: list[_Call] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = dict(kwargs or {})
        if func in LIKELIHOODS:
            self._score(func, dict(zip(LIKELIHOODS[func][1], args, strict=False)) | keywords)
        return func(*args, **keywords)

    def _score(self, func: Callable[..., Any], call: dict[str, Any]) -> None:
        if self._before is not None and len(self.calls) < len(self._before):
            call["target"] = self._before[len(self.calls)].given
        call["reduction"] = "none"
        scored = read_call(func, (), call)(func(**call))
        if scored is not None:
            kept = (scored.targets != scored.ignore_index) & (scored.targets >= 0)
            self.calls.append(_Call(scored.nats, scored.targets, kept, call["target"], scored.vocab_size))


def audited(step: Callable[[Any], Any], batch: Any) -> Finding:
    """Run the audit on one micro-batch.

    Args:
        step: Runs the training step on a batch; called twice. It must leave nothing behind, random states included.
        batch: The micro-batch, as tensors in lists, tuples or mappings.

    Returns:
        A `Finding`; its message is None if the model is causal.
    """
    before, leaves = _scored(step, batch, None), tensors(batch)
    rows = find_alignment(leaves, [call.targets for call in before], [call.kept for call in before])
    if rows is None:
        return Finding(None, f"{_NOT_AUDITED}: the batch does not show where its rows and their targets stand")
    kept = rows.of([call.kept for call in before])
    cut = cut_of(kept)
    symbols = before[0].vocab_size
    changes = {id(leaves[place]): changed(leaves[place], cut - shift, symbols) for place, shift in rows.shifts.items()}
    after = _scored(step, exchanged(batch, changes), before)
    if [call.nats.shape for call in after] != [call.nats.shape for call in before]:
        return Finding(None, f"{_NOT_AUDITED}: other targets are scored when later tokens change")
    scores, moved = (rows.of([call.nats for call in calls]).double() for calls in (before, after))
    if not bool(torch.isfinite(torch.stack([scores, moved])).all()):
        return Finding(None, f"{_NOT_AUDITED}: not all scores are finite")
    earlier = torch.arange(kept.shape[1], device=kept.device) <= cut.unsqueeze(1)
    difference = (moved - scores).abs()
    told = _tells(rows, scores[kept])
    return _finding(_largest(difference[earlier]), _largest(difference[~earlier]), told=told)


def _finding(earlier_nats: float, later_nats: float, *, told: bool) -> Finding:
    if earlier_nats > _TOLERANCE_NATS:
        message = (
            f"earlier scores moved by up to {earlier_nats:.3g} nats when later tokens of the row were changed: the "
            "model sees what it codes, so that its loss is no code length"
        )
        return Finding(False, message, earlier_nats, later_nats)
    if later_nats <= _TOLERANCE_NATS and not told:
        message = f"{_NOT_AUDITED}: no score moved when tokens were changed, not even later ones"
        return Finding(None, message, earlier_nats, later_nats)
    return Finding(True, None, earlier_nats, later_nats)


def _scored(step: Callable[[Any], Any], batch: Any, before: Sequence[_Call] | None) -> list[_Call]:
    """Loss calls of one run of the step; compiled modules run as they were written."""
    scores = _Scores(before)
    with torch.no_grad(), _eager(), scores:
        step(batch)
    return scores.calls


def _eager() -> AbstractContextManager[Any]:
    """A list cannot be filled from inside a graph."""
    set_stance = getattr(torch.compiler, "set_stance", None)  # new in torch 2.6
    return nullcontext() if set_stance is None else set_stance("force_eager")


def _tells(rows: Alignment, scores: Tensor) -> bool:
    """Whether it says something that no score moves at all.

    It does where the batch shows no token before its target (labels of pictures), and the scores are not all one
    (those of a head that begins with zeros).
    """
    return min(rows.shifts.values()) >= 0 and float(scores.max() - scores.min()) > _TOLERANCE_NATS


def _largest(differences: Tensor) -> float:
    return float(differences.max()) if differences.numel() else 0.0
