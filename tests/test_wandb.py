"""What reaches W&B: exact rows over tokens, declared keys, a summary, one artifact; and what happens if W&B fails."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import wandb
from click.testing import CliRunner
from fake_wandb import FakeWandb, forget
from lightning.pytorch.loggers import WandbLogger
from toys import VOCABULARY, Toy, loader

from prequential import Bundle, CompressionMonitor
from prequential.cli import main
from prequential.codelength import REGISTRY
from prequential.errors import PrequentialWarning
from prequential.integrations import audience
from prequential.integrations.wandb import declare_metrics
from prequential.ledger import read_book
from prequential.live import replayed


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


# -- W&B away ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A W&B server on the loopback, a client that knows no other, and a short patience."""
    forget()  # the address and the mode are kept by the process
    monkeypatch.setattr(audience, "WAIT_S", 0.5)
    with FakeWandb() as fake:
        for name, value in {**fake.env(), "WANDB_FINISH_TIMEOUT": "1"}.items():
            monkeypatch.setenv(name, value)
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR"):
            monkeypatch.setenv(name, str(tmp_path / name))
        yield fake
        fake.fail(None)
        forget()


class FailAt(L.Callback):
    """Makes a server fail in the middle of an epoch."""

    def __init__(self, server, how):
        self.server, self.how = server, how

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 3:
            self.server.fail(self.how)


def monitor(name):
    return CompressionMonitor(bundle=Bundle(files={"a.py": b"1"}), ledger=name, every_n_steps=2)


def sums_of(path):
    """Lines of a book that say what was measured, without times."""
    lines = map(json.loads, Path(path).read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "elapsed_s"} for line in lines if line["kind"] in ("sums", "end")]


@pytest.mark.parametrize("how", ["500", "401", "timeout", "reset", "vanish"])
def test_training_goes_on_without_the_server(server, trainer_of, how, recwarn):
    """The book is that of a quiet run, fit and finish end while the server is away, and what was lost is sent later."""
    L.seed_everything(0)
    trainer_of(monitor("quiet")).fit(Toy(), loader())
    L.seed_everything(0)
    logger = WandbLogger(project="toys", id="live", settings=wandb.Settings(console="off", silent=True))
    run = monitor("away")
    trainer_of(run, FailAt(server, how), logger=logger).fit(Toy(), loader())
    logger.experiment.finish()  # WANDB_FINISH_TIMEOUT
    assert server.failing == how
    assert sums_of(run.book) == sums_of("quiet/book.jsonl")
    told = [str(w.message) for w in recwarn if w.category is PrequentialWarning]
    assert len(told) == 2
    why = "AuthenticationError" if how == "401" else "TimeoutError: no answer from its server within 0.5 s"
    assert told[0].startswith(f"W&B failed and gets no more values: {why}")
    assert told[1] == f"W&B may lack a part of this run: prequential sync {run.book} sends it"
    assert len(server.run().history) < 5

    server.fail(None)
    server.run().finished = True  # as the server calls a run that is no longer heard of
    forget()
    result = CliRunner().invoke(main, ["sync", str(run.book)])
    assert result.exit_code == 0, result.output
    expected = [{f"prequential/{name}": value for name, value in row.items()} for row in replayed(read_book(run.book))]
    rows = [{k: v for k, v in row.items() if k.startswith("prequential/")} for row in server.run().history]
    assert [row for row in rows if row] == expected


class GoneRun:
    """A W&B run whose process is gone."""

    id, project, entity = "gone", "toys", "fake-entity"

    @property
    def summary(self):
        raise ConnectionResetError("wandb-core is gone")


def test_a_failure_at_the_very_end_leaves_the_book_as_it_is(trainer_of, recwarn):
    """The book is closed by then: nothing is noted on it, and it is not called incomplete."""
    run = monitor("book")
    trainer_of(run).fit(Toy(), loader())
    follower = audience.Audience([GoneRun()], [], failed=lambda message: pytest.fail(message))
    follower.end(read_book(run.book), [run.book])
    assert follower.farewell(read_book(run.book)) == []
    assert [str(w.message).partition(":")[0] for w in recwarn.list[-2:]] == [
        "W&B failed and gets no more values",
        "W&B may lack a part of this run",
    ]


PROGRAM = """
import sys
sys.path[:0] = {path!r}
import logging, lightning as L, wandb
from lightning.pytorch.loggers import WandbLogger
from toys import Toy, loader
from prequential import Bundle, CompressionMonitor

class Filler(L.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 3 and {disk!r}:
            with open({disk!r} + "/filler", "wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)): pass
                except OSError:
                    print("disk full", flush=True)

monitor = CompressionMonitor(bundle=Bundle(files={{"a.py": b"1"}}), ledger="book", every_n_steps=2)
trainer = L.Trainer(accelerator="cpu", max_epochs=1, logger=WandbLogger(project="toys"), callbacks=[monitor, Filler()],
                    enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False)
trainer.fit(Toy(), loader(count=400))
print("fitted", flush=True)
"""


def ended(disk="", *, within=(), **environment):
    """Run the program in a process of its own, to its very end; what it printed."""
    path = [str(Path(__file__).parent), str(Path(audience.__file__).parents[2])]
    Path("program.py").write_text(PROGRAM.format(path=path, disk=disk))
    told = subprocess.run(
        [*within, sys.executable, "program.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        env={**os.environ, "WANDB_SILENT": "false", **environment},
    )
    assert told.returncode == 0, told.stdout
    return told.stdout


def test_the_program_ends_without_the_server(server):
    """Its exit waits for W&B as long as the documented setting says; what we print claims nothing was sent."""
    server.fault = lambda method, path, operation: 500 if path.endswith("file_stream") else None
    told = ended()
    ours = [line for line in told.splitlines() if "prequential: " in line]
    assert "fitted" in told
    assert "which waits for it for 1 s at most; prequential sync" in ours[-1]
    assert not [line for line in ours if "synced" in line.lower()]
    assert not server.run().history
    assert len(sums_of("book/book.jsonl")) > 50


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs a small disk of its own")
def test_an_offline_directory_on_a_full_disk(tmp_path):
    """Training goes on, and the book, which lies elsewhere, is complete."""
    small = tmp_path / "small"
    small.mkdir()
    within = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=2m none {small} && exec "$@"', "sh"]
    if subprocess.run([*within, "true"], capture_output=True).returncode:
        pytest.skip("may not mount a disk")
    places = dict.fromkeys(("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"), str(small))
    told = ended(str(small), within=within, WANDB_MODE="offline", **places)
    assert told.index("disk full") < told.index("No space left on device") < told.index("fitted")
    run = read_book("book/book.jsonl")
    assert (run.status, run.total.coded_tokens, run.end["complete"]) == ("completed", 400 * 6, True)
