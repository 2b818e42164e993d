"""Finding the exact -log p of every target inside a training step that knows nothing of it.

`LossTap` watches the calls of torch's losses that are likelihoods (`prequential.likelihoods`), by functions or by
modules, while it is active and adds their nats to a meter. It changes no result. Its state is tensors updated in
place, so that it works inside ``torch.compile`` without a graph break; a Python counter there would be guarded on and
compiled again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from prequential.errors import MeasureError
from prequential.likelihoods import LIKELIHOODS, read_call
from prequential.meter import Meter


class Call(NamedTuple):
    """A loss call as it was seen: for messages, and to tell the chunks of one loss from several losses.

    Attributes:
        name: Name of the function.
        shape: Shape of its first argument.
        vocab_size: Number of symbols V; None where the call could not be turned into a code length.
    """

    name: str
    shape: tuple[int, ...]
    vocab_size: int | None

    def __str__(self) -> str:
        return f"{self.name} on {self.shape}"


class LossTap(TorchFunctionMode):
    """Adds the nats of every likelihood computed while it is active to a meter.

    The nats are those of the plain model: class weights and label smoothing are undone by scoring the targets again,
    and so is the rounding of a half-precision loss. A plain float32 cross-entropy is taken as it is, a mean times its
    count: its rounding is about 1e-7 of the nats of that call, and 1e-7 nats a target where the model is very sure.

    Attributes:
        calls: Loss calls seen while not compiling, as long as ``listing`` is true.
        listing: Whether calls are listed.
    """

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter
        self.calls: list[Call] = []
        self.listing = True
        self._failed = 0

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for _ in range(self._failed):
            self.meter.not_understood()
        self._failed = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func not in LIKELIHOODS:  # dozens of calls a step come through here: nothing else may happen to them
            return func(*args, **kwargs) if kwargs else func(*args)
        keywords = dict(kwargs or {})
        result = func(*args, **keywords)
        if torch.compiler.is_compiling():  # a list or a handler would break the graph
            self._add(func, result, args, keywords)
            return result
        vocab_size = self._add_harmlessly(func, result, args, keywords)
        if self.listing:
            shape = tuple(getattr(args[0] if args else keywords.get("input"), "shape", ()))
            self.calls.append(Call(func.__name__, shape, vocab_size))
        return result

    def _add_harmlessly(self, *call: Any) -> int | None:
        """Let no failure of the meter (under `torch.func.vmap`, with a tensor subclass) into the training step."""
        try:
            return self._add(*call)
        except Exception:
            self._failed += 1  # under `torch.func.grad` not even this can be added to the meter: see `__exit__`
            return None

    @torch.no_grad()
    def _add(
        self, func: Callable[..., Any], result: Tensor, args: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> int | None:
        scored = read_call(func, result, args, keywords)
        if scored is None:
            self.meter.not_understood()
            return None
        nats, targets, vocab_size, ignore_index, mean, doubtful, score_each = scored
        by_target = self.meter.by_target and not torch.compiler.is_compiling() and nats.numel() != targets.numel()
        each = score_each() if by_target and score_each is not None else None
        if doubtful is not None:  # known on the device only, where the call is then taken out again
            self.meter.not_understood(doubtful)
            nats, targets = torch.where(doubtful, 0.0, nats), torch.where(doubtful, ignore_index, targets)
        self.meter.add(nats, targets, vocab_size=vocab_size, ignore_index=ignore_index, mean=mean, each=each)
        return vocab_size


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
