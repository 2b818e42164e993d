"""The functions of torch's C library behind its losses, wrapped while a training step runs.

A function mode sees every call of torch from Python, at some microseconds each, and a step makes hundreds of them. A
loss by any name comes down to one of a few functions, which are looked up by name when it is called: where the first
micro-batch showed that this is all a script uses, they are wrapped instead, and nothing else is touched.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch

_REDUCTIONS = ("none", "mean", "sum")
# Module, name, name of the function of `torch.nn.functional`, and its arguments in their order.
_LOSSES: tuple[tuple[Any, str, str, tuple[str, ...]], ...] = (
    (
        torch._C._nn,
        "cross_entropy_loss",
        "cross_entropy",
        ("input", "target", "weight", "reduction", "ignore_index", "label_smoothing"),
    ),
    (torch._C._nn, "nll_loss_nd", "nll_loss", ("input", "target", "weight", "reduction", "ignore_index")),
    (torch._C._nn, "binary_cross_entropy", "binary_cross_entropy", ("input", "target", "weight", "reduction")),
    (
        torch,
        "binary_cross_entropy_with_logits",
        "binary_cross_entropy_with_logits",
        ("input", "target", "weight", "pos_weight", "reduction"),
    ),
)
# Where gradients are computed, whichever function asked for them.
_GRADIENTS = (torch.autograd, "_engine_run_backward")
_THERE = all(hasattr(module, name) for module, name, *_ in _LOSSES) and hasattr(*_GRADIENTS)
_BEHIND = frozenset(function for _, _, function, _ in _LOSSES)


def suffice(names: set[str]) -> bool:
    """Whether losses of these names, and no others, come down to the functions here, and nothing was compiled so far.

    Args:
        names: Names of functions of `torch.nn.functional`.
    """
    return _THERE and bool(names) and names <= _BEHIND and not _compiled()


class Entrances:
    """Shows every call of the functions behind the losses, between `begin` and `end`, in the thread that began.

    Args:
        see: Called with the name of the loss, its result, and its arguments by name.
        learning: Makes a context in which gradients are computed; losses inside are computed again, and not shown.

    Attributes:
        compiled: Whether a call was compiled, which cannot be seen here.
    """

    def __init__(
        self, see: Callable[[str, Any, Mapping[str, Any]], None], learning: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._see, self._learning = see, learning
        self._within = False  # gradients are being computed, or a call is being read
        self.compiled = False

    def begin(self) -> None:
        """Watch the functions; wrap them, unless another thread has."""
        with _LOCK:
            if not _ACTIVE:
                _wrap()
            _ACTIVE.setdefault(threading.get_ident(), []).append(self)

    def end(self) -> None:
        """Watch no more; the last one leaves the functions as they were."""
        with _LOCK:
            mine = _ACTIVE[threading.get_ident()]
            mine.remove(self)
            if not mine:
                del _ACTIVE[threading.get_ident()]
            if not _ACTIVE:
                _unwrap()

    def show(self, name: str, result: Any, call: Mapping[str, Any]) -> None:
        """Show a call."""
        if self._within:
            return
        self._within = True
        try:
            self._see(name, result, call)
        finally:
            self._within = False

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Gradients are computed inside."""
        if self._within:
            yield
            return
        self._within = True
        try:
            with self._learning():
                yield
        finally:
            self._within = False


_LOCK = threading.Lock()
_ACTIVE: dict[int, list[Entrances]] = {}  # by thread
_before: list[tuple[Any, str, Any]] = []


def _wrap() -> None:
    for module, name, function, names in _LOSSES:
        _put(module, name, _loss(getattr(module, name), function, names))
    _put(*_GRADIENTS, _gradients(getattr(*_GRADIENTS)))


def _put(module: Any, name: str, wrapper: Callable[..., Any]) -> None:
    _before.append((module, name, getattr(module, name)))
    setattr(module, name, wrapper)


def _unwrap() -> None:
    while _before:
        setattr(*_before.pop())


def _loss(function: Callable[..., Any], name: str, names: tuple[str, ...]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        watching = _ACTIVE.get(threading.get_ident(), ())
        if watching and (torch.compiler.is_compiling() or type(result).__name__ == "FakeTensor"):
            for one in watching:
                one.compiled = True
        elif watching:
            call = dict(zip(names, args, strict=False)) | kwargs
            call["reduction"] = _REDUCTIONS[call.get("reduction", 1)]
            for one in watching:
                one.show(name, result, call)
        return result

    return wrapper


def _gradients(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for one in _ACTIVE.get(threading.get_ident(), ()):
                stack.enter_context(one.learning())
            return function(*args, **kwargs)

    return wrapper


def _compiled() -> bool:
    """Whether torch's compiler has looked at any function in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo is not None and bool(dynamo.counters["frames"])
