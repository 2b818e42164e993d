"""Runs of others: the page's own commands on the published curves, and the same verdict from every source."""

import json
import math
import os
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from loss_curves import DATA
from toys import VOCABULARY, Toy, loader

from prequential import Bundle, CompressionMonitor, compare, load_run
from prequential.cli import main
from prequential.errors import ComparisonError
from prequential.sources.imported import run_from_log
from prequential.sources.log import Log
from prequential.sources.reading import Columns, Reading

wandb = pytest.importorskip("wandb", minversion="0.31")
PAGE = (Path(__file__).parents[1] / "docs/explanation/reading-real-runs.md").read_text(encoding="utf-8")
real_curves = pytest.mark.skipif(not DATA.is_dir(), reason="the published loss curves are not here")

# What the page calls a file -> where the curve lies.
FILES = {
    **{name: f"gpt124m-optimizers-{name}" for name in ("adam", "shampoo", "soap", "muon")},
    **{name: f"gpt-{name}" for name in ("width768", "width1024")},
    "sp1024": "golf-sp1024-9layers",
    "sp4096": "golf-sp4096",
    "sp8192": "golf-sp8192",
    "adamw15": "gpt1.5b-adamw",
    "muon15": "gpt1.5b-muon",
}


def call(*arguments):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result


def section(heading: str) -> str:
    """A part of the page, from its heading to the next."""
    return re.split(r"^## ", PAGE.split(f"## {heading}")[1], flags=re.MULTILINE)[0]


def type_in(heading: str) -> dict:
    """Run the commands of a part of the page as they stand; the JSON of the last one."""
    commands = [line[2:] for line in section(heading).splitlines() if line.startswith("$ prequential ")]
    assert commands
    return json.loads([call(*shlex.split(command)[1:], "--json").output for command in commands][-1])


@pytest.fixture
def curves():
    """Lay the published curves where the page has them."""
    for name, file in FILES.items():
        shutil.copy(DATA / f"{file}.csv", f"{name}.csv")


def record_of(name: str) -> dict:
    """What the collection of curves says of one."""
    (found,) = (r for r in json.loads((DATA / "runs.json").read_text()) if r["file"] == f"{FILES[name]}.csv")
    return found


def summed_megabytes(name: str) -> float:
    """The second route: the loss column by hand, times the tokens of a step."""
    lines = (DATA / f"{FILES[name]}.csv").read_text().split()[1:]
    return (
        math.fsum(float(line.split(",")[2]) for line in lines) * record_of(name)["tokens_per_step"] / math.log(2) / 8e6
    )


def row_of(name: str, title: str | None = None) -> str:
    """The row of the page's tables that a run must have."""
    run = load_run(f"runs/{name}")
    error = run.nats_standard_error / math.log(2) / 8e6
    loss = float(record_of(name)["final_val"]["val_loss"])
    return f"| {title or name} | {loss:.4f} | {run.measured()['data_bits'] / 8e6:,.1f} | {error:.1f} |"


# -- the page -------------------------------------------------------------------------------------------------------


def test_llama_from_figures_alone():
    text = section("LLaMA, from figures alone")
    verdict = type_in("LLaMA, from figures alone")["verdict"]
    assert verdict["winner"] == "65B"
    assert f"wins by {verdict['difference_bytes'] / 1e9:.1f} GB" in text
    figures = ["--tokens", "1.4e12", "--nats-per-token", "1.584", "--bundle-bytes", "1e6"]
    for raw, ratio in (("5.6e12", "14.0 to 1"), ("5.24e12", "the ratio to 13.1")):
        record = json.loads(call("estimate", *figures, "--raw-bytes", raw, "--json").output)
        assert f"{record['compression_ratio']:.1f}" in ratio
        assert ratio in text


@real_curves
def test_the_ranking_of_four_optimisers_flips(curves):
    heading = "Four optimisers: the ranking flips"
    compared = type_in(heading)
    assert [run["name"] for run in compared["runs"]] == ["muon", "shampoo", "soap", "adam"]
    final = {name: float(record_of(name)["final_val"]["val_loss"]) for name in ("adam", "shampoo", "soap", "muon")}
    assert sorted(final, key=final.get) == ["soap", "muon", "shampoo", "adam"]
    for name in final:
        assert row_of(name) in section(heading)
        assert load_run(f"runs/{name}").measured()["data_bits"] / 8e6 == pytest.approx(summed_megabytes(name), rel=1e-9)
        assert load_run(f"runs/{name}").grade == "estimate"
    verdict = compared["verdict"]
    assert verdict["winner"] == "muon"
    assert f"{verdict['difference_bytes'] / 1e6:.1f} MB" in section(heading)
    assert any("soap has the lowest final loss" in note for note in compared["notes"])


