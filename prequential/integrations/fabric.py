"""`recording`: a `Recording` for a loop on Lightning Fabric, which takes device and loggers from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lightning.fabric import Fabric
from lightning.pytorch.loggers import WandbLogger

from prequential.integrations.audience import rows_for
from prequential.integrations.circumstances import seed
from prequential.integrations.loop import Recording


def recording(
    fabric: Fabric, ledger: str | os.PathLike[str], *, config: Mapping[str, Any] | None = None, **options: Any
) -> Recording:
    """A `Recording` of a loop that runs on Fabric; it is used like any other.

    With several ranks, call it on each of them: the first keeps the book.

    Live values reach every logger of ``fabric``, under ``prequential/``; a `WandbLogger` also gets x-axes, a summary,
    and book and bundle as an artifact.

    Args:
        fabric: After ``fabric.launch()``, if that is called.
        ledger: Folder for book and bundle, or path of the book if it ends in ``.jsonl``; must be new.
        config: Resolved configuration of the run, for the bundle.
        options: The options of `CompressionMonitor`; and ``state``, of a loop that resumes, see `Recording`.

    Example:
        >>> fabric = Fabric(accelerator="cpu", devices=1)
        >>> with recording(fabric, "doc/fabric", bundle=None) as run:
        ...     pass
    """
    wandb_runs = [logger.experiment for logger in fabric.loggers if isinstance(logger, WandbLogger)]
    spread: Any = getattr(fabric.strategy, "distributed_sampler_kwargs", None)
    facts = {"precision": str(fabric.strategy.precision.precision), "seed": seed()}
    return Recording(
        ledger,
        config={"seed": facts["seed"], "precision": facts["precision"], **(config or {})},
        device=fabric.device,
        wandb_run=wandb_runs[0] if wandb_runs else None,
        publish=[rows_for(logger) for logger in fabric.loggers if not isinstance(logger, WandbLogger)],
        facts=facts,
        data_parallel=(spread["rank"], spread["num_replicas"]) if spread else None,
        **options,
    )
