"""By which route a run's nats are found; settled once, in the first micro-batch, and written into the book."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from prequential.batches import TargetCoverage, tensors
from prequential.capture import Declared, declared
from prequential.capture.held import Call
from prequential.errors import MeasureError
from prequential.meter import Meter, Reading
from prequential.remarks import MARK_MASKED, is_one_of, not_likelihood, returned_loss
from prequential.tokenbytes import TokenBytes

_CHOICES = (
    "return {'loss', 'nats', 'tokens'} from training_step (summed -ln p, and the number of tokens it covers), or give "
    "CompressionMonitor(measure=function) with function(module, batch, outputs) -> {'nats', 'tokens'}"
)


@dataclass
class Route:
    """How nats are found, and what that route knows.

    Attributes:
        name: ``capture``, ``outputs`` or ``callable``.
        vocab_size: Number of symbols V, if known.
        bytes_known: Whether raw bytes are counted.
        fingerprint_scheme: What identifies the data: its ``targets``, or everything in its ``batch``.
        doubts: What did not agree in the first micro-batch, a sentence by the name of its event.
        coverage: What the loss covers in the batches; None where the script states the sums itself.
        disagreement: Name of the event of a returned loss that is not the mean of the nats.
        loss_calls: Loss calls of the first micro-batch, with the shapes of their scores, where they were seen.
    """

    name: str
    vocab_size: int | None
    bytes_known: bool
    fingerprint_scheme: str
    token_bytes: TokenBytes | None
    doubts: dict[str, str] = field(default_factory=dict)
    coverage: TargetCoverage | None = None
    disagreement: str = "not_likelihood"
    function: Callable[..., Any] | None = None
    loss_calls: Sequence[str] = ()

    @property
    def declares(self) -> bool:
        """Whether the script states the sums itself."""
        return self.name != "capture"

    def header(self) -> dict[str, Any]:
        """What the book's first line says of the route."""
        return {
            "measure": self.name,
            "vocab_size": self.vocab_size,
            "bytes_known": self.bytes_known,
            "fingerprint_scheme": self.fingerprint_scheme,
            "token_bytes": self.token_bytes.identity() if self.token_bytes else None,
            "loss_calls": list(self.loss_calls),
        }

    def add_declared(self, meter: Meter, module: Any, batch: Any, outputs: Any) -> None:
        """Add the sums that this step declares to the meter.

        Raises:
            MeasureError: The step declares none.
        """
        sums = _declared_by(self.function, module, batch, outputs)
        if sums is None:
            raise MeasureError("expected 'nats' and 'tokens' from every training step, got a step without them")
        raw_bytes: Any = sums.raw_bytes
        if raw_bytes is None:
            raw_bytes = meter.raw_bytes(sums.targets) if self.bytes_known and sums.targets is not None else 0
        meter.add_declared(sums.nats, sums.tokens, vocab_size=self.vocab_size, raw_bytes=raw_bytes)
        for content in tensors(batch) if sums.targets is None else [sums.targets]:
            meter.identify(content)


def settle_route(
    measure: str | Callable[..., Any],
    reading: Reading,
    calls: Sequence[Call],
    module: Any,
    batch: Any,
    outputs: Any,
    token_bytes: TokenBytes | None,
    *,
    reduced_by: str = "calls",
) -> Route:
    """Decide, from the first micro-batch, how the nats of this run are found.

    Args:
        measure: What was asked for: ``auto``, ``outputs``, ``capture`` or a callable.
        reading: What the loss tap saw in the first micro-batch.
        calls: The same call by call, as far as it was not compiled.
        module: The module, for a callable.
        batch: The first micro-batch.
        outputs: What its training step returned.
        token_bytes: Bytes per token, if known.
        reduced_by: Who reduced the losses of the targets: the ``calls``, the ``script``, or the script by a ``mask``,
            if that was proved.

    Raises:
        MeasureError: No route applies, or more than one reading of the step is possible.
    """
    function = measure if callable(measure) else None
    sums = None if measure == "capture" else _declared_by(function, module, batch, outputs)
    if sums is not None:
        return _declared_route(sums, function, token_bytes)
    if measure not in ("auto", "capture"):
        raise MeasureError(f"expected 'nats' and 'tokens' from training_step, got {_described(outputs)}: {_CHOICES}")
    bits = any(call.name.startswith("binary") for call in calls) if calls else reading.vocab_size == 2
    coverage = TargetCoverage(batch, reading.tally.positions, bits=bits)
    _refuse_unclear(reading, calls, coverage)
    route = Route("capture", reading.vocab_size, token_bytes is not None, "targets", token_bytes, coverage=coverage)
    route.loss_calls = [str(call) for call in calls]
    if token_bytes is not None and reading.vocab_size is not None and token_bytes.vocab_size > reading.vocab_size:
        route.doubts["doubt"] = (
            f"the table of bytes per token has {token_bytes.vocab_size:,} entries but the model predicts among only "
            f"{reading.vocab_size:,} tokens: is it this model's tokenizer?"
        )
    _compare_routes(route, reading, calls, coverage, returned_loss(outputs), reduced_by)
    return route


