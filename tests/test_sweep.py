"""The compressed size as the metric of a sweep: the real client and its agent, and what a server reads of each run."""

import re
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from fake_workspaces import FakeSweep
from lightning.pytorch.loggers import WandbLogger
from toys import VOCABULARY, Toy, loader

from prequential import Bundle, CompressionMonitor, load_run
from prequential.codelength import REGISTRY

wandb = pytest.importorskip("wandb", minversion="0.31")
PAGE = Path(__file__).parents[1] / "docs/how-to/wandb.md"


def documented() -> dict:
    """The sweep that the page shows."""
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return yaml.safe_load(block)


def train():
    """A run as an agent starts it: its setting comes from W&B, everything else is as usual."""
    with wandb.init(settings=wandb.Settings(console="off", finish_timeout=20)) as run:
        torch.manual_seed(0)
        L.Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=WandbLogger(),
            callbacks=[
                CompressionMonitor(
                    token_bytes=[2] * VOCABULARY,
                    bundle=Bundle(files={"train.py": b"print('train')\n"}),
                    ledger=f"books/{run.id}",
                    every_n_steps=2,
                )
            ],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        ).fit(Toy(run.config.learning_rate), loader())


@pytest.fixture
def swept(monkeypatch, tmp_path):
    """A sweep of three learning rates, run by the real agent against a server on the loopback."""
    from wandb.agents.pyagent import Agent

    wandb.teardown()
    monkeypatch.setattr(Agent, "HEARTBEAT_SLEEP_SECONDS", 0.1)
    with FakeSweep([{"learning_rate": rate} for rate in (0.0, 0.1, 30.0)]) as server:
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR"):
            monkeypatch.setenv(name, str(tmp_path / name))
        for name in ("WANDB_PROJECT", "WANDB_SWEEP_ID"):
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        sweep = wandb.sweep({**documented(), "name": "toys"}, project="toys")
        wandb.agent(sweep, function=train, project="toys", entity=server.entity, count=3)
        yield server
        wandb.teardown()


def test_the_sweep_finds_the_compressed_size_of_every_run(swept):
    """The last value in the summary is a plain number, that of the book; the least of them is the best run."""
    metric = yaml.safe_load(swept.config)["metric"]
    assert metric == {"name": "prequential/compressed_bytes", "goal": "minimize"}
    found = {run.name: run.summary[metric["name"]] for run in swept.runs.values()}
    expected = {name: load_run(f"books/{name}").measured()["compressed_bytes"] for name in ("run0", "run1", "run2")}
    assert found == expected
    assert all(type(value) is float for value in found.values())
    assert min(found, key=found.get) != "run2"  # the one that diverges
    assert [run.config["learning_rate"] for run in swept.runs.values()] == [0.0, 0.1, 30.0]
    # To stop early by: bits per byte at equal numbers of rows.
    rows = [
        [row["prequential/bits_per_byte"] for row in run.history if metric["name"] in row]
        for run in swept.runs.values()
    ]
    assert [len(rates) for rates in rows] == [5, 5, 5]
    assert not swept.errors


def test_the_documented_metrics_are_quantities():
    assert documented()["metric"]["name"].removeprefix("prequential/") in REGISTRY
