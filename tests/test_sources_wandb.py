"""The same run through its book and every log that its loggers wrote; W&B by its own reader and its real client."""

import json
import math
import os
import subprocess
from pathlib import Path

import lightning as L
import pytest
from click.testing import CliRunner
from fake_wandb import FakeWandb
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from toys import VOCABULARY, Toy, loader

from prequential import Bundle, CompressionMonitor, load_run
from prequential.cli import main
from prequential.errors import BookError, SourceError
from prequential.sources import import_run
from prequential.sources.reading import Reading

wandb = pytest.importorskip("wandb", minversion="0.31")
pytest.importorskip("tensorboard")

LOSSES = [3.0, 2.5, 2.25, 2.0, 1.75]


class LoggingToy(Toy):
    """A toy that logs its loss too, as scripts do."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss)
        return loss


def train(folder: Path, loggers) -> Path:
    """Train once with a book and some loggers; first tokens are charged, and every second step is logged."""
    monitor = CompressionMonitor(
        token_bytes=[3] * VOCABULARY,
        bundle=Bundle(files={"train.py": b"print('train')\n"}),
        ledger=folder / "book",
        every_n_steps=2,
        charges={"best of 8 runs": 3.0},
    )
    L.seed_everything(0)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=loggers,
        callbacks=[monitor],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=1,
    )
    trainer.fit(LoggingToy(), loader())
    wandb.finish()
    return folder / "book"


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """One run, with its book and the logs of three loggers."""
    folder = tmp_path_factory.mktemp("logged")
    previous = Path.cwd()
    os.chdir(folder)
    try:
        train(
            folder,
            [
                WandbLogger(project="toys", offline=True, save_dir=folder),
                CSVLogger(folder, name="csv", version=""),
                TensorBoardLogger(folder, name="tb", version=""),
            ],
        )
    finally:
        os.chdir(previous)
        wandb.teardown()
    return folder


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


def upload(name: str, rows, *, summary=None, fails=False) -> str:
    """Log rows to the server as a script of no kind does, and tell where the run is."""
    settings = wandb.Settings(console="off", finish_timeout=20)
    with wandb.init(project="toys", id=name, settings=settings) as run:
        for row in rows:
            run.log(row)
        run.summary.update(summary or {})
        where = f"wandb:{run.entity}/{run.project}/{run.id}"
        if fails:
            run.finish(exit_code=1)
    return where


def without_fingerprints(run):
    values = run.measured()
    return {name: value for name, value in values.items() if name != "final_nats_per_token"}


# -- the same run by every way --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["wandb", "csv", "csv/metrics.csv"])
def test_our_own_sums_are_those_of_the_book(logged, path):
    book, run = load_run(logged / "book"), load_run(logged / path)
    expected = without_fingerprints(book)
    assert without_fingerprints(run) == pytest.approx(expected, rel=1e-14)
    assert expected["uncoded_bits"] > 0
    assert expected["choice_bits"] == 3.0
    assert (run.grade, run.nats_standard_error, run.bytes_known) == ("ideal", None, True)
    assert run.header["vocab_size"] == VOCABULARY


def test_a_summary_tells_verdict_bundle_and_status(logged):
    book, run = load_run(logged / "book"), load_run(logged / "wandb")
    assert run.bundle["sha256"] == book.bundle["sha256"]
    assert (run.status, run.single_pass[0]) == ("completed", book.single_pass[0])
    assert "events" in " ".join(run.warnings)


def test_intervals_are_sums_between_log_points(logged):
    """Interval sums of the book, added up between the boundaries that the log has."""
    book, run = load_run(logged / "book"), load_run(logged / "wandb")
    ends = [sum(i.tally.tokens for i in run.intervals[: n + 1]) for n in range(len(run.intervals))]
    nats, tokens, expected = 0.0, 0, []
    for interval in book.intervals:
        nats, tokens = nats + interval.tally.nats, tokens + interval.tally.tokens
        if tokens in ends:
            expected.append(nats)
            nats = 0.0
    assert len(expected) == len(ends) > 3
    assert [interval.tally.nats for interval in run.intervals] == pytest.approx(expected, rel=1e-12)


def test_tensorboard_rounds_and_says_so(logged):
    book, run = load_run(logged / "book"), load_run(logged / "tb")
    assert run.total.nats == pytest.approx(book.total.nats, rel=1e-7)
    assert run.total.coded_tokens == book.total.coded_tokens
    assert run.grade == "estimate"
    assert abs(run.total.nats - book.total.nats) <= 2 * run.nats_standard_error + 1e-9
    assert "single precision" in " ".join(run.warnings)


@pytest.mark.parametrize("path", ["wandb", "csv", "tb"])
def test_the_loss_that_the_script_logged_gives_an_estimate_of_the_same(logged, path):
    """24 coded tokens a step, all of them logged: the estimate lacks what only the instrument knows."""
    book = load_run(logged / "book")
    tokens = book.total.coded_tokens // 8
    run = load_run(logged / path, columns={"loss": "train_loss"}, tokens_per_step=tokens)
    assert run.grade == "estimate"
    assert run.total.nats == pytest.approx(book.total.nats, rel=1e-6)
    assert run.total.uncoded_tokens == 0


@pytest.mark.parametrize("path", ["wandb", "csv", "tb"])
def test_an_import_is_a_book_of_the_same_sums(logged, path):
    direct = load_run(logged / path)
    imported = import_run(logged / path, "out", Reading())
    assert imported.measured() == direct.measured()
    assert imported.grade == direct.grade
    assert imported.single_pass == direct.single_pass
    assert [(i.step, i.tally) for i in imported.intervals] == [(i.step, i.tally) for i in direct.intervals]


# -- offline --------------------------------------------------------------------------------------------------------


def offline(rows, summary=None, exit_code=0) -> Path:
    folder = Path.cwd()  # a relative one would be relative to where W&B's own process was started
    with wandb.init(project="toys", mode="offline", dir=folder, settings=wandb.Settings(console="off")) as run:
        for row in rows:
            run.log(row)
        run.summary.update(summary or {})
        run.finish(exit_code=exit_code)
    (folder,) = Path("wandb").glob("offline-run-*")
    return folder


def test_an_uninstrumented_run_is_read_by_folder_and_file():
    folder = offline([{"tokens": 100 * (n + 1), "train/loss": loss} for n, loss in enumerate(LOSSES)], exit_code=1)
    (file,) = folder.glob("*.wandb")
    for path in (folder, file, "wandb"):
        run = load_run(path)
        assert run.total.nats == pytest.approx(100 * sum(LOSSES))
        assert (run.grade, run.status) == ("estimate", "failed")


def test_nested_metrics_have_dotted_names():
    folder = offline([{"tokens": 100 * (n + 1), "train": {"loss": loss}} for n, loss in enumerate(LOSSES)])
    assert load_run(folder, columns={"loss": "train.loss"}).total.nats == pytest.approx(100 * sum(LOSSES))


def test_a_summary_whose_parts_do_not_add_up_is_not_believed():
    rows = [{"prequential/tokens": 10 * n, "prequential/nats": 20.0 * n} for n in (1, 2, 3)]
    final = {"prequential/tokens": 40, "prequential/nats": 60.0, "prequential/compressed_bytes": 99.0}
    run = load_run(offline(rows, summary=final))
    assert (run.total.tokens, run.total.nats) == (30, 60.0)
    assert "do not add up" in " ".join(run.warnings)


def test_a_summary_of_an_earlier_point_takes_no_rows_away():
    """As where the client was killed between two writes: parts that add up, but not the last ones."""
    rows = [{"prequential/tokens": 10 * n, "prequential/nats": 20.0 * n} for n in (1, 2, 3)]
    early = {"prequential/tokens": 20, "prequential/nats": 40.0, "prequential/compressed_bytes": 40 / math.log(2) / 8}
    run = load_run(offline(rows, summary=early))
    assert (run.total.tokens, run.total.nats) == (30, 60.0)


def test_rows_after_a_rewind_take_the_place_of_those_before():
    points = [(10, 30.0), (20, 50.0), (30, 70.0), (20, 52.0), (30, 71.0), (40, 90.0)]
    run = load_run(offline([{"prequential/tokens": t, "prequential/nats": n} for t, n in points]))
    assert [(i.tally.coded_tokens, i.tally.nats) for i in run.intervals] == [(10, 30), (10, 22), (10, 19), (10, 19)]


def test_sums_that_fall_are_refused():
    rows = [{"prequential/tokens": 10 * n, "prequential/nats": 1.0, "prequential/raw_bytes": -n} for n in (1, 2, 3)]
    with pytest.raises(SourceError, match="never fall"):
        load_run(offline(rows))


def test_a_file_that_is_none_of_wandbs_is_one_line():
    Path("x.wandb").write_bytes(b"noise" * 100)
    result = CliRunner().invoke(main, ["show", "x.wandb"])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    with pytest.raises(SourceError):
        load_run("missing.wandb")


def test_an_older_wandb_is_told_from_a_bad_file(monkeypatch):
    Path("x.wandb").write_bytes(b"")

    class Old:
        returncode = 2
        stdout = ()

        def __init__(self, *_, stderr, **__):
            stderr.write(b"Usage: wandb [OPTIONS]\n\nError: No such command 'leet'.\n")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(subprocess, "Popen", Old)
    with pytest.raises(SourceError, match=r"wandb 0\.31 or newer"):
        load_run("x.wandb")


# -- online ---------------------------------------------------------------------------------------------------------


def test_an_attached_book_is_read_and_imported_as_it_is(server, tmp_path):
    """A run recorded online: the book that comes back is the one that was written, byte for byte."""
    book = train(tmp_path, WandbLogger(project="toys", save_dir=tmp_path))
    where = f"wandb:{server.entity}/toys/{server.run().name}"
    run = load_run(where)
    assert run.intervals == load_run(book).intervals
    assert run.measured() == load_run(book).measured()
    assert (run.path, run.total.fingerprint) == (where, load_run(book).total.fingerprint)
    import_run(where, "out", Reading())
    assert Path("out/book.jsonl").read_bytes() == (book / "book.jsonl").read_bytes()
    with pytest.raises(BookError, match="existing"):
        import_run(where, "out", Reading())
    server.artifacts.clear()
    from_sums = load_run(where)
    assert without_fingerprints(from_sums) == pytest.approx(without_fingerprints(run), rel=1e-14)
    assert not server.errors


def test_the_whole_history_is_read_and_no_sample(server):
    """More rows than W&B's sample of 500 holds."""
    rows = [{"tokens": 100 * (n + 1), "train/loss": 3.0 - n / 1000, "lr": 0.1} for n in range(1200)]
    where = upload("long", rows)
    run = load_run(where)
    assert run.total.nats == pytest.approx(100 * sum(row["train/loss"] for row in rows))
    assert (len(run.intervals), run.grade, run.status) == (1200, "estimate", "completed")
    result = CliRunner().invoke(main, ["show", where, "--json"])
    assert json.loads(result.output)["nats"] == run.total.nats
    imported = import_run(where, "out", Reading())
    assert imported.total == run.total


