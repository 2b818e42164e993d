"""Losses of Liger and of Apple's cut-cross-entropy, which never form logits, or write over them.

They are `torch.autograd.Function` objects, whose ``apply`` no function mode sees: it is wrapped while a training step
runs, where the package was imported by the script; nothing is imported here. Their own result is taken, where it is
-log p: an argument that makes it something else, or that is not known here, makes the call one without a code length.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from prequential.capture.likelihoods import Scored
from prequential.scoring import nats_per_token

_Arguments = Mapping[str, Any]
_Read = Callable[[Tensor], "Scored | None"]
_Reader = Callable[[_Arguments], "tuple[set[str], _Read]"]

# Arguments that leave the loss what it is, or that the readers below take into account; any other must be off.
_LIGER = {"_input", "target", "ignore_index", "reduction", "softcap", "return_z_loss", "return_token_accuracy"}
_LIGER |= {"return_predicted_tokens", "accum_dtype", "chunk_mem_const", "ce_impl", "ce_mode"}
_CUT = {"e", "c", "bias", "targets", "valids", "softcap", "reduction", "filter_eps", "shift", "batch_shape"}
_CUT |= {"ignore_index", "use_kahan", "accum_e_fp32", "accum_c_fp32", "filter_e_grad", "filter_c_grad"}


class FusedLosses:
    """Shows every call of the fused losses, between `begin` and `end`.

    Args:
        see: Called with name, first argument, result, and how to read that (`LossTap.see`).
    """

    def __init__(self, see: Callable[[str, Any, Any, _Read], None]) -> None:
        self._see = see
        self._wrapped: list[Any] = []

    def begin(self) -> None:
        """Wrap those whose package is there."""
        for module, name, reader in _READERS:
            function: Any = getattr(sys.modules.get(module), name, None)
            if function is not None and "apply" not in vars(function):
                function.apply = self._wrapper(name, function, function.apply, reader)
                self._wrapped.append(function)

    def end(self) -> None:
        """Leave them as they were."""
        for function in self._wrapped:
            del function.apply
        self._wrapped = []

    def _wrapper(self, name: str, function: Any, apply: Callable[..., Any], reader: _Reader) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return apply(*args, **kwargs)
            try:  # before the call: Liger writes gradients over the logits
                read, refused = _prepared(function, reader, args, kwargs)
            except Exception as error:
                read, refused = _nothing, f" ({type(error).__name__})"
            result = apply(*args, **kwargs)
            loss = result[0] if isinstance(result, tuple) else result
            self._see(name + refused, args[0] if args else None, loss, read)
            return result

        return wrapper


def _nothing(result: Tensor) -> Scored | None:
    return None


def _prepared(function: Any, reader: _Reader, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[_Read, str]:
    """How to read a call, or in words why it cannot be read; arguments have the names of the installed version."""
    bound = inspect.signature(function.forward).bind(None, *args, **kwargs)
    bound.apply_defaults()
    arguments = dict(list(bound.arguments.items())[1:])  # without ctx
    if "params" in arguments:
        arguments |= vars(arguments.pop("params"))
    known, read = reader(arguments)
    for name, value in arguments.items():
        if name not in known and not _is_off(value):
            return _nothing, f" with {name}" + ("" if isinstance(value, Tensor) else f"={value!r:.40}")
    return read, ""


def _is_off(value: Any) -> bool:
    return not isinstance(value, Tensor) and value in (None, False, 0)


def _liger_linear(call: _Arguments) -> tuple[set[str], _Read]:
    targets, symbols = call["target"].detach(), call["weight"].shape[0]
    return _LIGER | {"weight", "bias"}, lambda result: _taken(call, result, targets, symbols)


def _liger(call: _Arguments) -> tuple[set[str], _Read]:
    """Its logits are there before the call: what it would make of them is undone by scoring them then."""
    logits, targets, softcap = call["_input"].detach(), call["target"].detach(), call.get("softcap")
    undone = {"weight", "label_smoothing", "lse_square_scale"}
    if logits.dtype in (torch.float32, torch.float64) and all(_is_off(call.get(name)) for name in undone):
        return _LIGER | undone, lambda result: _taken(call, result, targets, logits.shape[-1])
    capped = logits if softcap is None else softcap * torch.tanh(logits.float() / softcap)
    nats = nats_per_token(capped, targets, ignore_index=call["ignore_index"])
    scored = Scored(nats, targets, logits.shape[-1], call["ignore_index"])
    return _LIGER | undone, lambda result: scored


def _cut(call: _Arguments) -> tuple[set[str], _Read]:
    """Its targets are flat; ``valids`` are the rows that predict a target that counts, which lies ``shift`` further."""
    kept, valids, shift = call["targets"].detach().long(), call["valids"], int(call["shift"])
    if valids is not None:
        places = valids.detach().long() + shift
        kept = torch.full_like(kept, -100).index_copy(0, places, kept[places])
    kept = kept.reshape(call["batch_shape"])[..., shift:]

    def read(result: Tensor) -> Scored | None:
        aligned = result[..., shift:] if result.dim() else result
        return _taken({**call, "ignore_index": -100}, aligned, kept, call["c"].shape[0])

    return _CUT, read


def _taken(call: _Arguments, result: Tensor, targets: Tensor, vocab_size: int) -> Scored | None:
    """The function's own result, where it was not rounded to half precision."""
    if result.dtype not in (torch.float32, torch.float64) or call["reduction"] not in ("mean", "sum", "none"):
        return None
    return Scored(result, targets, vocab_size, call["ignore_index"], call["reduction"] == "mean")


_READERS: tuple[tuple[str, str, _Reader], ...] = (
    # `liger_kernel.ops` holds the functions for the device at hand, which may be others than its modules'.
    ("liger_kernel.ops", "LigerFusedLinearCrossEntropyFunction", _liger_linear),
    ("liger_kernel.ops", "LigerCrossEntropyFunction", _liger),
    ("liger_kernel.ops.fused_linear_cross_entropy", "LigerFusedLinearCrossEntropyFunction", _liger_linear),
    ("liger_kernel.ops.cross_entropy", "LigerCrossEntropyFunction", _liger),
    ("cut_cross_entropy.cce", "LinearCrossEntropyFunction", _cut),
)