@real_curves
def test_a_share_of_the_batch_widens_the_interval(curves):
    """The totals stay; what says that they are estimates is the standard error, and with it the interval."""
    options = ["--tokens-per-step", 524288, "--bytes-per-token", 4.5, "--data-name", "FineWeb"]
    width = {}
    for share in (1.0, 0.125):
        for name in ("muon", "soap"):
            call("import", f"{name}.csv", "-o", f"{name} {share}", "--measured-share", share, *options)
        verdict = compare([load_run(f"{name} {share}") for name in ("muon", "soap")]).verdict
        width[share] = verdict.interval_bytes[1] - verdict.interval_bytes[0]
        assert verdict.difference_bytes == pytest.approx(1e6 * (summed_megabytes("soap") - summed_megabytes("muon")))
    assert width[0.125] > width[1.0]


@real_curves
def test_two_widths_are_a_tie(curves):
    heading = "Two widths: a tie"
    compared = type_in(heading)
    assert compared["verdict"]["winner"] is None
    errors = [load_run(f"runs/{name}").nats_standard_error for name in ("width768", "width1024")]
    error = math.hypot(*errors) / math.log(2) / 8
    assert compared["verdict"]["difference_bytes"] / error == pytest.approx(1.2, abs=0.2)
    assert f"{compared['verdict']['difference_bytes'] / 1e6:.1f} MB less" in section(heading)
    assert f"make {error / 1e6:.1f}" in section(heading)
    assert all(row_of(name) in section(heading) for name in ("width768", "width1024"))


@real_curves
def test_three_vocabularies_have_bits_per_byte_in_common(curves):
    heading = "Three vocabularies: bits per byte or nothing"
    type_in(heading)
    runs = [load_run(f"runs/sp{vocabulary}") for vocabulary in (1024, 4096, 8192)]
    for run in runs:
        values = run.measured()
        error = run.nats_standard_error / math.log(2) / values["raw_bytes"]
        assert (
            f"| {run.header['vocab_size']:,} | {values['tokens'] / 1e9:.2f} | {values['raw_bytes'] / 1e9:.2f} "
            f"| {values['bits_per_token']:.3f} | {values['bits_per_byte']:.3f} | {error:.3f} |"
        ) in section(heading)
    by_token, by_byte = ([run.measured()[name] for run in runs] for name in ("bits_per_token", "bits_per_byte"))
    assert by_token == sorted(by_token)
    assert by_byte == sorted(by_byte, reverse=True)
    with pytest.raises(ComparisonError):
        compare(runs)


@real_curves
def test_muon_is_ahead_at_1_5_billion_parameters(curves):
    heading = "1.5 G parameters, 10 G tokens"
    verdict = type_in(heading)["verdict"]
    assert verdict["winner"] == "muon15"
    assert f"Muon by {verdict['difference_bytes'] / 1e6:.1f} MB" in section(heading)
    for name in ("adamw15", "muon15"):
        assert row_of(name) in section(heading)
        assert load_run(f"runs/{name}").measured()["data_bits"] / 8e6 == pytest.approx(summed_megabytes(name), rel=1e-9)


def test_a_log_of_a_few_rows_is_not_said_to_lack_everything():
    """Four rows of 4000 steps: 99.9 % were not logged, which is less than all."""
    rows = {"step": np.array([1.0, 1000.0, 2000.0, 4000.0]), "loss": np.array([4.0, 3.0, 2.5, 2.25])}
    log = Log("run", "log", "CSV", Columns(step="step", loss="loss"), rows)
    assert "99.9 % of the tokens were not logged" in " ".join(run_from_log(log, Reading(tokens_per_step=64)).warnings)


# -- the same verdict from every source -----------------------------------------------------------------------------


def verdict_of(*paths, **options) -> tuple:
    """Winner and bytes: what must not hang on where a run was read from."""
    runs = [replace(load_run(path, **options), name=f"run {number}") for number, path in enumerate(paths)]
    verdict = compare(runs).verdict
    return verdict.winner, verdict.difference_bytes


def log_to_wandb(folder: Path, rows) -> Path:
    """Log rows offline, by the real client."""
    with wandb.init(project="p", mode="offline", dir=folder, settings=wandb.Settings(console="off")) as run:
        for row in rows:
            run.log(row)
    (found,) = (folder / "wandb").glob("offline-run-*")
    return found


def write_csv(path: Path, rows) -> Path:
    names = list(rows[0])
    path.write_text("\n".join([",".join(names), *(",".join(repr(row[n]) for n in names) for row in rows)]) + "\n")
    return path


def made_rows(exponent: float) -> list[dict]:
    return [{"step": n, "tokens": 64 * n, "loss": 2 + 4 * n**-exponent + 0.1 * math.sin(n * n)} for n in range(1, 401)]


def real_rows(name: str) -> list[dict]:
    lines = (DATA / f"{FILES[name]}.csv").read_text().split()[1:]
    return [{"step": int(s), "tokens": int(t), "loss": float(x)} for s, t, x in (line.split(",") for line in lines)]


