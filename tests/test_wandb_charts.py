"""The *Compression* section of a W&B run: which charts it has, from which numbers, and that it never costs a row."""

import json
import math
from pathlib import Path

import lightning as L
import pytest
import wandb
from books import book, tallies
from lightning.pytorch.loggers import WandbLogger
from test_wandb import inspect
from toys import VOCABULARY, Toy, loader

from prequential import Bundle, CompressionMonitor, load_run
from prequential.integrations import audience
from prequential.integrations.charts import log_charts
from prequential.panels import BOOKKEEPING, PANELS

LN2 = math.log(2)
BASELINES = {"uniform": 500, "xz -9e": 300}


class LoggedTo:
    """Keeps the charts that a run is given, as curves by key."""

    def __init__(self):
        self.charts = []

    def log(self, charts):
        self.charts.append({key: _curves(chart.table.data) for key, chart in charts.items()})


def _curves(rows):
    curves = {}
    for tokens, label, value in rows:
        curves.setdefault(label, []).append((tokens, value))
    return curves


def charts_of(path, parts, **header):
    """Charts of a book that is written here."""
    run = LoggedTo()
    log_charts(run, load_run(book(path, parts, **header)))
    return run.charts[0] if run.charts else {}


def test_curves_that_belong_together_are_one_chart():
    """Running sums by hand: 1000 tokens, each a byte, an interval; a bundle of 700 bytes."""
    charts = charts_of("run/book.jsonl", tallies([3.0, 2.0, 1.0]), baselines=BASELINES)
    assert set(charts) == {f"Compression/{key}" for key in ("size", "rate", "ratio", "split")}
    size, rate, split = (charts[f"Compression/{key}"] for key in ("size", "rate", "split"))
    code = [3000 / LN2, 5000 / LN2, 6000 / LN2]
    assert [x for x, _ in size["compressed bytes"]] == [1000, 2000, 3000]
    assert [y for _, y in size["compressed bytes"]] == pytest.approx([bits / 8 + 700 for bits in code])
    assert size["raw bytes"] == size["uniform bytes"] == [(1000, 1000), (2000, 2000), (3000, 3000)]
    assert size["xz -9e"] == [(1000, 300), (3000, 300)]
    assert size["uniform"] == [(1000, 500), (3000, 500)]
    assert [y for _, y in rate["interval bits per byte"]] == pytest.approx([3 / LN2, 2 / LN2, 1 / LN2])
    assert [y for _, y in rate["bits per byte"]] == pytest.approx([c / 1000 / n for n, c in enumerate(code, start=1)])
    assert [y for _, y in split["data bits"]] == pytest.approx(code)
    # Above the floor of the lowest loss so far: 0, then 5000 - 2 x 2000, then 6000 - 1 x 3000 nats.
    assert [y for _, y in split["model bits estimate"]] == pytest.approx([0, 1000 / LN2, 3000 / LN2])


def test_without_bytes_the_rate_is_that_of_a_token():
    charts = charts_of("run/book.jsonl", tallies([3.0, 2.0, 1.0]), bytes_known=False)
    assert set(charts["Compression/rate"]) == {"interval bits per token", "bits per token"}
    assert set(charts["Compression/ratio"]) == {"uniform ratio"}
    assert "raw bytes" not in charts["Compression/size"]


def test_a_long_run_draws_a_few_hundred_points_and_loses_no_peak():
    losses = [2.0] * 20_000
    losses[12_345] = 9.0
    rate = charts_of("run/book.jsonl", tallies(losses))["Compression/rate"]["interval bits per byte"]
    assert 100 < len(rate) <= 300
    assert max(y for _, y in rate) == pytest.approx(9 / LN2)


@pytest.mark.parametrize("losses", [[], [2.0]])
def test_there_is_no_chart_without_a_curve(losses):
    assert charts_of("run/book.jsonl", tallies(losses), baselines=BASELINES) == {}


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """A run with the real client, offline: its folder, and the records that W&B's own reader prints."""
    folder = tmp_path_factory.mktemp("offline")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        monitor = CompressionMonitor(
            token_bytes=[2] * VOCABULARY,
            bundle=Bundle(files={"train.py": b""}),
            ledger=folder / "book",
            every_n_steps=2,
            baselines=BASELINES,
        )
        L.Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=WandbLogger(project="toys", offline=True, save_dir=folder),
            callbacks=[monitor],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            log_every_n_steps=1,
        ).fit(Toy(), loader())
        wandb.finish()
        wandb.teardown()
    (run_folder,) = (folder / "wandb").glob("offline-run-*")
    return folder, [json.loads(line) for line in inspect(run_folder).splitlines()]


def test_opening_a_run_shows_the_section(offline):
    """The charts stand in the run's own configuration, their tables beside it, with the totals of the book."""
    folder, records = offline
    updates = [r["config"]["update"] for r in records if r["type"] == "config" and "update" in r["config"]]
    shown = json.dumps(updates)
    assert "Compression/size" in shown
    assert "Compression/rate" in shown
    assert "wandb/lineseries/v0" in shown
    tables = list((folder / "wandb").rglob("media/table/**/size_table*.json"))
    (curves,) = [_curves(json.loads(table.read_text())["data"]) for table in tables]
    run = load_run(folder / "book")
    assert curves["compressed bytes"][-1] == (run.total.tokens, pytest.approx(run.measured()["compressed_bytes"]))
    assert {"xz -9e", "uniform bytes", "raw bytes"} <= set(curves)


def test_charts_cost_no_row(offline):
    """Every log point is there, and the run reads as if there were no charts."""
    folder, _ = offline
    run, recorded = load_run(folder / "wandb"), load_run(folder / "book")
    assert run.total.nats == pytest.approx(recorded.total.nats, rel=1e-14)
    assert run.total.tokens == recorded.total.tokens
    assert len(run.intervals) == 5


def test_bookkeeping_gets_no_chart_by_itself(offline):
    """What the section and the balance sheet show need not be twenty charts more."""
    _, records = offline
    metrics = {r["metric"].get("name"): r["metric"] for r in records if r["type"] == "metric"}
    hidden = {name.removeprefix("prequential/") for name, m in metrics.items() if m.get("options", {}).get("hidden")}
    assert hidden == BOOKKEEPING & {name.removeprefix("prequential/") for name in metrics if name}
    assert not hidden & {name for panel in PANELS for name in panel.quantities}


def test_a_chart_that_fails_leaves_rows_summary_and_artifact(monkeypatch, trainer_of, tmp_path):
    """A chart is the least that W&B gets: without it the rest goes on."""

    def broken(wandb_run, run):
        raise RuntimeError("no chart today")

    monkeypatch.setattr(audience, "log_charts", broken)
    monitor = CompressionMonitor(token_bytes=[1] * VOCABULARY, bundle=None, ledger="book", every_n_steps=2)
    logger = WandbLogger(project="toys", offline=True, save_dir=tmp_path)
    with pytest.warns(UserWarning, match="no chart today"):
        trainer_of(monitor, logger=logger, log_every_n_steps=1).fit(Toy(), loader())
    assert logger.experiment.summary["prequential/grade"] == "ideal"
    wandb.finish()
    assert load_run(Path("wandb")).total.nats == pytest.approx(load_run("book").total.nats, rel=1e-14)
