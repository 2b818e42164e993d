"""Finding the exact -log p of every target inside a training step that knows nothing of it.

`LossTap` watches the calls of torch's losses that are likelihoods (`likelihoods`), by functions or by modules, while it
is active and adds their nats to a meter. It changes no result. Its state is tensors updated in place, so that it works
inside ``torch.compile`` without a graph break; a Python counter there would be guarded on and compiled again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from prequential.capture.entrances import Entrances, suffice
from prequential.capture.fused import FusedLosses
from prequential.capture.held import Call, Held, Mask, find_mask, is_first_pass_only, masked
from prequential.capture.likelihoods import LIKELIHOODS, READERS, Scored, named, read_call, whole
from prequential.capture.updates import GRADIENTS, Updates
from prequential.errors import MeasureError
from prequential.meter import Meter, read_sums


class LossTap(TorchFunctionMode):
    """Adds the nats of every likelihood computed while it is active to a meter.

    The nats are those of the plain model: class weights and label smoothing are undone by scoring the targets again,
    and so is the rounding of a half-precision loss. A plain float32 cross-entropy is taken as it is, a mean times its
    count: its rounding is about 1e-7 of the nats of that call, and 1e-7 nats a target where the model is very sure.

    That the probabilities sum to one holds by construction where the function normalises them itself (cross-entropy,
    and bits, whose two are p and 1 - p); where it is given them (`nll_loss`), every call is checked.

    Args:
        meter: Where nats are added.
        hold: Whether calls are held back until `settle`, as in the first micro-batch of a run.

    Attributes:
        calls: Loss calls seen while not compiling, as long as ``listing`` is true.
        listing: Whether calls are listed.
        late: Whether some step computed its first loss after it had updated the weights.
        known: What the first micro-batch of a run that is resumed had proved, as `state` gave it; or None.
        listener: Called with the name of each likelihood that is not compiled, and its arguments by name.
        entrances_suffice: Whether the functions of torch's C library behind the losses are watched, and not every call
            of torch, which costs more; settled in the first micro-batch.
        order_known: Whether calls are seen in their order: not where some of them were compiled.
    """

    def __init__(self, meter: Meter, *, hold: bool = False) -> None:
        super().__init__()
        self.meter = meter
        self.calls: list[Call] = []
        self.listing, self.late = True, False
        self.listener: Callable[[str, Mapping[str, Any]], None] | None = None
        self.known: Mapping[str, Any] | None = None
        self._unreduced = torch.zeros((), dtype=torch.int64, device=meter.device)
        self._probe = torch.zeros((), device=meter.device)
        self._held: list[Held] | None = [] if hold else None
        self._updates, self._fused = Updates(), FusedLosses(self.see)
        self._entrances = Entrances(self._entered, self._learning)
        self.entrances_suffice = False
        self._first_pass_only = self._scored_before = False
        self.order_known = True
        self._mask: Mask | None = None
        self._batch: Any = None
        self._module: Any = None
        self._failed = 0

    def on(self, module: Any, batch: Any) -> LossTap:
        """Say which training step comes next: its module, or None, and its batch."""
        self._module, self._batch = module, batch
        return self

    def __enter__(self) -> LossTap:
        self._updates.begin(self._module)
        self._fused.begin()
        self._scored_before = False
        self._by_entrances = self.entrances_suffice and not self._entrances.compiled
        if self._by_entrances:
            self._entrances.begin()
        else:
            super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        if self._by_entrances:
            self._entrances.end()
        else:
            super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._fused.end()
        self._updates.end()
        self._batch = None
        for _ in range(self._failed):
            self.meter.not_understood()
        self._failed = 0

    def hold(self) -> None:
        """Hold calls back once more: the micro-batch that was settled on showed no target."""
        self._held, self.calls, self.listing, self.late = [], [], True, False

    def settle(self, batch: Any, loss: Tensor | None) -> str:
        """Count the calls held back in the first micro-batch, and know from then on what counts; waits for the device.

        Args:
            batch: The first micro-batch.
            loss: The loss that its step returned.

        Returns:
            Who reduced the losses of the targets: the ``calls``, the ``script``, or the script by a ``mask``, if that
            was proved.
        """
        held, self._held, self.listing = self._held or [], None, False
        # Calls that were compiled are in the meter already, but not in their place among the others.
        self.order_known = not read_sums([self.meter.peek()])[0].calls
        self._first_pass_only = self.order_known and is_first_pass_only(held, batch)
        counted = [one for one in held if not (one.call.updated and self._first_pass_only)]
        self.calls = [call for call in self.calls if not (call.updated and self._first_pass_only)]
        self.late = self.order_known and bool(counted) and counted[0].call.updated
        self._mask = find_mask(counted, batch, loss) if self.order_known else None
        if self.known is not None:  # a batch from the middle of the data may prove less than the first did
            mask = self.known["mask"]
            self._mask = None if mask is None else Mask(mask[0], (mask[1], mask[2]))
        for one in counted:
            self._count(one.scored, batch)
        if self._mask is not None:
            return "mask"
        # Calls that were held back were seen one by one; what was counted already was compiled.
        self.entrances_suffice = self.order_known and suffice({call.name for call in self.calls})
        unreduced = any(one.call.result is not None and one.call.result.dim() for one in counted)
        return "script" if unreduced or bool(self._unreduced) else "calls"

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func not in LIKELIHOODS:  # dozens of calls a step come through here: nothing else may happen to them
            if func in GRADIENTS:
                with self._learning():
                    return func(*args, **(kwargs or {}))
            return func(*args, **kwargs) if kwargs else func(*args)
        keywords = dict(kwargs or {})
        if self.listener is not None and not torch.compiler.is_compiling():
            self.listener(func.__name__, named(func, args, keywords))
        result = func(*args, **keywords)
        if torch.compiler.is_compiling():  # a list or a handler would break the graph
            self._add(func, result, args, keywords)
            return result
        self.see(func.__name__, args[0] if args else keywords.get("input"), result, read_call(func, args, keywords))
        return result

    @contextmanager
    def _learning(self) -> Iterator[None]:
        """Gradients are computed inside; losses there are computed again (activation checkpointing)."""
        self._updates.gradients()
        self._fused.end()
        try:
            yield
        finally:
            self._fused.begin()

    def _entered(self, name: str, result: Any, call: Mapping[str, Any]) -> None:
        """Take in a call that was seen where losses enter torch's C library."""
        if self.listener is not None:
            self.listener(name, call)
        self.see(name, call["input"], result, lambda result: READERS[name](result, call))

    def see(self, name: str, scores: Any, result: Any, read: Callable[[Any], Scored | None]) -> None:
        """Take in a call that is not compiled; no failure of it gets into the training step.

        Args:
            name: Name of the function.
            scores: Its first argument.
            result: What it returned.
            read: Gives its targets and their nats from that.
        """
        shape = tuple(getattr(scores, "shape", ()))
        call = Call(name, shape, None, None, plain=False, updated=False)
        try:
            with torch.no_grad():
                scored = read(result)
                copy = _copied(whole(result)) if self.listing and isinstance(result, Tensor) else None
                vocab_size = None if scored is None else scored.vocab_size
                plain = scored is not None and scored.nats is result
                call = Call(name, shape, vocab_size, copy, plain, self._updates.happened())
                self._take(call, scored)
        except Exception:  # under `torch.func.vmap`, with a tensor subclass
            self._failed += 1  # under `torch.func.grad` not even this can be added to the meter: see `__exit__`
            call = call._replace(vocab_size=None)
        if self.listing:
            self.calls.append(call)

    def _take(self, call: Call, scored: Scored | None) -> None:
        if scored is None:
            self.meter.not_understood()
            return
        if self._held is not None:
            self._probe.copy_(scored.nats.sum())  # fails inside a transform of `torch.func`, as the meter would
            each = self._each(scored)  # now: a script may change logits in place
            copied = scored._replace(
                nats=_copied(scored.nats), targets=_copied(scored.targets), each=None if each is None else lambda: each
            )
            self._held.append(Held(call, copied, scored.targets))
            return
        if call.updated and self._first_pass_only:
            return
        self.late = self.late or (call.updated and self.order_known and not self._scored_before)
        self._scored_before = True
        self._count(scored, self._batch)

    def state(self) -> dict[str, Any]:
        """What the first micro-batch proved, as plain values, for a checkpoint; see ``known``."""
        return {"mask": None if self._mask is None else [self._mask.place, *self._mask.cut]}

    def adopt(self, mask: Sequence[int] | None) -> None:
        """Go on with the mask that the first micro-batch of another rank proved, where it was one of `state`."""
        self._mask = None if mask is None else Mask(mask[0], (mask[1], mask[2]))

    @torch.no_grad()
    def _add(
        self, func: Callable[..., Any], result: Tensor, args: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> None:
        scored = read_call(func, args, keywords)(result)
        if scored is None:
            self.meter.not_understood()
            return
        if result.dim():
            self._unreduced.add_(1)
        self._count(scored, None)

    def _count(self, scored: Scored, batch: Any) -> None:
        """Add a call to the meter."""
        if self._mask is not None:
            kept = self._mask.of(batch, scored.targets.numel())
            if kept is None:
                raise MeasureError("expected the mask of the first batch in every batch, got one that does not fit")
            scored = masked(scored, kept)
        nats, targets, vocab_size, ignore_index, mean, doubtful, _ = scored
        each = self._each(scored)
        if doubtful is not None:  # known on the device only, where the call is then taken out again
            self.meter.not_understood(doubtful)
            nats, targets = torch.where(doubtful, 0.0, nats), torch.where(doubtful, ignore_index, targets)
        self.meter.add(nats, targets, vocab_size=vocab_size, ignore_index=ignore_index, mean=mean, each=each)

    def _each(self, scored: Scored) -> Tensor | None:
        """Nats target by target, where they are asked for and only their sum or mean is there."""
        by_target = self.meter.by_target and not torch.compiler.is_compiling()
        if not by_target or scored.each is None or scored.nats.numel() == scored.targets.numel():
            return None
        return scored.each()


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()
