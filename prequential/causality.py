"""Does the model see what it codes? An audit on request: a later token is changed, earlier scores must not move.

The training step is run twice on the first micro-batch, without gradients, on a batch and on a copy in which the second
half of each row holds other tokens. A causal model gives the first half the same scores both times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from prequential.batches import integer_tensors
from prequential.likelihoods import LIKELIHOODS
from prequential.scoring import nats_per_token
from prequential.uncoded import Layout, find_layout

# Scores may differ by this much where kernels round differently for other content, in nats a token.
_TOLERANCE_NATS = 1e-2


class Finding(NamedTuple):
    """What an audit found.

    Attributes:
        causal: Whether earlier scores stayed as they were; None if that could not be found out.
        message: One sentence on what was found, or on why nothing was; None if the model is causal.
    """

    causal: bool | None
    message: str | None


class _Scores(TorchFunctionMode):
    """Keeps the nats of every target of the cross-entropy calls made while it is active, flat, and the targets."""

    def __init__(self) -> None:
        super().__init__()
        self.nats: list[Tensor] = []
        self.targets: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = dict(kwargs or {})
        if func is torch.nn.functional.cross_entropy:
            call = dict(zip(LIKELIHOODS[func][1], args, strict=False)) | keywords
            ignored = call.get("ignore_index")
            ignored = -100 if ignored is None else ignored
            self.nats.append(nats_per_token(call["input"], call["target"], ignore_index=ignored).flatten())
            self.targets.append(call["target"].flatten())
        return func(*args, **keywords)


def audited(step: Callable[[Any], Any], batch: Any, vocab_size: int | None = None) -> Finding:
    """Run the audit on one micro-batch.

    Args:
        step: Runs the training step on a batch; called twice, with the same random state, without gradients. It must
            leave nothing behind but that state, which is restored.
        batch: The micro-batch.
        vocab_size: Number of symbols V, below which other tokens are taken. Default: the largest id, plus one.

    Returns:
        A `Finding`; its message is None if the model is causal.
    """
    scores, targets = _scored(step, batch)
    tensors = integer_tensors(batch)
    layout = find_layout(tensors, len(targets), targets) if targets is not None else None
    if scores is None or targets is None or layout is None:
        return Finding(
            None, "causality was not audited: the batch does not show where its rows and their targets stand"
        )
    tokens = tensors[layout.inputs]
    other = _other_tail(tokens, vocab_size)
    changed, _ = _scored(step, tree_map(lambda leaf: other if leaf is tokens else leaf, batch))
    if changed is None or changed.shape != scores.shape:
        return Finding(None, "causality was not audited: other targets are scored when later tokens change")
    moved = _moved(scores, changed, tokens, layout)
    if moved <= _TOLERANCE_NATS:
        return Finding(True, None)
    return Finding(
        False,
        f"earlier scores moved by up to {moved:.3g} nats when later tokens of the row were changed: the model sees "
        "what it codes, so that its loss is no code length",
    )


@contextmanager
def undisturbed(module: torch.nn.Module) -> Iterator[None]:
    """Undo what a training step would leave behind in a Lightning module: running statistics, logged values."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    vars(module)["log"] = lambda *ignored, **options: None
    try:
        yield
    finally:
        del vars(module)["log"]
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(buffers[name])


def _moved(scores: Tensor, changed: Tensor, tokens: Tensor, layout: Layout) -> float:
    """The largest change in the first half of each row, less the last of it, whose target itself may have changed."""
    rows = tokens.reshape(-1, tokens.shape[-1]) if tokens.dim() > 1 else tokens.reshape(1, -1)
    shorter = layout.inputs == layout.targets and not layout.empty_slot
    length = rows.shape[1] - shorter
    difference = (scores - changed).reshape(len(rows), length).abs()[:, : rows.shape[1] // 2 - 1]
    return float(difference.max()) if difference.numel() else 0.0


def _other_tail(tokens: Tensor, vocab_size: int | None) -> Tensor:
    """A copy with other tokens in the second half of each row."""
    copy, middle = tokens.clone(), tokens.shape[-1] // 2
    symbols = vocab_size or int(tokens.max()) + 1
    copy[..., middle:] = (copy[..., middle:] + 1) % max(2, symbols)
    return copy


def _scored(step: Callable[[Any], Any], batch: Any) -> tuple[Tensor | None, Tensor | None]:
    """Nats and targets of one run of the step, flat; the random state is put back."""
    scores = _Scores()
    with torch.random.fork_rng(), torch.no_grad(), _eager(), scores:
        step(batch)
    if not scores.nats:
        return None, None
    return torch.cat(scores.nats), torch.cat(scores.targets)


def _eager() -> AbstractContextManager[Any]:
    """Run compiled modules as they were written: a list cannot be filled from inside a graph."""
    set_stance = getattr(torch.compiler, "set_stance", None)  # new in torch 2.6
    return nullcontext() if set_stance is None else set_stance("force_eager")
