"""Running a training step once more than the script asked for, and leaving nothing of it behind.

What is put back: the random states of torch (on all devices in use), numpy and Python; the training flags, buffers and
attributes of every submodule, with the content of plain lists, dicts and sets; `LightningModule.log` is muted. There
are no gradients and no graph. What a step does outside of its module (a file, a global, a print) cannot be undone;
weights are not copied, a step that changes them is refused.
"""

from __future__ import annotations

import copy
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prequential.errors import MeasureError

_Undo = Callable[[], Any]

# What every module has before its author added to it: hooks, parameters and submodules, which no step exchanges.
_PLUMBING = frozenset(vars(nn.Module()))


@contextmanager
def rehearsal(module: nn.Module, *, evaluating: bool = False) -> Iterator[None]:
    """Undo what is done to a module, and to random states, inside.

    Args:
        module: The module whose training step is run.
        evaluating: Whether it is run in evaluation mode.

    Raises:
        MeasureError: The step changed weights, which is learning, and cannot be undone.
    """
    versions = _versions(module)
    undo = [*_random_states(), *(restore for part in module.modules() for restore in _states(part))]
    vars(module)["log"] = lambda *ignored, **options: None
    if evaluating:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for restore in reversed(undo):
            restore()
    if _versions(module) != versions:
        raise MeasureError(
            "expected a training step that leaves its weights alone, got one that changes them: it cannot be run an "
            "extra time, leave rescore and audit out"
        )


def _versions(module: nn.Module) -> list[int]:
    """How often each weight was written to: torch counts it, but for writes through ``.data``; nothing is read."""
    return [weight._version for weight in module.parameters()]


def _random_states() -> Iterator[_Undo]:
    python, numpy = random.getstate(), np.random.get_state()
    yield lambda: random.setstate(python)
    yield lambda: np.random.set_state(numpy)
    for generator in _generators():
        yield _kept_generator(generator)
    if torch.backends.mps.is_available():
        mps = torch.mps.get_rng_state()
        yield lambda: torch.mps.set_rng_state(mps)


def _generators() -> list[torch.Generator]:
    """The generators that torch itself draws from; a device that was not touched yet has none to keep."""
    return [torch.default_generator, *torch.cuda.default_generators]


def _states(part: nn.Module) -> Iterator[_Undo]:
    """What undoes changes to one submodule, its children left out."""
    training, variables, buffers = part.training, vars(part), part._buffers
    for _, tensor in part.named_buffers(recurse=False):
        yield _kept_tensor(tensor)
    for name, value in variables.items():
        if name not in _PLUMBING and type(value) in _KEEPERS:
            yield _KEEPERS[type(value)](value)
    yield _kept_bindings(variables)
    if isinstance(buffers, dict):  # not where TorchScript keeps them
        yield _kept_bindings(buffers)
    yield lambda: setattr(part, "training", training)


def _kept_bindings(names: dict[str, Any]) -> _Undo:
    """Put names back to what they stood for; a name that is as it was is not touched."""
    kept = dict(names)

    def restore() -> None:
        for name in set(names) - set(kept):
            del names[name]
        names.update({name: value for name, value in kept.items() if names.get(name) is not value})

    return restore


def _kept_tensor(tensor: Tensor) -> _Undo:
    """Copy a tensor back: always, since batch normalisation writes to its statistics without counting a version."""
    if tensor.is_inference():  # nothing can write to it
        return lambda: None
    kept = tensor.detach().clone()
    # Through `data`, which counts no version either: a graph that holds the tensor can still be run backwards.
    return lambda: tensor.data.copy_(kept)


def _kept_list(values: Any) -> _Undo:
    kept = copy.copy(values)

    def restore() -> None:
        values.clear()
        values.extend(kept)

    return restore


def _kept_mapping(values: Any) -> _Undo:
    kept = copy.copy(values)

    def restore() -> None:
        values.clear()
        values.update(kept)

    return restore


def _kept_generator(generator: torch.Generator) -> _Undo:
    state = generator.get_state()
    return lambda: generator.set_state(state)


def _kept_random(generator: random.Random) -> _Undo:
    state = generator.getstate()
    return lambda: generator.setstate(state)


def _kept_numpy(generator: np.random.Generator) -> _Undo:
    bits = generator.bit_generator
    state = copy.deepcopy(bits.state)
    return lambda: setattr(bits, "state", state)


_KEEPERS: dict[type, Callable[[Any], _Undo]] = {
    Tensor: _kept_tensor,
    **dict.fromkeys((list, deque), _kept_list),
    **dict.fromkeys((dict, OrderedDict, defaultdict, Counter, set), _kept_mapping),
    torch.Generator: _kept_generator,
    random.Random: _kept_random,
    np.random.Generator: _kept_numpy,
}
