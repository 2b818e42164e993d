"""What state a module trains in: whether dropout is on, and whether rows of a batch see each other."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

_LISTED = 3


@dataclass(frozen=True)
class Modes:
    """How a module is set at the first step.

    Attributes:
        training: Whether it is in training mode.
        dropout: Probabilities in force, each once, ascending: a valid code, only a longer one than without.
        cross_row: Names of layers that keep statistics over the rows of a batch.
    """

    training: bool
    dropout: tuple[float, ...]
    cross_row: tuple[str, ...]

    @property
    def warning(self) -> str | None:
        """One sentence where rows of a batch see each other; None where they do not."""
        if not self.cross_row:
            return None
        names = ", ".join(self.cross_row[:_LISTED]) + (", ..." if len(self.cross_row) > _LISTED else "")
        return (
            f"{len(self.cross_row)} layers share statistics over the rows of a batch ({names}): an uncoded item "
            "informs another, so that the sum is no code; use layer or group norm, or set these to eval mode"
        )

    def record(self) -> dict[str, Any]:
        """Plain values for the head of the book."""
        return asdict(self)


def modes_of(module: nn.Module) -> Modes:
    """Read how a module is set; nothing is changed and no device is asked.

    Dropout is found in layers whose class name says so, and in numbers that layers keep under a name with ``drop`` in
    it, as attention layers do.

    Examples:
        >>> modes_of(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))).dropout
        (0.1,)
    """
    layers = list(module.named_modules())
    probabilities = {p for _, layer in layers if layer.training for p in _dropout(layer)}
    return Modes(
        training=module.training,
        dropout=tuple(sorted(probabilities)),
        cross_row=tuple(name for name, layer in layers if _crosses_rows(layer)),
    )


def _dropout(layer: nn.Module) -> list[float]:
    is_dropout = "dropout" in type(layer).__name__.lower()
    found = [value for name, value in vars(layer).items() if "drop" in name or (is_dropout and name == "p")]
    return [float(value) for value in found if isinstance(value, float) and 0 < value <= 1]


def _crosses_rows(layer: nn.Module) -> bool:
    if isinstance(layer, _BatchNorm):
        return layer.training or not layer.track_running_stats
    return isinstance(layer, _InstanceNorm) and layer.track_running_stats and layer.training
