"""The loss functions of torch that are likelihoods, and how -log p of each target is read out of one call of each.

A reader takes what the function returned and its arguments by name, and gives a `Scored`, or None where no code length
can be had. Whatever depends on the values of tensors is decided on the device: readers run inside ``torch.compile``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from prequential.scoring import nats_per_token

# Rows of logits formed at a time where the loss never formed them: it was chosen to save that memory.
_LINEAR_ROWS = 1024


class Scored(NamedTuple):
    """Targets of one loss call with their nats.

    Attributes:
        nats: Nats of the targets, to be summed; with ``mean``, their mean over the targets that are not ignored.
        targets: Integer ids of the targets.
        vocab_size: Number of symbols V.
        ignore_index: Target id that stands for "no target here".
        mean: Whether ``nats`` is a mean.
        doubtful: On the device, whether the call turns out to be no code length; None if it certainly is one.
        each: Called for the nats of each target, where ``nats`` is their sum or mean; None where it cannot be had.
    """

    nats: Tensor
    targets: Tensor
    vocab_size: int
    ignore_index: int = -100
    mean: bool = False
    doubtful: Tensor | None = None
    each: Callable[[], Tensor] | None = None


Reader = Callable[[Tensor, Mapping[str, Any]], "Scored | None"]


def read_call(
    func: Callable[..., Any], args: tuple[Any, ...], keywords: Mapping[str, Any]
) -> Callable[[Tensor], Scored | None]:
    """Read -log p of every target out of one call of a function in `LIKELIHOODS`.

    Args:
        func: The function.
        args: Its positional arguments.
        keywords: Its other arguments.

    Returns:
        Given what the call returned: the targets with their nats, or None where it has no code length.
    """
    reader, call = LIKELIHOODS[func][0], named(func, args, keywords)
    return lambda result: reader(result, call)


def named(func: Callable[..., Any], args: tuple[Any, ...], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a call of a function in `LIKELIHOODS` by their names."""
    return dict(zip(LIKELIHOODS[func][1], args, strict=False)) | dict(keywords)


def _cross_entropy(result: Tensor, call: Mapping[str, Any]) -> Scored | None:
    logits, targets = call["input"], whole(call["target"])
    if targets.is_floating_point():  # probabilities as targets have no code length
        return None
    ignore_index, plain = _ignore_index(call), _is_plain(result, call)
    nats = whole(result) if plain else nats_per_token(whole(logits), targets, ignore_index=ignore_index)

    def each() -> Tensor:
        log_probs = _saved_log_probs(result)
        if log_probs is not None:
            kept = targets != ignore_index
            chosen = log_probs.detach().gather(1, torch.where(kept, targets, 0).unsqueeze(1)).squeeze(1)
            return torch.where(kept, -chosen, 0.0)
        return F.cross_entropy(whole(logits).detach(), targets, ignore_index=ignore_index, reduction="none")

    return Scored(nats, targets, logits.shape[_classes(logits)], ignore_index, plain and _is_mean(call), each=each)


def _linear_cross_entropy(result: Tensor, call: Mapping[str, Any]) -> Scored | None:
    # Eager calls only: the compiler inlines the function, and then its inner cross_entropy is seen, if it has one.
    targets, weight = whole(call["target"]), call["linear_weight"]
    if targets.is_floating_point():
        return None
    ignore_index, plain = _ignore_index(call), _is_plain(result, call)
    nats = whole(result) if plain else _nats_of_linear(call, targets, ignore_index)
    return Scored(
        nats,
        targets,
        weight.shape[0],
        ignore_index,
        plain and _is_mean(call),
        each=lambda: _nats_of_linear(call, targets, ignore_index),
    )


def _nll_loss(result: Tensor, call: Mapping[str, Any]) -> Scored | None:
    del result  # gathering is as cheap, and knows no weights
    log_probs, targets = whole(call["input"]).detach(), whole(call["target"]).long()
    classes, ignore_index = _classes(log_probs), _ignore_index(call)
    kept = targets != ignore_index
    chosen = log_probs.gather(classes, torch.where(kept, targets, 0).unsqueeze(classes)).squeeze(classes)
    nats = torch.where(kept, -chosen, 0.0)
    return Scored(nats, targets, log_probs.shape[classes], ignore_index, doubtful=_unnormalised(log_probs, kept))


def _bits_with_logits(result: Tensor, call: Mapping[str, Any]) -> Scored | None:
    del result
    logits, targets = _wide(call["input"]), whole(call["target"]).detach()
    nats = F.softplus(torch.where(targets > 0.5, -logits, logits))
    return Scored(nats, (targets > 0.5).long(), 2, doubtful=_soft(targets))


