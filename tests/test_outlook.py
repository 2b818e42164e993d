"""What loggers get of the future of a run: equal to what its book says afterwards, bounded, harmless."""

import itertools
import math
import warnings
from dataclasses import replace

import lightning as L
import numpy as np
import pytest
import torch
from books import HEADER, book, tallies
from lightning.pytorch.callbacks import Timer
from torch.utils.data import DataLoader, IterableDataset
from toys import Toy, loader

from prequential import CompressionMonitor, load_run
from prequential.codelength import Tally, quantities
from prequential.curve import running_model_bits, split
from prequential.errors import CurveError, MeasureError, PrequentialWarning
from prequential.forecast import forecast_run
from prequential.integrations.loop import Recording
from prequential.ledger import read_book
from prequential.outlook import Outlook
from prequential.run import Mark, planned_tokens


def fed(parts, header):
    """An outlook on a run whose intervals have these sums, and what is asked of it at the end."""
    outlook = Outlook(header)
    for step, tally in enumerate(parts, start=1):
        outlook.add(step, tally)
    return outlook, now_of(parts)


def now_of(parts):
    return quantities(Tally.total(parts), bundle_bytes=700, bytes_known=True, vocab_size=256)


def losses(count, seed=0):
    """A noisy power law."""
    places = np.arange(1, count + 1)
    return 1 + 3 * places**-0.3 + 0.05 * np.random.default_rng(seed).standard_normal(count)


class TestAgainstTheBook:
    """The second route: the functions that read a whole book."""

    @pytest.mark.parametrize("count", [1, 2, 40, 500])
    def test_model_bits_are_those_above_the_running_floor(self, count):
        parts = tallies(losses(count))
        outlook, now = fed(parts, {})
        run = load_run(book("a/book.jsonl", parts))
        found = outlook.values(now)
        assert found == {"model_bits_estimate": pytest.approx(split(run, "running").model_bits, rel=1e-9, abs=1e-9)}
        assert found["model_bits_estimate"] == pytest.approx(running_model_bits(run)[-1].model_bits, abs=1e-6)

    def test_the_forecast_is_that_of_the_book(self):
        parts = tallies(losses(300), uncoded_tokens=2, uncoded_nats=2 * math.log(256))
        outlook, now = fed(parts, {"planned_tokens": 900_000})
        expected = forecast_run(load_run(book("a/book.jsonl", parts)), 900_000)
        found = outlook.values(now)
        assert found["planned_tokens"] == 900_000
        assert found["forecast_compressed_bytes"] == pytest.approx(expected["forecast_compressed_bytes"], rel=1e-9)
        interval = [found[f"forecast_compressed_bytes_{end}"] for end in ("low", "high")]
        assert interval == pytest.approx(expected["forecast_compressed_bytes_interval"], rel=1e-9)

    def test_at_the_planned_end_the_forecast_is_the_total(self):
        outlook, now = fed(tallies(losses(20)), {"planned_steps": 20})
        found = outlook.values(now)
        assert found["planned_tokens"] == now["tokens"]
        for name in ("", "_low", "_high"):
            assert found[f"forecast_compressed_bytes{name}"] == pytest.approx(now["compressed_bytes"], rel=1e-12)

    def test_a_long_run_is_kept_in_few_points_and_forecast_alike(self):
        """The bounds of the points, and the same cells but for where their edges fall."""
        parts = tallies(losses(20_001))
        outlook, now = fed(parts, {"planned_tokens": 60_000_000})
        curve = outlook._curve
        assert len(curve.tokens) <= 2048
        assert curve.tokens[-1] == 20_001_000
        assert math.fsum(curve.nats) == pytest.approx(now["nats"], rel=1e-12)
        expected = forecast_run(load_run(book("a/book.jsonl", parts)), 60_000_000)
        found = outlook.values(now)["forecast_compressed_bytes"]
        assert found == pytest.approx(expected["forecast_compressed_bytes"], rel=1e-3)

    def test_between_two_forecasts_lies_one_percent_of_the_tokens(self):
        outlook, now = fed(parts := tallies(losses(300)), {"planned_tokens": 900_000})
        assert "forecast_compressed_bytes" in outlook.values(now)
        for extra, there in ((2, False), (3, True)):
            outlook, _ = fed(parts, {"planned_tokens": 900_000})
            outlook.values(now)
            more = tallies([1.5] * extra)
            for step, tally in enumerate(more, start=301):
                outlook.add(step, tally)
            found = outlook.values(now_of([*parts, *more]))
            assert ("forecast_compressed_bytes" in found) is there
            assert {"model_bits_estimate", "planned_tokens"} <= set(found)

    def test_before_a_tenth_of_the_plan_there_is_no_forecast(self):
        """The interval would not hold."""
        for planned, there in ((3_000_001, False), (3_000_000, True)):
            outlook, now = fed(tallies(losses(300)), {"planned_tokens": planned})
            assert ("forecast_compressed_bytes" in outlook.values(now)) is there

    def test_too_little_of_a_curve_is_no_forecast(self):
        outlook, now = fed(tallies(losses(5)), {"planned_tokens": 9_000})
        assert set(outlook.values(now)) == {"model_bits_estimate", "planned_tokens"}

    def test_more_tokens_than_were_planned_are_no_forecast(self):
        outlook, now = fed(tallies(losses(50)), {"planned_tokens": 49_999})
        assert set(outlook.values(now)) == {"model_bits_estimate", "planned_tokens"}


