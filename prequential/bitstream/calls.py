"""The loss calls of a training step as a coder needs them: logits and targets, flat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from prequential.capture.likelihoods import LIKELIHOODS, named
from prequential.errors import MeasureError

_CODED = ("cross_entropy", "nll_loss")


class Scores(NamedTuple):
    """One loss call: logits of shape (n, V), and its targets, shape (n,), -1 where the loss ignores one."""

    logits: Tensor
    targets: Tensor


class LossCalls(TorchFunctionMode):
    """Keeps the scores of every cross-entropy that is computed while it is active, and lists names of other losses."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Scores] = []
        self.others: list[str] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in LIKELIHOODS and not torch.compiler.is_compiling():
            scores = scores_of(func.__name__, named(func, args, kwargs or {}))
            if scores is None:
                self.others.append(func.__name__)
            else:
                self.calls.append(scores)
        return func(*args, **(kwargs or {}))


def scores_of(name: str, call: Mapping[str, Any]) -> Scores | None:
    """Read a loss call; None where it is none that can be coded.

    Args:
        name: Of a function of `LIKELIHOODS`.
        call: Its arguments by name.
    """
    with torch._C.DisableTorchFunction():  # what watches loss calls need not see how they are read
        given, targets = call["input"].detach(), call["target"].detach()
        if name not in _CODED or targets.is_floating_point():
            return None
        logits = given.movedim(1, -1) if given.dim() > 2 else given
        ignored = call.get("ignore_index")
        wanted = torch.where(targets == (-100 if ignored is None else ignored), -1, targets)
        return Scores(logits.reshape(-1, logits.shape[-1]), wanted.reshape(-1))


def all_calls(step: Callable[[], Any]) -> list[Scores]:
    """Run a step and keep the scores of its loss calls.

    Raises:
        MeasureError: There are none, or some that cannot be coded.
    """
    seen = LossCalls()
    with seen:
        step()
    check_calls(seen.calls, seen.others)
    return seen.calls


def check_calls(calls: Sequence[Scores], others: Sequence[str]) -> None:
    """Refuse a step whose losses cannot be coded.

    Raises:
        MeasureError: It computes no cross-entropy that is seen, or others beside it, or over several vocabularies.
    """
    if others or not calls:
        seen = f"calls of {', '.join(others)}" if others else "none (is it compiled or fused with its loss?)"
        raise MeasureError(
            "expected a training step that calls torch.nn.functional.cross_entropy or nll_loss on integer targets, for "
            f"a bitstream, saw {seen}: compute the loss by it, outside of torch.compile, or leave bitstream out"
        )
    sizes = {call.logits.shape[1] for call in calls}
    if len(sizes) > 1:
        raise MeasureError(
            f"expected one loss term, for a bitstream, saw vocabularies of {sorted(sizes)}: leave bitstream out"
        )
