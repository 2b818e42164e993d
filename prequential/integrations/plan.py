"""How many optimiser steps a trainer is set to make on data that it has not seen before."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning.pytorch.callbacks import Timer

from prequential.errors import Harmless
from prequential.integrations.feeding import draws_once

if TYPE_CHECKING:
    import lightning.pytorch as pl


def planned_steps(trainer: pl.Trainer) -> int | None:
    """The number of the last optimiser step of the first pass over the data; None where the limits do not tell.

    Later epochs are replay where the loader draws each row once. Where it does not, they may bring new rows, and where
    the run is limited by time, or learns by itself (manual optimisation), nobody knows how many steps an epoch has.
    """
    with Harmless("how many steps are planned is not known"):
        return _planned_steps(trainer)
    return None


def _planned_steps(trainer: pl.Trainer) -> int | None:
    if trainer.current_epoch > 0 or any(isinstance(callback, Timer) for callback in vars(trainer)["callbacks"]):
        return None
    batches = trainer.num_training_batches if trainer.lightning_module.automatic_optimization else math.inf
    epoch = batches if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)
    limit = math.inf if trainer.max_steps < 0 else trainer.max_steps
    if epoch < limit and trainer.max_epochs != 1 and not draws_once(trainer):
        return None
    steps = min(epoch, limit)
    return None if math.isinf(steps) else int(steps)
