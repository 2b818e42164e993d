"""What a Lightning trainer knows about its run, as plain facts: configuration, versions, places."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import WandbLogger

from prequential.integrations.plan import planned_steps
from prequential.integrations.session import new_book
from prequential.integrations.wandb import identity


def circumstances(trainer: pl.Trainer) -> dict[str, Any]:
    """Facts for the head of the book: how the run is made."""
    logger = trainer.logger
    return {
        "world_size": trainer.world_size,
        "precision": str(trainer.precision),
        "seed": seed(),
        "start_step": trainer.global_step,
        "planned_steps": planned_steps(trainer),
        "wandb": identity(logger.experiment) if isinstance(logger, WandbLogger) else None,
    }


def configuration(trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
    """The resolved configuration: what a receiver must know beside the source, to run the same training."""
    datamodule = getattr(trainer, "datamodule", None)
    return {
        "argv": sys.argv[1:],
        "module": dict(pl_module.hparams),
        "data": dict(datamodule.hparams) if datamodule is not None else {},
        "trainer": {
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "gradient_clip_val": trainer.gradient_clip_val,
            "gradient_clip_algorithm": str(trainer.gradient_clip_algorithm or "norm"),
            "max_epochs": trainer.max_epochs,
            "max_steps": trainer.max_steps,
            "limit_train_batches": trainer.limit_train_batches,
            "overfit_batches": vars(trainer).get("overfit_batches"),
            "strategy": type(trainer.strategy).__name__,
            "accelerator": type(trainer.accelerator).__name__,
            "num_devices": trainer.num_devices,
            "precision": str(trainer.precision),
        },
        "seed": seed(),
    }


def book_path(trainer: pl.Trainer, ledger: str | os.PathLike[str] | None, *, resumed: bool) -> Path:
    """Where the book of this run goes: a new file, in the trainer's log directory unless told otherwise.

    Args:
        trainer: The trainer, for its loggers.
        ledger: A file name that ends in ``.jsonl``, or a folder, or None for the default.
        resumed: Whether the run is resumed, so that the file may be there.
    """
    return new_book(ledger, _log_directory(trainer) / "prequential", resumed=resumed)


def _log_directory(trainer: pl.Trainer) -> Path:
    """The first logger's own directory for this run, in the way Lightning places checkpoints."""
    logger = trainer.logger
    if logger is None:
        return Path(trainer.default_root_dir) / "lightning_logs"
    if logger.log_dir is not None:
        return Path(logger.log_dir)
    folder = version_name = logger.version
    if not isinstance(folder, str):
        version_name = f"version_{folder}"
    return Path(logger.save_dir or trainer.default_root_dir) / str(logger.name) / str(version_name)


def seed() -> int | None:
    """The seed that Lightning's ``seed_everything`` was given, or None."""
    given = os.environ.get("PL_GLOBAL_SEED", "")
    return int(given) if given.isdigit() else None
