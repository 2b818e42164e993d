"""By which route a run's nats are found; settled once, in the first micro-batch, and written into the book."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from prequential.capture import Call, Declared, declared, integer_tensors, tensors
from prequential.errors import MeasureError
from prequential.meter import Meter, Reading
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
        doubts: What did not agree in the first micro-batch, one sentence each.
    """

    name: str
    vocab_size: int | None
    bytes_known: bool
    fingerprint_scheme: str
    token_bytes: TokenBytes | None
    doubts: list[str] = field(default_factory=list)
    function: Callable[..., Any] | None = None

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

    Raises:
        MeasureError: No route applies, or more than one reading of the step is possible.
    """
    function = measure if callable(measure) else None
    sums = None if measure == "capture" else _declared_by(function, module, batch, outputs)
    if sums is not None:
        return _declared_route(sums, function, token_bytes)
    if measure not in ("auto", "capture"):
        raise MeasureError(f"expected 'nats' and 'tokens' from training_step, got {_described(outputs)}: {_CHOICES}")
    targets = _possible_targets(reading, calls, batch)
    _refuse_unclear(reading, calls, targets)
    route = Route("capture", reading.vocab_size, token_bytes is not None, "targets", token_bytes)
    if token_bytes is not None and reading.vocab_size is not None and token_bytes.vocab_size > reading.vocab_size:
        route.doubts.append(
            f"the table of bytes per token has {token_bytes.vocab_size:,} entries but the model predicts among only "
            f"{reading.vocab_size:,} tokens: is it this model's tokenizer?"
        )
    sizes = [leaf.numel() for leaf in targets]
    positions = reading.tally.positions
    if sizes and not _agrees(positions, targets):
        route.doubts.append(
            f"the loss covered {positions:,} target positions of the first batch, whose integer tensors hold {sizes}: "
            "some targets may not be seen"
        )
    return route


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


def _possible_targets(reading: Reading, calls: Sequence[Call], batch: Any) -> list[Tensor]:
    """The tensors of a batch that may hold its targets: the integers, and any tensor where bits were scored."""
    bits = any(call.name.startswith("binary") for call in calls) if calls else reading.vocab_size == 2
    return tensors(batch) if bits else integer_tensors(batch)


def _refuse_unclear(reading: Reading, calls: Sequence[Call], targets: Sequence[Tensor]) -> None:
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
    largest = max((leaf.numel() for leaf in targets), default=None)
    if largest is not None and reading.tally.positions > largest:
        raise MeasureError(
            f"expected at most one loss term a target, saw {reading.tally.positions:,} scored positions for a batch "
            f"whose largest integer tensor has {largest:,} ({seen}): {_CHOICES}"
        )
    if reading.calls > 1 and (_mixed(reading, calls) or not _agrees(reading.tally.positions, targets)):
        raise MeasureError(
            f"expected several loss calls to be chunks of one loss, which cover one tensor of the batch, saw "
            f"{reading.tally.positions:,} scored positions for a batch whose integer tensors have "
            f"{[leaf.numel() for leaf in targets]} ({seen}): {_CHOICES}"
        )


def _mixed(reading: Reading, calls: Sequence[Call]) -> bool:
    """Whether the calls predict among different numbers of symbols, or by different functions where they are listed."""
    return reading.vocab_size is None or len({(call.name, call.vocab_size) for call in calls}) > 1


def _agrees(positions: int, targets: Sequence[Tensor]) -> bool:
    """Whether the loss covers one whole tensor of the batch, but for a shift by one in each row."""
    return any(
        positions in (leaf.numel(), leaf.numel() - leaf.numel() // max(1, leaf.shape[-1] if leaf.dim() else 1))
        for leaf in targets
    )


def _described(outputs: Any) -> str:
    if isinstance(outputs, dict):
        return f"a dict with {sorted(map(str, outputs))}"
    return f"a {type(outputs).__name__}"
