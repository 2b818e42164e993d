"""How a log is to be read: which columns hold what, and what the log itself does not say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from prequential.errors import SourceError

PREFIX = "prequential/"
# Sums as our own doors log them, one a row of the log: enough to rebuild the tally.
LOGGED_SUMS = (
    "tokens",
    "nats",
    "coded_tokens",
    "uncoded_tokens",
    "uncoded_bits",
    "masked_tokens",
    "padding_tokens",
    "replayed_tokens",
    "nonfinite_tokens",
    "raw_bytes",
    "choice_bits",
    "bundle_bytes",
    "uniform_bytes",
)
_NEEDED_SUMS = (PREFIX + "tokens", PREFIX + "nats")

# Names under which trainers log, the surest first; letter case does not count.
_KNOWN_NAMES = {
    "step": ("step", "global_step", "trainer/global_step", "train/global_step", "iteration", "iter", "_step"),
    "tokens": (
        "tokens",
        "tokens_seen",
        "train/tokens",
        "train/tokens_seen",
        "num_input_tokens_seen",
        "train/num_input_tokens_seen",
        "consumed_tokens",
        "total_tokens",
        "num_tokens",
    ),
    "loss": (
        "loss",
        "train_loss",
        "train/loss",
        "training_loss",
        "train_loss_step",
        "train/loss_step",
        "loss/train",
        "lm loss",
    ),
    "elapsed_s": ("elapsed_s", "_runtime"),
}
_NAMED = ("step", "tokens", "loss")
_LISTED = 12


class Columns(NamedTuple):
    """Names of a log's columns by what they hold; ``sums`` are our own, and then nothing else is needed."""

    step: str | None = None
    tokens: str | None = None
    loss: str | None = None
    elapsed_s: str | None = None
    sums: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """All columns to read."""
        return [*self.sums, *dict.fromkeys(name for name in self[:4] if name is not None)]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a person says of a log, see `load_run`.

    Raises:
        SourceError: One of them makes no sense.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    tokens_per_step: int | None = None
    measured_share: float | None = None
    averaged: bool = False
    bytes_per_token: float | None = None
    vocab_size: int | None = None
    name: str | None = None
    data_name: str | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.columns) - set(_NAMED))
        if unknown:
            raise SourceError(f"expected columns for {', '.join(_NAMED)}, got one for {unknown[0]!r}: see the docs")
        for name in ("tokens_per_step", "bytes_per_token", "vocab_size"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise SourceError(f"expected {name} above 0, got {value}: leave it out if it is not known")
        if self.measured_share is not None and not 0 < self.measured_share <= 1:
            raise SourceError(
                f"expected a measured_share above 0, at most 1, got {self.measured_share}: the tokens that a logged "
                "loss was measured on, over the tokens of its step"
            )

    @classmethod
    def of_options(cls, **options: Any) -> Reading:
        """Make one of the command line's options, where each column is an option of its own."""
        columns = {role: options.pop(f"{role}_column") for role in _NAMED}
        return cls(columns={role: name for role, name in columns.items() if name is not None}, **options)

    @property
    def says_something(self) -> bool:
        """Whether anything was said that only a log can need."""
        return self != Reading(name=self.name, data_name=self.data_name)

    def choose(self, names: Sequence[str], where: str) -> Columns:
        """Find the columns to read among those that a log has.

        Raises:
            SourceError: There is no loss to be found, or a column that was asked for.
        """
        missing = [name for name in self.columns.values() if name not in names]
        if missing:
            raise SourceError(f"expected a column {missing[0]!r} in {where}, which has {_listed(names)}: name another")
        found = {role: self.columns.get(role) or _known(role, names) for role in _KNOWN_NAMES}
        if "loss" not in self.columns and all(name in names for name in _NEEDED_SUMS):
            sums = tuple(PREFIX + name for name in LOGGED_SUMS if PREFIX + name in names)
            return Columns(found["step"], elapsed_s=found["elapsed_s"], sums=sums)
        if found["loss"] is None:
            raise SourceError(
                f"expected a column of losses in {where}, which has {_listed(names)}: name it, "
                "columns={'loss': ...} or --loss-column"
            )
        return Columns(found["step"], found["tokens"], found["loss"], found["elapsed_s"])


def _known(role: str, names: Iterable[str]) -> str | None:
    lowered = {name.lower(): name for name in reversed(list(names))}
    return next((lowered[known] for known in _KNOWN_NAMES[role] if known in lowered), None)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_LISTED]))
    return (shown + (", ..." if len(names) > _LISTED else "")) or "no columns"
