"""`prequential sync`: a book in W&B as its live run would have left it; the real client, a server on the loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
from books import book, tallies
from click.testing import CliRunner
from fake_wandb import FakeWandb, forget
from lightning.pytorch.loggers import WandbLogger
from torch.utils.data import DataLoader
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
    forget()  # the address and the mode are kept by the process
    with FakeWandb() as fake:
        for name, value in fake.env().items():
            monkeypatch.setenv(name, value)
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR"):
            monkeypatch.setenv(name, str(tmp_path / name))
        yield fake
        forget()


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


def attached(server):
    """Books with their bundles; charts have tables of their own."""
    return [artifact for artifact in server.artifacts if artifact.type == "prequential"]


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
    first, second = attached(server)
    assert (first.type, first.files, first.metadata) == (second.type, second.files, second.metadata)
    assert second.files["book.jsonl"] == (where / "book.jsonl").read_bytes()
    assert not server.errors


def test_sending_twice_changes_nothing(server, tmp_path):
    """The second time nothing is written at all, neither to the run of the training nor to one of its own."""
    where = train(tmp_path)
    first = sync(where, "--project", "again")
    before = [(run.history, run.upserts, run.posts, dict(run.summary)) for run in server.runs.values()]
    assert sync(where, "--project", "again") == first | {"sent_rows": 0, "attached": False}
    assert sync(where) == first | {"run": "fake-entity/toys/live", "sent_rows": 0, "attached": False}
    assert [(run.history, run.upserts, run.posts, dict(run.summary)) for run in server.runs.values()] == before
    assert len(attached(server)) == 2


def test_only_what_is_lacking_is_sent_and_the_rest_of_the_run_stays(server, tmp_path):
    """A run whose end was lost gets it, in order; its owner's x-axes, summary and configuration are as they were."""
    where = train(tmp_path)
    live = server.run("live")
    whole, summary, metrics, config = rows(live), dict(live.summary), declared(live), live.config
    assert metrics["*"] == "trainer/global_step"
    lines = live.lines["wandb-history.jsonl"]
    for number in sorted(lines)[5:]:
        del lines[number]
    kept = len(rows(live))
    live.summary = {name: value for name, value in live.summary.items() if "ratio" not in name}
    server.artifacts.clear()
    sent = sync(where)
    assert (sent["sent_rows"], sent["attached"]) == (9 - kept, True)
    assert 0 < kept < 9
    assert rows(live) == whole
    assert declared(live) == metrics
    assert live.config == config
    assert ours(live.summary) == ours(summary)
    (artifact,) = attached(server)
    assert set(artifact.files) == {"book.jsonl", "bundle.tar.xz"}


@pytest.mark.parametrize("end", ["completed", None])
def test_a_book_without_marks_has_a_row_for_each_interval(server, end):
    """Such as one that was imported from a log; a run that was killed is sent too, and is marked as failed."""
    where = book("run/book.jsonl", tallies([3.0, 2.0, 1.0]), status=end)
    assert sync(where)["sent_rows"] == 3
    assert [row["prequential/tokens"] for row in rows(server.run())] == [1000, 2000, 3000]
    assert server.run().project == "prequential"
    assert server.run().exit_code == (0 if end else 1)


def test_a_charge_made_afterwards_is_one_more_row(server):
    """The rows before it stay as they were."""
    where = book("run/book.jsonl", tallies([3.0, 2.0]))
    sync(where)
    before = rows(server.run())
    charge_book(where, "best of 8 runs", 3.0)
    assert sync(where)["sent_rows"] == 1
    assert rows(server.run())[:-1] == before
    assert rows(server.run())[-1]["prequential/choice_bits"] == 3.0
    assert server.run().summary["prequential/compressed_bytes"] == read_book(where).measured()["compressed_bytes"]
    assert sync(where)["sent_rows"] == 0


def test_an_offline_run_is_written_once_and_sent_once(server, monkeypatch):
    """With nobody to be asked all rows are written, under an id that the book gives; W&B's own command sends them."""
    where = book("run/book.jsonl", tallies([3.0, 2.0, 1.0]))
    monkeypatch.setenv("WANDB_MODE", "offline")
    first, second = sync(where), sync(where)
    assert (first["sent_rows"], second) == (3, first | {"sent_rows": 0, "attached": False})
    assert not server.runs
    wandb.teardown()
    for written in (first, second):
        command = [sys.executable, "-m", "wandb", "sync", "--yes", written["offline_folder"]]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "WANDB_MODE": "online"})
    assert [row["prequential/tokens"] for row in rows(server.run())] == [1000, 2000, 3000]
    assert set(declared(server.run())) == {f"prequential/{name}" for name in REGISTRY}
    monkeypatch.setenv("WANDB_MODE", "online")
    assert sync(where)["sent_rows"] == 0


