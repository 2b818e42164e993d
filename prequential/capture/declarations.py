"""Sums that a training step, or a ``measure`` callable, states itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from prequential.errors import MeasureError


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