class TestHarmless:
    def test_after_a_resume_the_curve_is_read_from_the_book(self):
        """What was added here is the tail only; the sums so far are those of the whole run."""
        parts = tallies(losses(100))
        path = book("a/book.jsonl", parts, status=None)
        outlook = Outlook({"planned_tokens": 400_000})
        for step, tally in enumerate(parts[60:], start=61):
            outlook.add(step, tally)
        whole, now = fed(parts, {"planned_tokens": 400_000})
        assert outlook.values(now, path) == whole.values(now)

    def test_a_curve_with_a_gap_is_left_out(self):
        parts = tallies(losses(100))
        path = book("a/book.jsonl", parts[60:], status=None)
        outlook = Outlook({"planned_tokens": 400_000})
        for step, tally in enumerate(parts[60:], start=61):
            outlook.add(step, tally)
        assert outlook.values(now_of(parts), path) == {}
        assert outlook.values(now_of(parts)) == {}

    def test_what_fails_warns_once_and_is_left_out(self, monkeypatch):
        """Anything but too little of a curve, which is no failure."""
        outlook, now = fed(tallies(losses(100)), {"planned_tokens": 400_000})
        monkeypatch.setattr("prequential.forecast.forecast_quantities", lambda *args: 1 / 0)
        with pytest.warns(PrequentialWarning, match="no longer shown: ZeroDivisionError"):
            assert outlook.values(now) == {}
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            assert outlook.values(now) == {}
            outlook.add(101, Tally(nats=1.0, coded_tokens=1))
        assert warned == []

    def test_nothing_but_replay_is_no_curve(self):
        outlook, now = fed([tally.as_replay() for tally in tallies(losses(5))], {"planned_tokens": 10})
        assert outlook.values(now) == {}


@pytest.mark.parametrize(
    ("header", "first", "last", "expected"),
    [
        ({}, Mark(1, 10), Mark(5, 50), None),
        ({"planned_tokens": 7, "planned_steps": 9}, Mark(1, 10), Mark(5, 50), 7),
        ({"planned_steps": 20}, Mark(1, 10), Mark(5, 50), 200),
        ({"planned_steps": 20}, Mark(1, 10), Mark(1, 10), None),
        ({"planned_steps": 20}, Mark(11, 100), Mark(15, 140), 190),  # a book that begins at step 10 with 90 tokens
        ({"planned_steps": 20}, Mark(1, 10), Mark(20, 195), 195),  # the last batch was short
        ({"planned_steps": 20}, Mark(1, 10), Mark(30, 195), 195),  # a second epoch
    ],
)
def test_planned_tokens_by_hand(header, first, last, expected):
    assert planned_tokens(header, first, last) == expected


class Stream(IterableDataset):
    """A data set without a length."""

    def __iter__(self):
        return (batch for batch in itertools.cycle(loader(batch_size=4)))


