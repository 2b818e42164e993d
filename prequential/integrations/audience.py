"""Who follows a run beside its book: a W&B run, and functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prequential.codelength import REGISTRY
from prequential.errors import warn
from prequential.integrations import wandb as door_to_wandb
from prequential.run import Run

Publish = Callable[[dict[str, float | int], int], None]


class Audience:
    """Hands live values on; whoever fails is named in a warning once, and left alone from then on.

    Args:
        wandb_run: A W&B run, or None.
        publish: Functions that get quantities by name, and the number of optimiser steps so far.
    """

    def __init__(self, wandb_run: Any, publish: Sequence[Publish]) -> None:
        self._wandb_run, self._functions = wandb_run, publish
        self._silenced: set[int] = set()
        self._declared = set(REGISTRY)
        self.facts = {"wandb": None if wandb_run is None else door_to_wandb.identity(wandb_run)}

    def begin(self) -> None:
        """Declare the metrics, before the first row."""
        self._tell_wandb(door_to_wandb.declare_metrics)

    def publish(self, values: dict[str, float | int], steps: int) -> None:
        """Pass on the values of one log point."""
        new, self._declared = set(values) - self._declared, self._declared | set(values)  # sums by source, for instance
        self._tell_wandb(door_to_wandb.declare, sorted(new))
        self._tell_wandb(lambda run: run.log(door_to_wandb.prefixed(values)))
        for function in self._functions:
            self._tell(function, function, values, steps)

    def end(self, run: Run, files: list[Path]) -> None:
        """Leave summary, book and bundle with the W&B run."""
        facts = door_to_wandb.headline(run)
        self._tell_wandb(door_to_wandb.summarize, facts)
        self._tell_wandb(door_to_wandb.attach, files, facts)

    def _tell_wandb(self, call: Callable[..., Any], *args: Any) -> None:
        if self._wandb_run is not None:
            self._tell(self._wandb_run, call, self._wandb_run, *args)

    def _tell(self, follower: Any, call: Callable[..., Any], *args: Any) -> None:
        if id(follower) in self._silenced:
            return
        try:
            call(*args)
        except Exception as error:
            self._silenced.add(id(follower))
            name = getattr(follower, "__name__", type(follower).__name__)
            warn(f"{name} failed and gets no more values: {type(error).__name__}: {error}")