def test_rows_of_another_run_are_not_mixed_in(server):
    one = book("one/book.jsonl", tallies([3.0, 2.0]))
    other = book("other/book.jsonl", tallies([2.5, 1.5]))
    sync(one, "--run", "fake-entity/p/abc")
    assert "has those of another run" in refused(other, "--run", "fake-entity/p/abc")
    assert len(rows(server.run())) == 2


@pytest.mark.parametrize(
    "named", [{"id": "../x", "project": "p"}, {"id": 1, "project": "p"}, {"id": "x"}, {"id": "x" * 999}]
)
def test_a_book_that_names_no_possible_run_is_refused(named):
    where = book("run/book.jsonl", tallies([3.0]), wandb=named)
    assert "expected entity/project/id" in refused(where)


def test_a_run_that_still_trains_is_left_alone(server):
    where = book("run/book.jsonl", tallies([3.0, 2.0]), status=None)
    sync(where)
    server.run().finished = False
    assert "is running: wait" in refused(where)


@pytest.mark.parametrize("how", ["500", "401", "reset", "vanish", "timeout"])
def test_a_server_that_fails_is_one_line(server, how, monkeypatch):
    monkeypatch.setattr("prequential.integrations.wandb_run._REQUEST_S", 1)
    where = book("run/book.jsonl", tallies([3.0, 2.0]))
    server.fail(how)
    assert "the book has it all" in refused(where)
    server.fail(None)
    forget()
    assert sync(where)["sent_rows"] == 2


def test_what_the_client_calls_synced_is_held_against_the_server(server, monkeypatch):
    """A server that takes nothing of the history ends the upload "well"; the command says that rows are missing."""
    monkeypatch.setattr("prequential.integrations.sync._SEEN_S", 0.1)
    where = book("run/book.jsonl", tallies([3.0, 2.0]))
    server.fault = lambda method, path, operation: 403 if path.endswith("file_stream") else None
    assert "W&B does not show 2 of 2 rows" in refused(where)
    server.fault = None
    assert sync(where)["sent_rows"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "--run", "live"], 1, "expected entity/project/id"),
        (["run", "--run", "toys//live"], 1, "expected entity/project/id"),
        (["run", "--project", "a/b"], 1, "expected entity/project/id"),
        (["run", "--run", "a/b/c", "--project", "p"], 2, "expected --run or --project"),
        (["nothing"], 1, "cannot read nothing"),
    ],
)
def test_what_cannot_be_meant_is_said(arguments, code, said):
    book("run/book.jsonl", tallies([3.0]))
    result = CliRunner().invoke(main, ["sync", *arguments])
    assert (result.exit_code, said in result.output) == (code, True), result.output


class Heard(L.pytorch.loggers.logger.Logger):
    """Keeps the rows it is given."""

    name = version = "heard"

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        if any(name.startswith("prequential/") for name in metrics):
            self.rows.append(metrics)

    def log_hyperparams(self, *args, **kwargs):
        pass


@pytest.mark.parametrize(("grows", "epochs"), [(False, 1), (True, 1), (True, 2)])
def test_a_replay_ends_as_the_training_did(trainer_of, monkeypatch, grows, epochs):
    """Rows that were dropped at the end, and a program that turns out larger, are in a last row of both."""

    def look_again(program, account):
        account.bundle_bytes = 1000
        return {"bundle": {"bundle_bytes": 1000}}

    if grows:
        monkeypatch.setattr("prequential.integrations.program.Program.look_again", look_again)
    heard = Heard()
    monitor = CompressionMonitor(ledger="run", bundle=Bundle(files={"a.py": b"1"}), every_n_steps=3)
    trainer_of(monitor, logger=heard, max_epochs=epochs).fit(
        Toy(), DataLoader(loader(count=30).dataset, batch_size=4, drop_last=True)
    )
    run = read_book(monitor.book)
    assert heard.rows == [{f"prequential/{name}": value for name, value in row.items()} for row in replayed(run)]
    last = {name.removeprefix("prequential/"): value for name, value in heard.rows[-1].items()}
    shown = {name: value for name, value in run.measured().items() if name in last}
    assert shown == {name: last[name] for name in shown}
    assert shown["compressed_bytes"] > 0
