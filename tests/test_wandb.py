"""What reaches W&B: exact rows over tokens, declared keys, a summary, one artifact; offline, with nothing set up."""

import json
import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import wandb
from lightning.pytorch.loggers import WandbLogger
from toys import VOCABULARY, Toy, loader

from prequential import Bundle, CompressionMonitor
from prequential.codelength import REGISTRY
from prequential.integrations.wandb import declare_metrics
from prequential.ledger import read_book


def inspect(folder: Path, *arguments: str) -> str:
    """What W&B's own reader prints of an offline run."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *arguments, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """One run with a `WandbLogger` offline: its book, its records and its summary as W&B reads them."""
    folder = tmp_path_factory.mktemp("offline")
    previous = Path.cwd()
    os.chdir(folder)
    try:
        logger = WandbLogger(project="toys", offline=True, save_dir=folder)
        bundle = Bundle(files={"train.py": b"print('train')\n"})
        monitor = CompressionMonitor(
            token_bytes=[1] * VOCABULARY,
            bundle=bundle,
            ledger=folder / "run",
            every_n_steps=2,
            source=lambda batch: ["web", "books", "web", "web"],
        )
        L.seed_everything(0)
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=logger,
            callbacks=[monitor],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(Toy(), loader())
        wandb.finish()
    finally:
        os.chdir(previous)
        wandb.teardown()
    (run_folder,) = (folder / "wandb").glob("offline-run-*")
    records = [json.loads(line) for line in inspect(run_folder).splitlines()]
    summary = json.loads(inspect(run_folder, "--summary"))["summary"]
    return read_book(folder / "run" / "book.jsonl"), records, summary, bundle


def test_every_row_has_exact_values_over_tokens(offline):
    """Five log points, tokens that grow, and a last row that equals the book to the last digit."""
    book, records, _, _ = offline
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    rows = [row for row in rows if "prequential/tokens" in row]
    tokens = [row["prequential/tokens"] for row in rows]
    assert tokens == [28, 56, 112, 168, 224]
    values = book.measured()
    for name in ("compressed_bytes", "compression_ratio", "data_bits", "bits_per_byte", "nats"):
        assert rows[-1][f"prequential/{name}"] == values[name]


def test_each_source_has_rows_of_its_own_over_tokens(offline):
    """Under its name, equal to the book, declared with the same x-axis."""
    book, records, _, _ = offline
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    rows = [row for row in rows if "prequential/tokens" in row]
    assert set(book.sources) == {"books", "web"}
    for name, tally in book.sources.items():
        for quantity in ("data_bits", "bits_per_byte", "bits_per_token", "coded_tokens"):
            assert rows[-1][f"prequential/sources/{name}/{quantity}"] == book.measured(tally)[quantity]
    metrics = {m.get("name"): m for m in (record["metric"] for record in records if record["type"] == "metric")}
    assert metrics["prequential/sources/web/data_bits"]["step_metric"] == "prequential/tokens"


def test_the_summary_holds_what_the_runs_table_shows(offline):
    """Final sizes, ratio, bundle hash, grade and verdict are scalars in the summary."""
    book, _, summary, bundle = offline
    values = book.measured()
    assert summary["prequential/compressed_bytes"] == values["compressed_bytes"]
    assert summary["prequential/compression_ratio"] == values["compression_ratio"]
    assert summary["prequential/bits_per_byte"] == values["bits_per_byte"]
    assert summary["prequential/bundle_sha256"] == bundle.sha256
    assert summary["prequential/grade"] == "ideal"
    assert summary["prequential/single_pass"] == "unknown"


def test_book_and_bundle_are_attached_as_one_artifact(offline):
    """The artifact has both files, complete, with the bundle's identity."""
    book, records, _, bundle = offline
    artifacts = [record["artifact"] for record in records if record["type"] == "artifact"]
    (artifact,) = [artifact for artifact in artifacts if artifact["type"] == "prequential"]  # charts have their tables
    assert artifact["name"].startswith("prequential-")
    sizes = {file["path"]: int(file["size"]) for file in artifact["manifest"]["contents"]}
    assert sizes == {"book.jsonl": Path(book.path).stat().st_size, "bundle.tar.xz": bundle.bundle_bytes}
    assert json.loads(artifact["metadata"])["bundle_sha256"] == bundle.sha256


class FakeRun:
    """Keeps the declarations it is given."""

    def __init__(self):
        self.declared = {}

    def define_metric(self, name, step_metric=None, hidden=None):
        self.declared[name] = step_metric


def test_every_key_is_declared_by_its_exact_name():
    """No glob: W&B would pick between it and Lightning's own at random."""
    run = FakeRun()
    declare_metrics(run)
    assert set(run.declared) == {f"prequential/{name}" for name in REGISTRY}
    assert run.declared.pop("prequential/tokens") is None
    assert set(run.declared.values()) == {"prequential/tokens"}
