"""The loss calls of a training step as a coder needs them: logits and targets, flat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from prequential.capture.likelihoods import LIKELIHOODS
from prequential.errors import MeasureError

_CODED = (F.cross_entropy, F.nll_loss)


class Scores(NamedTuple):
    """One loss call: logits of shape (n, V), and its targets, shape (n,), -1 where the loss ignores one."""

    logits: Tensor
    targets: Tensor


class LossCalls(TorchFunctionMode):
    """Hands every cross-entropy that is computed while it is active to a function, and lists names of other losses.

    Args:
        take: Called with the scores of each call, before it is computed.
    """

    def __init__(self, take: Callable[[Scores], None]) -> None:
        super().__init__()
        self._take = take
        self.others: list[str] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in LIKELIHOODS and not torch.compiler.is_compiling():
            with torch.no_grad():
                self._see(func, dict(zip(LIKELIHOODS[func][1], args, strict=False)) | dict(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _see(self, func: Callable[..., Any], call: Mapping[str, Any]) -> None:
        given, targets = call["input"].detach(), call["target"].detach()
        if func not in _CODED or targets.is_floating_point():
            self.others.append(func.__name__)
            return
        logits = given.movedim(1, -1) if given.dim() > 2 else given
        ignored = call.get("ignore_index")
        wanted = torch.where(targets == (-100 if ignored is None else ignored), -1, targets)
        self._take(Scores(logits.reshape(-1, logits.shape[-1]), wanted.reshape(-1)))


def all_calls(step: Callable[[], Any]) -> list[Scores]:
    """Run a step and keep the scores of its loss calls.

    Raises:
        MeasureError: There are none, or some that cannot be coded.
    """
    calls: list[Scores] = []
    mode = LossCalls(calls.append)
    with mode:
        step()
    check_calls(calls, mode.others)
    return calls


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