def test_losses_and_tokens_logged_in_rows_of_their_own_are_joined_by_steps(server):
    rows = []
    for n, loss in enumerate(LOSSES):
        rows += [{"global_step": n + 1, "loss": loss}, {"global_step": n + 1, "tokens": 100 * (n + 1)}]
    assert load_run(upload("apart", rows)).total.nats == pytest.approx(100 * sum(LOSSES))


def test_a_failed_run_is_told(server):
    where = upload("bad", [{"tokens": 100 * (n + 1), "loss": loss} for n, loss in enumerate(LOSSES)], fails=True)
    assert server.run().exit_code == 1
    assert load_run(where).total.coded_tokens == 500


@pytest.mark.parametrize("where", ["wandb:", "wandb:toys/x", "wandb:a/b/c/d", "wandb:a//c"])
def test_a_path_of_another_form_is_refused_before_anything_is_asked(where):
    with pytest.raises(SourceError, match="wandb:entity/project/id"):
        load_run(where)


def test_a_run_that_is_not_there_is_one_line(server):
    with pytest.raises(SourceError, match="cannot read it") as error:
        load_run(f"wandb:{server.entity}/toys/nothing")
    assert "\n" not in str(error.value)


def test_a_server_that_refuses_is_one_line(server):
    server.fault = lambda method, path, operation: 403
    result = CliRunner().invoke(main, ["show", f"wandb:{server.entity}/toys/x"])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