def _compare_routes(
    route: Route,
    reading: Reading,
    calls: Sequence[Call],
    coverage: TargetCoverage,
    loss: Tensor | None,
    reduced_by: str,
) -> None:
    """Hold the captured nats, the returned loss and the targets of the batch against each other.

    A loss that is what the seen calls returned is trained on nothing else. One that is not has other terms: harmless
    beside a code, unless something in the batch is left that a call which was not seen may have scored.
    """
    positions = reading.tally.positions
    if coverage.sizes and not coverage.agrees:
        route.doubts["uncovered"] = (
            f"the loss covered {positions:,} target positions of the first batch, whose tensors hold "
            f"{coverage.sizes}: what it left out was scored by a call that is not seen, or not at all; {MARK_MASKED}"
        )
        route.disagreement = "uncovered"
    if loss is None:
        return
    plain = not_likelihood(loss, reading.tally, 0) is None
    if plain and reduced_by != "calls" and all(call.plain for call in calls):  # a mask may come with a later batch
        route.disagreement = "disagree"
    explained = _is_returned(loss, calls, exactly=reduced_by == "script")
    if explained or reduced_by == "mask" or (explained is None and plain):
        return
    if reduced_by == "script":
        route.disagreement = "disagree"
        route.doubts["disagree"] = (
            f"the first step returned a loss of {float(loss):.6g}, which is neither the mean nor the sum of the losses "
            f"that it computed target by target: which of them it masks or weights is not known; {MARK_MASKED}"
        )
    elif not plain and coverage.agrees and coverage.larger is not None:
        route.disagreement = "uncovered"
        route.doubts["uncovered"] = (
            f"the loss covered {positions:,} target positions of the first batch and returned {float(loss):.6g}, which "
            f"is not their code length, while a tensor of {coverage.larger:,} may hold targets of a call that is "
            f"not seen: {_CHOICES}"
        )


def _is_returned(loss: Tensor, calls: Sequence[Call], *, exactly: bool) -> bool | None:
    """Whether the returned loss is the mean or the sum of what the calls returned; None where that is not known."""
    results = [call.result.double() for call in calls if call.result is not None]
    if not results or len(results) < len(calls):
        return None
    total = float(sum(result.sum() for result in results))
    return is_one_of(loss, (total, total / sum(result.numel() for result in results)), exactly=exactly)


def _declared_by(function: Callable[..., Any] | None, module: Any, batch: Any, outputs: Any) -> Declared | None:
    return declared(outputs if function is None else function(module, batch, outputs))


def _declared_route(sums: Declared, function: Callable[..., Any] | None, token_bytes: TokenBytes | None) -> Route:
    return Route(
        name="outputs" if function is None else "callable",
        vocab_size=token_bytes.vocab_size if token_bytes else None,
        bytes_known=sums.raw_bytes is not None or (sums.targets is not None and token_bytes is not None),
        fingerprint_scheme="batch" if sums.targets is None else "targets",
        token_bytes=token_bytes,
        function=function,
    )


def _refuse_unclear(reading: Reading, calls: Sequence[Call], coverage: TargetCoverage) -> None:
    seen = ", ".join(map(str, calls)) or f"{reading.calls or 'no'} compiled calls"
    if reading.not_understood:
        raise MeasureError(
            f"expected the training step to score integer targets by probabilities that sum to one, saw loss calls "
            f"that do not, or that are no plain code length ({seen}): {_CHOICES}"
        )
    if reading.calls == 0:
        raise MeasureError(
            f"expected a call of torch.nn.functional.cross_entropy in training_step, saw none: {_CHOICES}"
        )
    largest = max(coverage.sizes, default=None)
    if largest is not None and reading.tally.positions > largest:
        raise MeasureError(
            f"expected at most one loss term a target, saw {reading.tally.positions:,} scored positions for a batch "
            f"whose largest integer tensor has {largest:,} ({seen}): {_CHOICES}"
        )
    if reading.calls > 1 and (_mixed(reading, calls) or not coverage.agrees):
        raise MeasureError(
            f"expected several loss calls to be chunks of one loss, which cover one tensor of the batch, saw "
            f"{reading.tally.positions:,} scored positions for a batch whose integer tensors have "
            f"{coverage.sizes} ({seen}): {_CHOICES}"
        )


def _mixed(reading: Reading, calls: Sequence[Call]) -> bool:
    """Whether the calls predict among different numbers of symbols, or by different functions where they are listed."""
    return reading.vocab_size is None or len({(call.name, call.vocab_size) for call in calls}) > 1


def _described(outputs: Any) -> str:
    if isinstance(outputs, dict):
        return f"a dict with {sorted(map(str, outputs))}"
    return f"a {type(outputs).__name__}"
