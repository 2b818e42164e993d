"""Runs from CSV files and TensorBoard events: columns, tokens, what is missing, and what cannot be read."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from books import book, tallies
from click.testing import CliRunner

from prequential import compare, load_run
from prequential.cli import main
from prequential.errors import BookError, ComparisonError, PrequentialError, SourceError
from prequential.sources import import_run
from prequential.sources.reading import Reading

CURVES = Path(__file__).parents[2] / "shared" / "data" / "loss-curves"
LOSSES = [round(2.8 + 6 * step**-0.35, 4) for step in range(1, 41)]
TOKENS = 512


def table(path: str, header: str, rows) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.fixture
def log():
    """Write a log of every step: step, tokens, loss."""
    rows = [(step, step * TOKENS, loss) for step, loss in enumerate(LOSSES, start=1)]
    return table("log.csv", "step,tokens,loss", rows)


def nats(path: str, **said) -> float:
    return load_run(path, **said).total.nats


EVERY_STEP = math.fsum(LOSSES) * TOKENS


# -- a run that was never instrumented ------------------------------------------------------------------------------


def test_a_log_of_every_step_is_its_sum_and_an_estimate(log):
    run = load_run(log)
    assert run.total.nats == pytest.approx(EVERY_STEP, rel=1e-12)
    assert (run.total.coded_tokens, len(run.intervals)) == (40 * TOKENS, 40)
    assert (run.grade, run.nats_standard_error, run.status, run.name) == ("estimate", 0.0, "imported", Path.cwd().name)
    assert run.single_pass[0] == "unknown"


def test_every_missing_half_is_named(log):
    warnings = " ".join(load_run(log).warnings)
    assert "no bundle" in warnings
    assert "no raw bytes" in warnings
    assert "taken for the mean of -ln p" in warnings
    given = load_run(log, bytes_per_token=4.0, vocab_size=1000)
    assert "no raw bytes" not in " ".join(given.warnings)
    assert given.measured()["raw_bytes"] == 4 * 40 * TOKENS
    assert given.measured()["uniform_ratio"] is not None


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("step,tokens,loss", {}),
        ("_step,tokens_seen,train/loss", {}),
        ("Iteration,num_input_tokens_seen,Loss", {}),
        ("trainer/global_step,train/tokens,train_loss", {}),
        ("a,b,c", {"columns": {"step": "a", "tokens": "b", "loss": "c"}}),
        ("step,tokens,ce", {"columns": {"loss": "ce"}}),
    ],
)
def test_columns_are_found_by_the_names_that_trainers_use_or_those_given(header, said):
    rows = [(step, step * TOKENS, loss) for step, loss in enumerate(LOSSES, start=1)]
    assert nats(table("x.csv", header, rows), **said) == pytest.approx(EVERY_STEP)


def test_a_given_column_wins_over_a_known_one():
    path = table("x.csv", "step,loss,ce", [(step, 9, loss) for step, loss in enumerate(LOSSES, start=1)])
    assert nats(path, columns={"loss": "ce"}, tokens_per_step=TOKENS) == pytest.approx(EVERY_STEP)


@pytest.mark.parametrize("first", [0, 1])
def test_steps_and_tokens_per_step_make_tokens_from_0_or_1_on(first):
    path = table("x.csv", "step,loss", enumerate(LOSSES, start=first))
    run = load_run(path, tokens_per_step=TOKENS)
    assert run.total.nats == pytest.approx(EVERY_STEP)
    assert run.total.coded_tokens == 40 * TOKENS


def test_tokens_counted_before_the_step_are_known_by_a_first_count_of_0():
    rows = [(step, step * TOKENS, loss) for step, loss in enumerate(LOSSES)]
    run = load_run(table("x.csv", "step,tokens,loss", rows))
    assert (run.total.nats, run.total.coded_tokens) == (pytest.approx(EVERY_STEP), 40 * TOKENS)


@pytest.mark.parametrize(("first", "tokens"), [(49, 10), (50, 10)])
def test_every_fiftieth_step_covers_the_steps_before_the_first_row(first, tokens):
    """Lightning logs step 49 first and others step 50: 50 steps either way."""
    rows = [(first + 50 * row, loss) for row, loss in enumerate(LOSSES)]
    run = load_run(table("x.csv", "step,loss", rows), tokens_per_step=tokens)
    assert run.total.coded_tokens == 50 * 40 * tokens
    assert "the first 490 tokens lie before the first row" in " ".join(run.warnings)
    assert run.intervals[0].tally.nats > 50 * tokens * LOSSES[0]  # they cost more than the first logged step


def test_a_batch_that_grows_is_counted_by_the_column_of_tokens():
    own = [TOKENS] * 20 + [2 * TOKENS] * 20
    rows = zip(range(1, 41), np.cumsum(own), LOSSES, strict=True)
    run = load_run(table("x.csv", "step,tokens,loss", rows))
    assert run.total.nats == pytest.approx(math.fsum(o * loss for o, loss in zip(own, LOSSES, strict=True)))
    assert run.nats_standard_error == 0


def test_averaged_losses_stand_for_all_tokens_since_the_row_before():
    rows = [(step, loss) for step, loss in zip(range(10, 401, 10), LOSSES, strict=True)]
    run = load_run(table("x.csv", "step,loss", rows), tokens_per_step=TOKENS, averaged=True)
    assert run.total.nats == pytest.approx(10 * EVERY_STEP)
    assert run.nats_standard_error == 0


def test_tokens_in_rows_of_their_own_are_put_beside_the_losses():
    rows = [row for step, loss in enumerate(LOSSES, start=1) for row in ((step, "", loss), (step, step * TOKENS, ""))]
    assert nats(table("x.csv", "step,tokens,loss", rows)) == pytest.approx(EVERY_STEP)


def test_a_resumed_run_counts_each_step_once_and_says_so():
    steps = [*range(1, 31), *range(21, 41)]
    rows = [(step, step * TOKENS, LOSSES[step - 1]) for step in steps]
    run = load_run(table("x.csv", "step,tokens,loss", rows))
    assert run.total.nats == pytest.approx(EVERY_STEP)
    assert "10 rows were left out" in " ".join(run.warnings)


def test_losses_that_are_no_numbers_are_said_and_filled_from_their_neighbours():
    rows = [(step, step * TOKENS, loss) for step, loss in enumerate(LOSSES, start=1)]
    rows[20], rows[30] = (21, 21 * TOKENS, "nan"), (31, 31 * TOKENS, "inf")
    run = load_run(table("x.csv", "step,tokens,loss", rows))
    assert run.total.nats == pytest.approx(EVERY_STEP, rel=1e-3)
    assert run.nats_standard_error > 0
    assert "2 logged losses are NaN or infinite" in " ".join(run.warnings)


def test_a_measured_share_widens_the_error(log):
    assert load_run(log, measured_share=0.125).nats_standard_error > 0
    assert "measured on 12.5 % of each step" in " ".join(load_run(log, measured_share=0.125).warnings)


@pytest.mark.skipif(not CURVES.exists(), reason="the loss curves of real runs are not here")
def test_real_runs_have_the_published_sums():
    records = json.loads((CURVES / "runs.json").read_text())
    for record in [r for r in records if r["rows"] > 1000]:
        share = (record["tokens_measured_per_row"] or record["tokens_per_step"]) / record["tokens_per_step"]
        run = load_run(CURVES / record["file"], measured_share=share)
        assert run.total.nats == pytest.approx(float(record["sum_of_loss_column"]) * record["tokens_per_step"])
        assert run.total.coded_tokens == record["last_row"][1]
        assert 0 <= run.nats_standard_error < 5e-3 * run.total.nats


@pytest.mark.skipif(not CURVES.exists(), reason="the loss curves of real runs are not here")
def test_a_real_run_without_its_warm_up_and_tokens_needs_them_told():
    path = CURVES / "mpl-25m-constant24000.csv"
    with pytest.raises(SourceError, match="tokens_per_step"):
        load_run(path)
    run = load_run(path, tokens_per_step=1000)
    assert run.total.coded_tokens == 23_936_000
    assert run.nats_standard_error > 0.03 * run.total.nats  # a tenth of the run was never logged


def test_a_long_log_becomes_a_book_of_bearable_length():
    losses = np.round(2.8 + 6 * np.arange(1.0, 60_001) ** -0.35, 6)
    run = load_run(table("x.csv", "step,tokens,loss", zip(range(1, 60_001), range(7, 420_001, 7), losses, strict=True)))
    assert len(run.intervals) == 20_000
    assert [interval.step for interval in run.intervals[:3]] == [1, 2, 3]
    assert (run.intervals[-1].step, run.total.coded_tokens) == (60_000, 420_000)
    assert run.total.nats == pytest.approx(7 * math.fsum(losses), rel=1e-12)


# -- forms of CSV ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", "\t", ";", ", "])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("gaps", [False, True])
def test_separators_line_ends_quotes_and_empty_cells(separator, newline, gaps):
    lines = [["step", "tokens", '"loss"', "lr"]]
    for step, loss in enumerate(LOSSES, start=1):
        lines.append([step, step * TOKENS, f'"{loss}"', "" if gaps else 0.1])
        if gaps:
            lines += [[step, "", "", 0.1], []]
    text = newline.join(separator.join(map(str, line)) for line in lines) + newline
    Path("x.tsv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    if separator == ", ":
        text = text.replace('"', "")
        Path("x.tsv").write_text(text, newline="")
    assert nats("x.tsv") == pytest.approx(EVERY_STEP)


def test_a_torn_last_line_is_left_out_and_said(log):
    Path(log).write_text(Path(log).read_text() + "41,209")
    run = load_run(log)
    assert run.total.nats == pytest.approx(EVERY_STEP)
    assert "cut short" in run.warnings[0]


def test_lightnings_metrics_are_found_in_their_folder_and_named_by_it():
    rows = [(step // 10, step, loss) for step, loss in enumerate(LOSSES)]
    table("logs/version_0/metrics.csv", "epoch,step,train_loss", rows)
    for path in ("logs/version_0/metrics.csv", "logs/version_0", "logs"):
        run = load_run(path, tokens_per_step=TOKENS)
        assert (run.name, run.total.nats) == ("version_0", pytest.approx(EVERY_STEP))


def test_a_text_file_of_any_name_is_read_once_something_was_said_of_it(log):
    Path(log).rename("run.txt")
    assert nats("run.txt", columns={"loss": "loss"}) == pytest.approx(EVERY_STEP)


# -- what cannot be read --------------------------------------------------------------------------------------------


ROWS = [(1, 10, 3), (2, 20, 2), (3, 30, 2), (4, 40, 2)]
BAD = {
    "empty": ("", "column of losses"),
    "noise": (bytes(range(256)) * 9, "no UTF-8"),
    "no rows": ("step,tokens,loss\n", "3 losses or more"),
    "two rows": ("step,tokens,loss\n1,10,3\n2,20,2\n", "got 2"),
    "no loss": ("step,tokens,accuracy\n1,10,3\n", "'accuracy'.*--loss-column"),
    "words": ("step,tokens,loss\n1,10,3\n2,20,high\n3,30,2\n", "line 3 of .*'high'"),
    "ragged": ("step,tokens,loss\n1,10,3\n2,20\n3,30,2\n", "line 3 .*got 2"),
    "negative": ("step,tokens,loss\n1,10,-3\n2,20,2\n3,30,2\n4,40,2\n", "losses of 0 or more.*-3"),
    "no tokens": ("step,loss\n1,3\n2,2\n3,2\n", "tokens_per_step"),
    "no steps": ("tokens,loss\n10,3\n20,2\n30,2\n", "steps.*tokens_per_step"),
    "loss alone": ("loss\n3\n2\n2\n", "steps and tokens_per_step"),
    "negative tokens": ("step,tokens,loss\n1,-30,3\n2,-20,2\n3,-10,2\n", "tokens of 0 or more"),
    "tokens past counting": ("step,tokens,loss\n1,1e30,3\n2,2e30,2\n3,3e30,2\n", "2\\*\\*53"),
    "infinite": ("step,tokens,loss\n1,10,inf\n2,20,inf\n3,30,inf\n", "3 losses or more"),
    "losses without steps": ("step,tokens,loss\n1,10,3\n,20,2\n3,30,2\n4,40,2\n", "'step' beside every loss"),
    "a book": ('{"kind": "header", "book": 1}\n', "column of losses"),
    "a nul": ("step,tokens,loss\n1,10,\0\n", "cannot read|number in line 2"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_log_is_one_line_and_nothing_is_written(kind):
    content, message = BAD[kind]
    Path("x.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SourceError, match=message) as error:
        load_run("x.csv")
    assert "\n" not in str(error.value)
    result = CliRunner().invoke(main, ["import", "x.csv", "-o", "out"])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"columns": {"losses": "loss"}}, "losses"),
        ({"columns": {"loss": "los"}}, "'los' in log.csv.*'loss'"),
        ({"tokens_per_step": 0}, "above 0, got 0"),
        ({"bytes_per_token": math.nan}, "above 0, got nan"),
        ({"vocab_size": -1}, "above 0"),
        ({"measured_share": 1.5}, "at most 1, got 1.5"),
        ({"measured_share": 0}, "at most 1, got 0"),
    ],
)
def test_what_is_said_of_a_log_must_make_sense(log, said, message):
    with pytest.raises(SourceError, match=message):
        load_run(log, **said)


def test_a_missing_log_and_several_in_a_folder_are_said(log):
    with pytest.raises(SourceError, match="No such file"):
        load_run("none.csv")
    table("a/metrics.csv", "step,loss", ROWS)
    table("b/metrics.csv", "step,loss", ROWS)
    with pytest.raises(SourceError, match=r"found 2 logs \(a/metrics.csv, b/metrics.csv\): name one"):
        load_run(".")


def test_a_book_in_a_folder_comes_before_logs(log):
    book("run/book.jsonl", tallies([1.0]))
    table("run/metrics.csv", "step,loss", ROWS)
    assert load_run("run").grade == "ideal"


# -- import ---------------------------------------------------------------------------------------------------------


def test_an_imported_run_is_a_book_that_tells_the_same():
    table("thin.csv", "step,tokens,ce", [(s, s * TOKENS, LOSSES[s - 1]) for s in range(3, 41, 3)])
    arguments = ["import", "thin.csv", "-o", "runs/thin", "--loss-column", "ce", "--bytes-per-token", "3.5"]
    result = CliRunner().invoke(main, [*arguments, "--measured-share", "0.5", "--name", "thin", "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.output)
    direct = load_run("thin.csv", columns={"loss": "ce"}, bytes_per_token=3.5, measured_share=0.5)
    imported = load_run("runs/thin")
    assert imported.total == direct.total
    assert imported.intervals == direct.intervals
    assert imported.nats_standard_error == direct.nats_standard_error > 0
    assert record["nats_standard_error"] == direct.nats_standard_error
    assert (imported.grade, imported.name, imported.status) == ("estimate", "thin", "imported")
    assert [event["message"] for event in imported.events] == direct.warnings
    assert imported.warnings == []
    shown = CliRunner().invoke(main, ["show", "runs/thin"]).output
    assert "standard error" in shown
    assert "two standard errors" in "\n".join(imported.summary())


def test_a_book_is_neither_overwritten_nor_imported(log):
    import_run(log, "out", Reading())
    before = Path("out/book.jsonl").read_bytes()
    with pytest.raises(BookError, match=r"existing out/book\.jsonl"):
        import_run(log, "out", Reading())
    assert Path("out/book.jsonl").read_bytes() == before
    with pytest.raises(SourceError, match="expected a log to import, got the book"):
        import_run("out", "other", Reading())
    assert not Path("other").exists()


@pytest.mark.parametrize("value", [-1.0, "x", 1])
def test_a_book_with_a_standard_error_that_is_none_is_refused(value):
    book("book.jsonl", tallies([1.0]), nats_standard_error=value)
    with pytest.raises(BookError, match="nats_standard_error"):
        load_run("book.jsonl")


def test_imported_runs_compare_by_a_declared_name_and_their_errors_widen_the_interval():
    def thin(name: str, every: int, less: float) -> str:
        rows = [(s, s * TOKENS, 2.8 - less + 6 * s**-0.35) for s in range(1, 4002, every)]
        return table(name, "step,tokens,loss", rows)

    said = {"data_name": "text", "bytes_per_token": 4.0}
    clear = compare([load_run(thin("a.csv", 1, 0.0), **said), load_run(thin("b.csv", 1, 0.02), **said)]).verdict
    vague = compare([load_run(thin("c.csv", 200, 0.0), **said), load_run(thin("d.csv", 200, 0.02), **said)]).verdict
    assert clear.winner == "b"
    assert vague.winner is None
    with pytest.raises(ComparisonError):
        compare([load_run("a.csv"), load_run("b.csv")])


# -- TensorBoard ----------------------------------------------------------------------------------------------------


@pytest.fixture
def events(tmp_path):
    """Write TensorBoard events of every step."""
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(tmp_path / "tb")
    for step, loss in enumerate(LOSSES):
        writer.add_scalar("train/loss", loss, step)
        if step % 10 == 9:
            writer.add_scalar("val/loss", loss, step)
    writer.close()
    return tmp_path / "tb"


def test_events_are_read_by_their_file_or_folder(events):
    (file,) = events.iterdir()
    for path in (file, events, events.parent):
        run = load_run(path, tokens_per_step=TOKENS)
        assert run.total.nats == pytest.approx(EVERY_STEP, rel=1e-7)
        assert (run.grade, run.name) == ("estimate", "tb")


def test_scalars_that_are_stored_as_tensors_are_read(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.util.tensor_util import make_tensor_proto
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(tmp_path / "tb")
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))
    for step, loss in enumerate(LOSSES):
        value = Summary.Value(tag="loss", metadata=metadata, tensor=make_tensor_proto(np.float32(loss)))
        writer._get_file_writer().add_summary(Summary(value=[value]), step)
    writer.close()
    assert nats(tmp_path / "tb", tokens_per_step=TOKENS) == pytest.approx(EVERY_STEP, rel=1e-7)


def test_events_without_a_loss_or_of_noise_are_one_line(events):
    with pytest.raises(SourceError, match=r"'val/los' in .*'train/loss'"):
        load_run(events, columns={"loss": "val/los"})
    Path("events.out.tfevents.1").write_bytes(b"\xff" * 100)
    with pytest.raises(SourceError):
        load_run("events.out.tfevents.1")


def test_without_tensorboard_the_error_says_what_to_install(events, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(SourceError, match="pip install tensorboard"):
        load_run(events)


def test_all_errors_of_sources_are_of_the_family():
    assert issubclass(SourceError, PrequentialError)