class ByHand(Toy):
    """Two updates a batch, by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = self.loss(batch)
        self.manual_backward(loss)
        optimizer.step()
        return loss


@pytest.mark.filterwarnings("ignore")
class TestLightning:
    """The toy data are 32 rows of 6 tokens, 8 batches of 24."""

    def header(self, trainer_of, *callbacks, module=None, data=None, **trainer):
        monitor = CompressionMonitor(ledger="a", bundle=None)
        trainer_of(monitor, *callbacks, **trainer).fit(module or Toy(), loader() if data is None else data)
        return read_book("a/book.jsonl")

    @pytest.mark.parametrize(
        ("trainer", "expected"),
        [
            ({}, 8),
            ({"accumulate_grad_batches": 3}, 3),
            ({"max_steps": 5}, 5),
            ({"max_steps": 50}, 8),
            ({"limit_train_batches": 0.5}, 4),
            ({"limit_train_batches": 3}, 3),
            ({"max_epochs": 3}, 8),  # the rows of a sequential loader: later epochs are replay
            ({"max_epochs": 3, "max_steps": 20}, 8),
        ],
    )
    def test_the_limits_of_the_trainer_say_how_many_steps_bring_new_data(self, trainer_of, trainer, expected):
        run = self.header(trainer_of, **trainer)
        assert run.header["planned_steps"] == expected
        assert run.planned_tokens == run.total.tokens
        assert max(i.step for i in run.intervals if i.tally.coded_tokens) == expected

    def test_a_stream_is_planned_by_its_steps_alone(self, trainer_of):
        stream = DataLoader(Stream(), batch_size=None)
        assert self.header(trainer_of, data=stream, max_steps=9).header["planned_steps"] == 9

    def test_where_the_limits_do_not_tell_nothing_is_planned(self, trainer_of):
        """A time, a step that learns by itself, a sampler that may draw other rows in later epochs."""
        drawn = loader()
        drawn = DataLoader(drawn.dataset, 4, sampler=torch.utils.data.RandomSampler(drawn.dataset, replacement=True))
        for number, options in enumerate(
            (
                {"callbacks": [Timer("00:00:10:00")]},
                {"module": ByHand()},
                {"data": drawn, "max_epochs": 2},
            )
        ):
            monitor = CompressionMonitor(ledger=str(number), bundle=None)
            callbacks, module = options.pop("callbacks", []), options.pop("module", Toy())
            data = options.pop("data", loader())
            trainer_of(monitor, *callbacks, **options).fit(module, data)
            assert read_book(f"{number}/book.jsonl").header["planned_steps"] is None

    def test_loggers_get_the_outlook_and_at_the_end_it_is_the_total(self, trainer_of):
        rows = []

        class Logger(L.pytorch.loggers.csv_logs.CSVLogger):
            def log_metrics(self, metrics, step=None):
                rows.append(metrics)

        trainer_of(CompressionMonitor(ledger="a", bundle=None, every_n_steps=1), logger=Logger("."), max_epochs=1).fit(
            Toy(), loader(batch_size=1)
        )
        run = read_book("a/book.jsonl")
        last, third = rows[-1], rows[10]
        assert last["prequential/planned_tokens"] == run.total.tokens == 32 * 7  # a first token a row
        assert last["prequential/forecast_compressed_bytes"] == pytest.approx(run.measured()["compressed_bytes"])
        assert last["prequential/model_bits_estimate"] == pytest.approx(split(run, "running").model_bits, rel=1e-9)
        assert third["prequential/planned_tokens"] == 32 * 7
        low, high = (third[f"prequential/forecast_compressed_bytes_{end}"] for end in ("low", "high"))
        assert low < third["prequential/forecast_compressed_bytes"] < high
        assert all(type(value) in (int, float) for row in rows for value in row.values())

    def test_a_resumed_run_has_the_outlook_of_the_whole_run(self, trainer_of, tmp_path):
        """Its live values at the end are those that its book gives, where the curve was read from."""
        rows = []

        class Logger(L.pytorch.loggers.csv_logs.CSVLogger):
            def log_metrics(self, metrics, step=None):
                rows.append(metrics)

        for steps, checkpoint in ((12, None), (24, tmp_path / "at.ckpt")):
            monitor = CompressionMonitor(ledger="a", bundle=None, every_n_steps=1, planned_tokens=250)
            trainer = trainer_of(monitor, max_steps=steps, max_epochs=None, logger=Logger("."))
            trainer.fit(Toy(), loader(batch_size=1), ckpt_path=checkpoint)
            if checkpoint is None:
                trainer.save_checkpoint(tmp_path / "at.ckpt")
        run, last = read_book("a/book.jsonl"), rows[-1]
        assert len(run.intervals) >= 24
        assert last["prequential/tokens"] == run.total.tokens
        assert last["prequential/model_bits_estimate"] == pytest.approx(split(run, "running").model_bits, rel=1e-9)
        forecasts = [row for row in rows if "prequential/forecast_compressed_bytes" in row]
        cut = next(
            n
            for n in range(len(run.intervals), 0, -1)
            if Tally.total(i.tally for i in run.intervals[:n]).tokens == forecasts[-1]["prequential/tokens"]
        )
        expected = forecast_run(replace(run, intervals=run.intervals[:cut]), 250)
        assert forecasts[-1]["prequential/forecast_compressed_bytes"] == pytest.approx(
            expected["forecast_compressed_bytes"]
        )

    def test_the_option_stands_in_the_header_and_goes_before_the_limits(self, trainer_of):
        monitor = CompressionMonitor(ledger="a", bundle=None, planned_tokens=10_000)
        trainer_of(monitor).fit(Toy(), loader())
        run = read_book("a/book.jsonl")
        assert (run.header["planned_tokens"], run.planned_tokens) == (10_000, 10_000)

    def test_weights_and_random_states_are_the_same_with_and_without_a_forecast(self, trainer_of, monkeypatch):
        made = []
        original = __import__("prequential.forecast", fromlist=["x"]).forecast_quantities
        monkeypatch.setattr(
            "prequential.forecast.forecast_quantities", lambda *a, **k: made.append(1) or original(*a, **k)
        )
        ends = []
        for planned in (None, 500):
            L.seed_everything(1, verbose=False)
            module = Toy()
            monitor = CompressionMonitor(ledger=f"{planned}", bundle=None, every_n_steps=1, planned_tokens=planned)
            callbacks = [monitor] if planned else []
            trainer_of(*callbacks).fit(module, loader(batch_size=1))
            ends.append((module.state_dict(), torch.get_rng_state(), np.random.get_state()[1]))
        assert made
        (weights, random, numbers), (watched, random_after, numbers_after) = ends
        assert all(torch.equal(weights[name], watched[name]) for name in weights)
        assert torch.equal(random, random_after)
        assert (numbers == numbers_after).all()


def test_a_loop_by_hand_takes_the_option():
    rows = []
    options = {"bundle": None, "every_n_steps": 1, "planned_tokens": 400}
    with Recording("a", publish=lambda values, steps: rows.append(values), **options) as recording:
        for targets in torch.arange(40 * 4).remainder(8).split(4):
            with recording.batch(targets):
                torch.nn.functional.cross_entropy(torch.zeros(4, 8), targets)
            recording.step()
    assert recording.run.planned_tokens == 400
    # Every token costs 3 bits, and the curve is flat: the law knows no better than its prior, but lies near it.
    assert rows[-1]["forecast_compressed_bytes"] == pytest.approx(150, rel=0.05)
    assert rows[-1]["model_bits_estimate"] == pytest.approx(0, abs=1e-9)


def test_an_option_that_makes_no_sense_is_refused():
    with pytest.raises(MeasureError, match="planned_tokens of at least 1, got 0"):
        CompressionMonitor(planned_tokens=0)


def test_too_few_intervals_are_an_error_of_the_curve_alone():
    """What the outlook passes over is `CurveError`, and no more."""
    run = load_run(book("a/book.jsonl", tallies(losses(3)), **{**HEADER, "planned_tokens": 10}))
    with pytest.raises(CurveError):
        forecast_run(run, 100_000)
