"""`prequential sync`: a book in W&B as its live run would have left it, by the real client and a server on the loopback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
from books import book, tallies
from click.testing import CliRunner
from fake_wandb import FakeWandb
from lightning.pytorch.loggers import WandbLogger
from toys import VOCABULARY, Toy, loader

from prequential import Bundle, CompressionMonitor
from prequential.cli import main
from prequential.codelength import REGISTRY
from prequential.ledger import charge_book, read_book
from prequential.live import replayed

wandb = pytest.importorskip("wandb", minversion="0.31")


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A W&B server on the loopback, and a client that knows no other."""
    wandb.teardown()  # the address and the mode are kept by the process
    with FakeWandb() as fake:
        for name, value in fake.env().items():
            monkeypatch.setenv(name, value)
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR"):
            monkeypatch.setenv(name, str(tmp_path / name))
        yield fake
        wandb.teardown()


def train(folder: Path, **options) -> Path:
    """Train once with a `WandbLogger`, and tell where the book is; two epochs, sources, first tokens, a charge."""
    logger = WandbLogger(project="toys", id="live", save_dir=folder, settings=wandb.Settings(console="off"))
    monitor = CompressionMonitor(
        token_bytes=[3] * VOCABULARY,
        bundle=Bundle(files={"train.py": b"print('train')\n", "config.json": b'{"module":{"lr":0.5},"seed":0}'}),
        ledger=folder / "book",
        every_n_steps=3,
        charges={"best of 8 runs": 3.0},
        source=lambda batch: ["web", "books", "web", "web"],
    )
    L.seed_everything(0)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=logger,
        callbacks=[monitor],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=1,
        **options,
    )
    trainer.fit(Toy(), loader())
    logger.experiment.finish()
    return folder / "book"


def rows(run):
    """Rows of ours that reached the server, without what W&B adds to them."""
    found = [{k: v for k, v in row.items() if k.startswith("prequential/")} for row in run.history]
    return [row for row in found if row]


def declared(run):
    """X-axis by name of metric, as the server stores it."""
    return {m.get("1", m.get("2")): run.metrics[m["5"] - 1]["1"] if "5" in m else None for m in run.metrics}


def ours(summary):
    return {name: value for name, value in summary.items() if name.startswith("prequential/")}


def sync(*arguments):
    result = CliRunner().invoke(main, ["sync", "--json", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments):
    result = CliRunner().invoke(main, ["sync", *map(str, arguments)])
    assert result.exit_code == 1
    assert result.output.startswith("Error: expected ")
    assert len(result.output.splitlines()) == 1
    return result.output


def test_a_replay_leaves_in_a_new_run_what_the_live_run_left(server, tmp_path):
    """Rows to the last digit, x-axes, summary, files; and the configuration that the bundle holds."""
    where = train(tmp_path)
    live = server.run("live")
    assert len(rows(live)) == 9
    assert sync(where, "--project", "again")["sent_rows"] == 9
    (copy,) = (run for run in server.runs.values() if run.project == "again")
    assert rows(copy) == rows(live)
    assert {name: axis for name, axis in declared(live).items() if name.startswith("prequential/")} == declared(copy)
    assert declared(copy)["prequential/sources/web/data_bits"] == "prequential/tokens"
    assert ours(copy.summary) == ours(live.summary)
    assert (copy.config["lr"], copy.config["seed"], copy.finished, copy.exit_code) == (0.5, 0, True, 0)
    first, second = server.artifacts
    assert (first.type, first.files, first.metadata) == (second.type, second.files, second.metadata)
    assert second.files["book.jsonl"] == (where / "book.jsonl").read_bytes()
    assert not server.errors
