"""Who follows a run beside its book: W&B runs, the loggers of a framework, and functions."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prequential.codelength import REGISTRY
from prequential.errors import warn
from prequential.integrations import wandb as door_to_wandb
from prequential.integrations.charts import log_charts
from prequential.run import Run

Publish = Callable[[dict[str, float | int], int], None]

# What W&B is waited for at the end of a training, in all: before it takes an artifact its client asks the server.
WAIT_S = 10.0


class Audience:
    """Hands live values on; whoever fails is named in a warning once, and left alone from then on.

    Args:
        wandb_runs: W&B runs, which get x-axes, a summary, and book and bundle as an artifact; their rows come from one
            of the functions.
        publish: Functions that get quantities by name, and the number of optimiser steps so far.
        failed: Called with a sentence about whoever failed while the run was recorded.
    """

    def __init__(
        self, wandb_runs: Sequence[Any], publish: Sequence[Publish], failed: Callable[[str], None] | None = None
    ) -> None:
        self._wandb_runs, self._functions, self._failed = wandb_runs, publish, failed
        self._silenced: set[int] = set()
        self._declared = set(REGISTRY)
        self.facts = {"wandb": door_to_wandb.identity(wandb_runs[0]) if wandb_runs else None}

    def begin(self) -> None:
        """Declare the metrics, before the first row."""
        self._tell_wandb(door_to_wandb.declare_metrics)

    def publish(self, values: dict[str, float | int], steps: int) -> None:
        """Pass on the values of one log point."""
        new, self._declared = set(values) - self._declared, self._declared | set(values)  # sums by source, for instance
        if new:
            self._tell_wandb(door_to_wandb.declare, sorted(new))
        for function in self._functions:
            self._tell(function, function, values, steps)

    def end(self, run: Run, files: list[Path]) -> None:
        """Leave summary, book, bundle and charts with the W&B runs; a server that does not answer is not waited for."""
        self._failed = None  # the book is closed
        facts = door_to_wandb.headline(run)
        self._tell_wandb(door_to_wandb.summarize, facts)
        self._tell_wandb(_in_time, _leave, run, files, facts)
        if self._wandb_runs and self._silenced:
            warn(f"W&B may lack a part of this run: prequential sync {run.path} sends it")

    def farewell(self, run: Run) -> list[str]:
        """Say what has become of the W&B runs: nothing is known to have arrived before the program ends."""
        if self._silenced:
            return []  # a warning said more
        return [_farewell(wandb_run, run) for wandb_run in self._wandb_runs]

    def _tell_wandb(self, call: Callable[..., Any], *args: Any) -> None:
        for run in self._wandb_runs:
            self._tell(run, call, run, *args)

    def _tell(self, follower: Any, call: Callable[..., Any], *args: Any) -> None:
        if id(follower) in self._silenced:
            return
        try:
            call(*args)
        except Exception as error:
            self._silenced.add(id(follower))
            name = "W&B" if follower in self._wandb_runs else getattr(follower, "__name__", type(follower).__name__)
            message = f"{name} failed and gets no more values: {type(error).__name__}: {error}"
            warn(message)
            if self._failed is not None:
                self._failed(message)


def _leave(wandb_run: Any, run: Run, files: list[Path], facts: Mapping[str, Any]) -> None:
    door_to_wandb.attach(wandb_run, files, facts)
    log_charts(wandb_run, run)  # last: charts are the least


def _in_time(wandb_run: Any, call: Callable[..., Any], *args: Any) -> None:
    """Make a call that may wait for a server, for `WAIT_S` at most; it goes on by itself after that.

    Raises:
        TimeoutError: It took longer.
    """
    outcome: concurrent.futures.Future[None] = concurrent.futures.Future()

    def make() -> None:
        try:
            outcome.set_result(call(wandb_run, *args))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=make, name="prequential-wandb", daemon=True).start()
    try:
        outcome.result(timeout=WAIT_S)
    except concurrent.futures.TimeoutError:
        raise TimeoutError(f"no answer from its server within {WAIT_S:g} s") from None


def _farewell(wandb_run: Any, run: Run) -> str:
    if getattr(wandb_run, "offline", False):
        return (
            f"W&B run {wandb_run.id} is offline: wandb sync {Path(wandb_run.dir).parent} sends it; "
            f"prequential sync {run.path} sends what it lacks then"
        )
    bound_s = getattr(getattr(wandb_run, "settings", None), "finish_timeout", 0)
    bound = f"for {bound_s:g} s at most" if bound_s else "without a bound (WANDB_FINISH_TIMEOUT=600 sets one)"
    return (
        f"W&B run {wandb_run.id} is uploaded until the program ends, which waits for it {bound}; "
        f"prequential sync {run.path} sends what it lacks then"
    )


def rows_for(logger: Any) -> Publish:
    """Give a logger of Lightning, or of Fabric, the live values; its rows are numbered from 0."""

    def rows(values: dict[str, float | int], steps: int) -> None:
        logger.log_metrics(door_to_wandb.prefixed(values), steps - 1)

    rows.__name__ = type(logger).__name__
    return rows


def rows_of(wandb_run: Any) -> Publish:
    """Log the live values to a W&B run itself, without a step: they have an x-axis of their own."""

    def rows(values: dict[str, float | int], steps: int) -> None:
        wandb_run.log(door_to_wandb.prefixed(values))

    rows.__name__ = "W&B"
    return rows