@pytest.mark.parametrize(
    "two_logs",
    [
        pytest.param(lambda: (made_rows(0.3), made_rows(0.4)), id="made"),
        pytest.param(lambda: (real_rows("soap"), real_rows("muon")), id="soap against muon", marks=real_curves),
    ],
)
def test_logs_of_any_kind_have_one_verdict(two_logs, tmp_path):
    """Two curves as CSV, as W&B offline runs of the real client, and imported as books."""
    options = {"data_name": "D", "bytes_per_token": 4.0, "measured_share": 0.125}
    paths = {"csv": [], "wandb": [], "book": []}
    for number, rows in enumerate(two_logs()):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths["csv"].append(write_csv(folder / "log.csv", rows))
        paths["wandb"].append(log_to_wandb(folder, rows))
        paths["book"].append(folder / "book")
        said = ["--data-name", "D", "--bytes-per-token", 4.0, "--measured-share", 0.125]
        call("import", folder / "log.csv", "-o", folder / "book", *said)
    verdicts = {kind: verdict_of(*found, **(options if kind != "book" else {})) for kind, found in paths.items()}
    assert verdicts["csv"] == verdicts["wandb"] == verdicts["book"]
    assert verdicts["csv"][0] == "run 1"


@pytest.fixture(scope="module")
def instrumented(tmp_path_factory):
    """Two runs with a monitor, each with a book, a W&B offline directory and Lightning's CSV."""
    previous, folders = Path.cwd(), []
    for number, bias in enumerate((2.0, 0.0)):  # the first begins with a prejudice, which it unlearns slowly
        folder = tmp_path_factory.mktemp(f"run{number}")
        os.chdir(folder)
        try:
            monitor = CompressionMonitor(
                token_bytes=[2] * VOCABULARY,
                bundle=Bundle(files={"train.py": b"print('train')\n"}),
                ledger=folder / "book",
                data_name="toys",
                every_n_steps=4,
            )
            L.seed_everything(0)
            module = Toy()
            torch.nn.init.normal_(module.head.bias, std=bias)
            L.Trainer(
                accelerator="cpu",
                max_epochs=1,
                logger=[
                    WandbLogger(project="toys", offline=True, save_dir=folder),
                    CSVLogger(folder, name="csv", version=""),
                ],
                callbacks=[monitor],
                enable_checkpointing=False,
                enable_model_summary=False,
                enable_progress_bar=False,
                log_every_n_steps=1,
            ).fit(module, loader(count=256))
            wandb.finish()
        finally:
            os.chdir(previous)
            wandb.teardown()
        folders.append(folder)
    return folders


@pytest.mark.parametrize("sources", [("wandb", "wandb"), ("csv", "csv"), ("book", "wandb"), ("wandb", "book")])
def test_a_measured_run_has_one_verdict(instrumented, sources):
    """Through W&B, through CSV, and even one run through its book and the other through W&B."""
    books = verdict_of(*(folder / "book" for folder in instrumented))
    others = [folder / source for folder, source in zip(instrumented, sources, strict=True)]
    winner, difference = verdict_of(*others, data_name="toys")
    assert books[0] == winner == "run 1"
    assert difference == pytest.approx(books[1], rel=1e-12)


def test_wandb_says_by_itself_that_the_data_is_the_same(instrumented):
    """By the fingerprint and the bundle's rule in the summary; nothing has to be told by hand."""
    runs = [load_run(folder / "wandb") for folder in instrumented]
    books = [load_run(folder / "book") for folder in instrumented]
    assert [run.total.fingerprint for run in runs] == [book.total.fingerprint for book in books] != [0, 0]
    assert [run.header["data_name"] for run in runs] == ["toys", "toys"]
    assert {run.bundle["rule"] for run in runs} == {book.bundle["rule"] for book in books}
    assert "fingerprints differ" not in " ".join(compare([runs[0], books[1]]).notes)


@pytest.mark.parametrize(
    ("stated", "believed"),
    [
        ("0123456789abcdef of 30 tokens", 0x0123456789ABCDEF),
        ("0123456789abcdef of 20 tokens", 0),
        ("0123456789abcdef", 0),
        ("x of 30 tokens", 0),
        (7, 0),
    ],
)
def test_a_fingerprint_counts_for_the_tokens_that_it_was_taken_of(stated, believed):
    """A summary left by an earlier part of the run says nothing of the whole, and no prefix has one."""
    sums = {"prequential/tokens": np.array([10.0, 20.0, 30.0]), "prequential/nats": np.array([20.0, 40.0, 60.0])}
    log = Log("run", "log", "W&B", Columns(sums=tuple(sums)), sums, {"prequential/fingerprint": stated})
    run = run_from_log(log, Reading())
    assert [interval.tally.fingerprint for interval in run.intervals] == [0, 0, believed]


def test_sizes_under_other_codes_come_back_from_a_summary():
    sums = {"prequential/tokens": np.array([10.0, 20.0]), "prequential/nats": np.array([20.0, 40.0])}
    summary = {"prequential/baselines/xz -9e": 300, "prequential/baselines/odd": "much"}
    log = Log("run", "log", "W&B", Columns(sums=tuple(sums)), sums, summary)
    assert run_from_log(log, Reading()).header["baselines"] == {"xz -9e": 300}