def _bits(result: Tensor, call: Mapping[str, Any]) -> Scored | None:
    del result  # torch cuts it off at 100 nats
    ones, targets = _wide(call["input"]), whole(call["target"]).detach()
    nats = -torch.where(targets > 0.5, ones, 1 - ones).log()
    return Scored(nats, (targets > 0.5).long(), 2, doubtful=_soft(targets))


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of which a DTensor holds a part; any other tensor as it is."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def _wide(tensor: Tensor) -> Tensor:
    full = whole(tensor).detach()
    return full.float() if full.device.type == "mps" else full.double()  # no float64 on mps


def _classes(scores: Tensor) -> int:
    return 1 if scores.dim() > 1 else 0


def _ignore_index(call: Mapping[str, Any]) -> int:
    given: int | None = call.get("ignore_index")
    return -100 if given is None else given


def _is_mean(call: Mapping[str, Any]) -> bool:
    return bool(call.get("reduction", "mean") == "mean")


def _is_plain(result: Tensor, call: Mapping[str, Any]) -> bool:
    """Whether the result is -log p of the softmax itself, in a precision that may be summed."""
    return (
        call.get("weight") is None
        and not call.get("label_smoothing")
        and call.get("size_average") is None
        and call.get("reduce") is None
        and result.dtype in (torch.float32, torch.float64)
    )


def _saved_log_probs(result: Tensor) -> Tensor | None:
    """The log-probabilities that a cross-entropy keeps for its backward pass, which saves another pass over the logits.

    Not where saved tensors go through hooks: to unpack them may mean to compute them again (activation checkpointing).
    """
    hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    if type(result.grad_fn).__name__ != "NllLossBackward0" or hooks is None or hooks(False) is not None:
        return None
    saved: Tensor = result.grad_fn._saved_self  # type: ignore[union-attr]
    return saved


def _nats_of_linear(call: Mapping[str, Any], targets: Tensor, ignore_index: int) -> Tensor:
    """Form the logits that the loss did not form, a few rows at a time, and score the targets under them."""
    rows, weight = whole(call["input"]).detach(), whole(call["linear_weight"]).detach()
    bias = call.get("linear_bias")
    flat_bias = None if bias is None else whole(bias).detach().reshape(-1)

    def score(some: Tensor, ids: Tensor) -> Tensor:
        logits = F.linear(some, weight.reshape(-1, weight.shape[-1]), flat_bias)
        return nats_per_token(logits.reshape(*some.shape[:-1], *weight.shape[:-1]), ids, ignore_index=ignore_index)

    if rows.dim() == 1:
        return score(rows, targets)
    blocks = zip(torch.split(rows, _LINEAR_ROWS), torch.split(targets, _LINEAR_ROWS), strict=True)
    return torch.cat([score(some, ids) for some, ids in blocks])


def _unnormalised(log_probs: Tensor, kept: Tensor) -> Tensor:
    """Whether the probabilities of some row do not sum to one; a bounded number of rows is looked at.

    Rounding of log p by half an ulp moves the sum by at most half an epsilon times the entropy, which is below 16 nats.
    A NaN is not called unnormalised: it is a code length that is not finite.
    """
    some = (slice(64), *[slice(8)] * (kept.dim() - 1)) if kept.dim() else ()
    with_classes = (*some[:1], slice(None), *some[1:])
    rows = log_probs[with_classes]
    rows = rows if rows.dtype == torch.float64 else rows.float()
    excess = torch.logsumexp(rows, _classes(log_probs)).abs()
    return (kept[some] & (excess > max(1e-3, 8 * torch.finfo(log_probs.dtype).eps))).any()


def _soft(targets: Tensor) -> Tensor:
    return ((targets != 0) & (targets != 1)).any()


READERS: Mapping[str, Reader] = {
    "cross_entropy": _cross_entropy,
    "nll_loss": _nll_loss,
    "binary_cross_entropy_with_logits": _bits_with_logits,
    "binary_cross_entropy": _bits,
    "linear_cross_entropy": _linear_cross_entropy,  # new in torch 2.13
}


def _table(readers: Mapping[str, Reader]) -> dict[Callable[..., Any], tuple[Reader, tuple[str, ...]]]:
    """Functions of this torch with their readers and the names of their arguments, in the order of their places."""
    functions = {getattr(F, name): reader for name, reader in readers.items() if hasattr(F, name)}
    return {func: (reader, tuple(inspect.signature(func).parameters)) for func, reader in functions.items()}


LIKELIHOODS = _table(READERS)
