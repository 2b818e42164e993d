"""Finding the exact -log p of every target inside a training step that knows nothing of it.

`LossTap` watches the calls of `torch.nn.functional.cross_entropy` (and so of `torch.nn.CrossEntropyLoss`) while it is
active and adds their nats to a meter. It changes no result. Its state is tensors updated in place, so that it works
inside ``torch.compile`` without a graph break; a Python counter there would be guarded on and compiled again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from prequential.errors import MeasureError
from prequential.meter import Meter, nats_per_token

_CROSS_ENTROPY_ARGUMENTS = (
    "input",
    "target",
    "weight",
    "size_average",
    "ignore_index",
    "reduce",
    "reduction",
    "label_smoothing",
)
# Losses that are likelihoods; the tap turns the first into a code length, and says so where it meets another.
_LIKELIHOODS = {
    getattr(F, name)
    for name in (
        "cross_entropy",
        "nll_loss",
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
        "linear_cross_entropy",
    )
    if hasattr(F, name)  # the last one is new in torch 2.13
}


class LossTap(TorchFunctionMode):
    """Adds the nats of every cross-entropy call made while it is active to a meter.

    The nats are those of the plain softmax: class weights and label smoothing are undone by scoring the logits again,
    and so is the rounding of a half-precision loss. A plain float32 mean is taken as it is, times its count: its
    rounding is at most 6e-8 of the nats of that call.

    Attributes:
        calls: Loss calls seen while not compiling, as text for messages: name and shape of the input.
    """

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter
        self.calls: list[str] = []
        self.listing = True

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func not in _LIKELIHOODS:  # dozens of calls a step come through here: nothing else may happen to them
            return func(*args, **kwargs) if kwargs else func(*args)
        keywords = dict(kwargs or {})
        result = func(*args, **keywords)
        self._list(func, args, keywords)
        if func is F.cross_entropy:
            call = dict(zip(_CROSS_ENTROPY_ARGUMENTS, args, strict=False)) | keywords
            if torch.compiler.is_compiling():  # a handler would break the graph
                self._add(result, call)
            else:
                self._add_harmlessly(result, call)
        else:
            self.meter.not_understood()
        return result

    def _list(self, func: Callable[..., Any], args: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        if self.listing and not torch.compiler.is_compiling():
            shape = tuple(getattr(args[0] if args else keywords.get("input"), "shape", ()))
            self.calls.append(f"{func.__name__} on {shape}")

    def _add_harmlessly(self, result: Tensor, call: Mapping[str, Any]) -> None:
        """Let no failure of the meter (under `torch.func.vmap`, with a tensor subclass) into the training step."""
        try:
            self._add(result, call)
        except Exception:
            self.meter.not_understood()

    @torch.no_grad()
    def _add(self, result: Tensor, call: Mapping[str, Any]) -> None:
        logits, targets = call["input"], call["target"]
        if targets.is_floating_point():  # probabilities as targets have no code length
            self.meter.not_understood()
            return
        ignore_index = -100 if call.get("ignore_index") is None else call["ignore_index"]
        reduction = call.get("reduction", "mean")
        plain = (
            call.get("weight") is None
            and not call.get("label_smoothing")
            and call.get("size_average") is None
            and call.get("reduce") is None
            and result.dtype in (torch.float32, torch.float64)
        )
        nats = result if plain else nats_per_token(logits, targets, ignore_index=ignore_index)
        vocab_size = logits.shape[1] if logits.dim() > 1 else logits.shape[0]
        mean = plain and reduction == "mean"
        self.meter.add(nats, targets, vocab_size=vocab_size, ignore_index=ignore_index, mean=mean)


class Declared(NamedTuple):
    """Sums that a training step, or a ``measure`` callable, states itself."""

    nats: Tensor | float
    tokens: Tensor | int
    raw_bytes: Tensor | int | None
    targets: Tensor | None


def declared(outputs: Any) -> Declared | None:
    """Read ``{"nats", "tokens"}`` (and, if there, ``"bytes"`` or ``"targets"``) from what a training step returned.

    Returns:
        The sums, or None where the outputs do not declare any.

    Raises:
        MeasureError: Only one of the two is there, or they are no scalars.
    """
    if not isinstance(outputs, Mapping) or not {"nats", "tokens"} & set(outputs):
        return None
    if not {"nats", "tokens"} <= set(outputs):
        raise MeasureError(
            f"expected 'nats' and 'tokens' in what training_step returns, got only {sorted(map(str, outputs))}: "
            "return the summed -ln p in nats and the number of tokens it covers"
        )
    nats, tokens = outputs["nats"], outputs["tokens"]
    for name, value in (("nats", nats), ("tokens", tokens)):
        if isinstance(value, Tensor) and value.numel() != 1:
            raise MeasureError(
                f"expected one number as {name!r}, got a tensor of shape {tuple(value.shape)}: return the sum"
            )
    return Declared(nats, tokens, outputs.get("bytes"), outputs.get("targets"))


def integer_tensors(batch: Any) -> list[Tensor]:
    """All integer tensors in a batch: nested lists, tuples and mappings are searched."""
    return [leaf for leaf in tensors(batch) if not leaf.is_floating_point() and not leaf.is_complex()]


def tensors(batch: Any) -> list[Tensor]:
    """All tensors in a batch, in the order in which they stand there."""
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, Mapping):
        return [leaf for value in batch.values() for leaf in tensors(value)]
    if isinstance(batch, (list, tuple)):
        return [leaf for value in batch for leaf in tensors(value)]
    return []
