"""What W&B needs to show a run: the x-axis of every key, the summary of the runs table, the book as an artifact.

Rows travel through the framework's own logger; nothing here logs a step. Works the same offline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prequential.codelength import REGISTRY

PREFIX = "prequential/"
X_AXIS = PREFIX + "tokens"


def declare_metrics(run: Any) -> None:
    """Give every ``prequential/*`` key the tokens as its x-axis.

    Each by its exact name: W&B picks at random between two globs that match, and Lightning's logger declares one. A
    resumed run keeps only what its own process declared, so this is called at every setup.
    """
    run.define_metric(X_AXIS)
    for name in REGISTRY:
        if PREFIX + name != X_AXIS:
            run.define_metric(PREFIX + name, step_metric=X_AXIS)


def summarize(run: Any, facts: Mapping[str, Any]) -> None:
    """Put final facts where the runs table finds them, under their ``prequential/`` names."""
    run.summary.update({PREFIX + name: value for name, value in facts.items()})


def attach(run: Any, files: Sequence[Path], metadata: Mapping[str, Any]) -> None:
    """Attach the book and the bundle to the run, as one artifact."""
    import wandb

    artifact = wandb.Artifact(f"prequential-{run.id}", type="prequential", metadata=dict(metadata))
    for file in files:
        artifact.add_file(str(file), name=file.name)
    run.log_artifact(artifact)
