"""What W&B needs to show a run: the x-axis of every key, the summary of the runs table, the book as an artifact.

Rows travel through the framework's own logger; nothing here logs a step. Works the same offline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prequential.codelength import REGISTRY
from prequential.panels import BASELINES, BOOKKEEPING
from prequential.run import Run

PREFIX = "prequential/"
X_AXIS = PREFIX + "tokens"
_HEADLINE = (
    "compressed_bytes",
    "compression_ratio",
    "uniform_ratio",
    "bits_per_byte",
    "bits_per_token",
    "bundle_bytes",
    "raw_bytes",
    "tokens",
)


def declare_metrics(run: Any) -> None:
    """Give every ``prequential/*`` key the tokens as its x-axis.

    Each by its exact name: W&B picks at random between two globs that match, and Lightning's logger declares one. A
    resumed run keeps only what its own process declared, so this is called at every setup.
    """
    run.define_metric(X_AXIS, hidden=True)
    declare(run, (name for name in REGISTRY if PREFIX + name != X_AXIS))


def declare(run: Any, names: Iterable[str]) -> None:
    """Give some ``prequential/*`` keys the tokens as their x-axis; bookkeeping gets no chart by itself."""
    for name in names:
        run.define_metric(PREFIX + name, step_metric=X_AXIS, hidden=True if name in BOOKKEEPING else None)


def prefixed(values: Mapping[str, float | int]) -> dict[str, float | int]:
    """Give quantities the names under which loggers show them."""
    return {PREFIX + name: value for name, value in values.items()}


def identity(run: Any) -> dict[str, str]:
    """Name a W&B run, for the head of a book."""
    return {"id": str(run.id), "project": str(run.project), "entity": str(run.entity)}


def headline(run: Run) -> dict[str, Any]:
    """What the runs table shows of a run: its totals, how far they are proved, and by what it compares with others.

    Unknown totals are left out. The fingerprint is written in hexadecimal: as a number it would not fit a float.
    """
    values = run.measured()
    return {
        **{name: values[name] for name in _HEADLINE if values[name] is not None},
        "bundle_sha256": run.bundle.get("sha256"),
        "bundle_rule": run.bundle.get("rule"),
        "data_name": run.header.get("data_name"),
        "fingerprint": f"{run.total.fingerprint:016x} of {run.total.tokens} tokens",
        "fingerprint_scheme": run.header.get("fingerprint_scheme"),
        "grade": run.grade,
        "given_weights": run.given_weights,
        "single_pass": run.single_pass[0],
        "status": run.status,
        **{BASELINES + name: size for name, size in (run.header.get("baselines") or {}).items()},
    }


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
