"""How many optimiser steps a trainer is set to make on data that it has not seen before."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from prequential.errors import Harmless
from prequential.integrations.feeding import draws_once, loader_draws_once

if TYPE_CHECKING:
    import lightning.pytorch as pl


def planned_steps(trainer: pl.Trainer) -> int | None:
    """The number of the last optimiser step of the first pass over the data; None where the limits do not tell.

    Where the run is limited by time, or learns by itself (manual optimisation), nobody knows how many steps it makes.
    """
    with Harmless("how many steps are planned is not known"):
        from lightning.pytorch.callbacks import Timer

        if trainer.current_epoch > 0 or any(isinstance(callback, Timer) for callback in vars(trainer)["callbacks"]):
            return None
        batches = trainer.num_training_batches if trainer.lightning_module.automatic_optimization else math.inf
        limit = math.inf if trainer.max_steps < 0 else trainer.max_steps
        one_epoch = trainer.max_epochs == 1
        return _first_pass(batches, trainer.accumulate_grad_batches, limit, one_epoch or draws_once(trainer))
    return None


def planned_steps_of(args: Any, state: Any, loader: Any) -> int | None:
    """The same for the Hugging Face trainer."""
    with Harmless("how many steps are planned is not known"):
        if (state.epoch or 0) >= 1:
            return None
        batches = len(loader) if hasattr(getattr(loader, "dataset", None), "__len__") else math.inf
        replayed_later = state.num_train_epochs == 1 or loader_draws_once(loader)
        return _first_pass(batches, args.gradient_accumulation_steps, state.max_steps, replayed_later)
    return None


def _first_pass(batches: float, batches_a_step: int, limit: float, ends_with_epoch: bool) -> int | None:
    """Count steps: an epoch of these batches, or up to a limit.

    Later epochs are replay where the loader draws each row once; where it may not, they may bring new rows.
    """
    epoch = batches if math.isinf(batches) else math.ceil(batches / batches_a_step)
    if epoch < limit and not ends_with_epoch:
        return None
    steps = min(epoch, limit)
    return None if math.isinf(steps) else int(steps)
