"""`CompressionMonitor` on Lightning scripts that know nothing of it."""

import csv
import json
import math
import os
import subprocess
import sys
import textwrap
import warnings
from itertools import pairwise
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset
from toys import VOCABULARY, Toy, by_hand, loader, rows

from prequential import CompressionMonitor
from prequential.errors import MeasureError, PrequentialWarning
from prequential.ledger import read_book

ROWS = 32
TOKENS = ROWS * 6  # coded; the first token of each row is data too, but nothing predicts it


def monitor(**options):
    """A monitor that writes ``book.jsonl`` into the current directory and leaves the program out."""
    return CompressionMonitor(**{"bundle": None, "ledger": "book.jsonl", **options})


def fitted(trainer, make=Toy, data=None):
    """Train a module made under the seed, then read the book."""
    L.seed_everything(0)
    trainer.fit(make(), data or loader())
    return read_book("book.jsonl")


def expected_nats(batch_size=4, steps_every=1):
    """The sum of -ln p of the same training, by a plain loop in float64."""
    L.seed_everything(0)
    return by_hand(Toy(), loader(batch_size), steps_every=steps_every)


def test_an_unchanged_module_is_measured_exactly(trainer_of):
    """The book's sums are those of a plain loop with the same seed, scored from the logits in float64."""
    run = fitted(trainer_of(monitor()))
    assert run.total.coded_tokens == TOKENS
    assert run.total.nats == pytest.approx(expected_nats(), rel=1e-7)
    assert run.header["measure"] == "capture"
    assert run.header["vocab_size"] == VOCABULARY
    assert (run.status, run.end["complete"], run.warnings) == ("completed", True, [])


@pytest.mark.parametrize("accumulate", [1, 2, 8])
def test_gradient_accumulation_gives_the_same_book(trainer_of, accumulate):
    """With 8 rows an update, cut into 1, 2 or 8 micro-batches, the book is the same."""
    L.seed_everything(0)
    expected = by_hand(Toy(), loader(8))
    run = fitted(trainer_of(monitor(), accumulate_grad_batches=accumulate), data=loader(8 // accumulate))
    whole = fitted_in("whole", trainer_of)
    assert run.total.nats == pytest.approx(expected, rel=1e-6)
    assert run.total.fingerprint == whole.total.fingerprint
    assert [i.step for i in run.intervals] == [i.step for i in whole.intervals]
    assert [i.tally.coded_tokens for i in run.intervals] == [i.tally.coded_tokens for i in whole.intervals]


def fitted_in(folder, trainer_of):
    """The book of a run with 8 rows an update in one micro-batch."""
    L.seed_everything(0)
    trainer_of(monitor(ledger=folder)).fit(Toy(), loader(8))
    return read_book(f"{folder}/book.jsonl")


def test_a_short_last_window_is_not_lost(trainer_of):
    """With 8 micro-batches and 3 a window, the last window of 2 counts too."""
    run = fitted(trainer_of(monitor(), accumulate_grad_batches=3))
    assert run.total.coded_tokens == TOKENS


class Declares(Toy):
    """States its sums itself."""

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        return {"loss": loss, "nats": loss * batch[1].numel(), "tokens": batch[1].numel()}


def test_declared_sums_win_and_need_no_cross_entropy(trainer_of):
    """A step that returns nats and tokens is taken at its word, and its own loss call is not counted again."""
    run = fitted(trainer_of(monitor()), Declares)
    assert run.header["measure"] == "outputs"
    assert run.total.coded_tokens == TOKENS
    assert run.total.nats == pytest.approx(expected_nats(), rel=1e-6)
    assert run.header["fingerprint_scheme"] == "batch"


def test_a_callable_measures_what_it_is_told(trainer_of):
    """A callable sees the module, the batch and the outputs, before the update."""

    def measure(module, batch, outputs):
        with torch.no_grad():
            logits = module(batch[0]).flatten(0, 1)
        nats = F.cross_entropy(logits.double(), batch[1].flatten(), reduction="sum")
        return {"nats": nats, "tokens": batch[1].numel(), "targets": batch[1]}

    run = fitted(trainer_of(monitor(measure=measure, token_bytes=[2] * VOCABULARY)))
    assert run.header["measure"] == "callable"
    assert run.total.nats == pytest.approx(expected_nats(), rel=1e-9)
    assert run.total.raw_bytes == 2 * TOKENS
    captured = fitted_in_capture(trainer_of)
    assert run.total.fingerprint == captured.total.fingerprint


def fitted_in_capture(trainer_of):
    """The same run by capture."""
    L.seed_everything(0)
    trainer_of(monitor(ledger="capture")).fit(Toy(), loader())
    return read_book("capture/book.jsonl")


class Squared(Toy):
    """Has no likelihood at all."""

    def loss(self, batch):
        return self(batch[0]).square().mean()


class TwoHeads(Toy):
    """Scores every target twice."""

    def loss(self, batch):
        return super().loss(batch) + super().loss(batch)


class SoftTargets(Toy):
    """Scores against probabilities."""

    def loss(self, batch):
        logits = self(batch[0]).flatten(0, 1)
        return F.cross_entropy(logits, torch.softmax(logits.detach(), 1))


@pytest.mark.parametrize(
    ("module", "measure", "message"),
    [
        (Squared, "auto", "saw none: return {'loss', 'nats', 'tokens'}"),
        (TwoHeads, "auto", r"saw 48 scored positions .* largest integer tensor has 24"),
        (SoftTargets, "auto", r"no plain code length \(cross_entropy on \(24, 20\)\)"),
        (Toy, "outputs", "expected 'nats' and 'tokens' from training_step, got a Tensor"),
    ],
)
def test_a_step_without_a_clear_code_length_is_refused_before_anything_is_learnt(trainer_of, module, measure, message):
    """One line says what is needed, no weight has moved, and no book is left behind."""
    L.seed_everything(0)
    toy = module()
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    with pytest.raises(MeasureError, match=message) as caught:
        trainer_of(monitor(measure=measure)).fit(toy, loader())
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in toy.state_dict().items())
    assert not os.path.exists("book.jsonl")


class Smoothed(Toy):
    """Trains on a smoothed, weighted loss."""

    def loss(self, batch):
        weight = torch.linspace(0.5, 1.5, VOCABULARY)
        return F.cross_entropy(self(batch[0]).flatten(0, 1), batch[1].flatten(), weight=weight, label_smoothing=0.3)


def test_what_is_not_likelihood_is_not_counted_and_said(trainer_of):
    """Smoothing and weights are undone; the difference to the returned loss is on the book."""
    plain_nats = []

    class Scored(Smoothed):
        def loss(self, batch):
            logits = self(batch[0]).flatten(0, 1).detach().double()
            plain_nats.append(-torch.log_softmax(logits, 1).gather(1, batch[1].flatten()[:, None]).sum().item())
            return super().loss(batch)

    with pytest.warns(PrequentialWarning, match="is not likelihood and not counted"):
        run = fitted(trainer_of(monitor()), Scored)
    assert run.total.nats == pytest.approx(math.fsum(plain_nats), rel=1e-7)
    assert run.total.coded_tokens == TOKENS
    assert [event["event"] for event in run.events] == ["not_likelihood"]


class Manual(Toy):
    """Steps its optimiser itself, two optimisers a batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        optimizers = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        return loss

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.embedding, self.head)]


def test_manual_optimisation_gives_the_same_code_length(trainer_of):
    """The same training by two optimisers under manual optimisation has the same nats."""
    run = fitted(trainer_of(monitor()), Manual)
    assert run.total.nats == pytest.approx(expected_nats(), rel=1e-7)
    assert run.total.coded_tokens == TOKENS


def test_an_optimiser_that_calls_the_step_again_is_scored_at_its_first_call(trainer_of):
    """LBFGS evaluates the loss several times a batch; only the first is before the update."""
    first_losses = []

    class Newton(Toy):
        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            if batch_idx == len(first_losses):
                first_losses.append(loss.item() * batch[1].numel())
            return loss

        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)

    run = fitted(trainer_of(monitor()), Newton)
    assert run.total.coded_tokens == TOKENS
    assert run.total.nats == pytest.approx(sum(first_losses), rel=1e-6)


def test_validation_does_not_count(trainer_of):
    """A validation loop inside the epoch, with the same loss calls, adds nothing."""

    class Validated(Toy):
        def validation_step(self, batch, batch_idx):
            self.log("validation_loss", self.loss(batch))

    L.seed_everything(0)
    trainer = trainer_of(monitor(), val_check_interval=2, limit_val_batches=3, num_sanity_val_steps=2)
    trainer.fit(Validated(), loader(), loader())
    run = read_book("book.jsonl")
    assert run.total.positions == TOKENS + ROWS
    assert run.total.nats == pytest.approx(expected_nats(), rel=1e-7)


def test_later_epochs_are_replay(trainer_of):
    """Three epochs cost what the first costs; the others stand in the replay column, and the pass is not single."""
    run = fitted(trainer_of(monitor(), max_epochs=3))
    once = fitted_in_capture(trainer_of)
    assert run.total.nats == pytest.approx(expected_nats(), rel=1e-7)
    assert (run.total.coded_tokens, run.total.replayed_tokens) == (TOKENS, 2 * TOKENS)
    assert run.total.fingerprint == once.total.fingerprint
    assert run.total.replayed_nats > 0
    assert run.single_pass[0] == "no"


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_the_monitor_disturbs_nothing(trainer_of, precision):
    """Weights after training and the states of all random generators are bit for bit the same without it."""
    ends = []
    for callbacks in ([], [monitor(token_bytes=[1] * VOCABULARY)]):
        L.seed_everything(0)
        module = Toy()
        data = DataLoader(TensorDataset(rows()[:, :-1], rows()[:, 1:]), batch_size=4, shuffle=True)
        trainer_of(*callbacks, precision=precision).fit(module, data)
        import random

        import numpy as np

        states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
        ends.append((module.state_dict(), states))
    (plain, plain_states), (watched, watched_states) = ends
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    assert torch.equal(plain_states[0], watched_states[0])
    assert plain_states[1:] == watched_states[1:]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_training_is_scored_in_float32(trainer_of, precision):
    """The nats are those of the logits that training saw, not of a loss rounded to bfloat16."""
    seen = []

    class Scores(Toy):
        def loss(self, batch):
            logits = self(batch[0]).flatten(0, 1)
            seen.append(torch.nn.functional.log_softmax(logits.detach().double(), 1))
            seen[-1] = -seen[-1].gather(1, batch[1].flatten()[:, None]).sum().item()
            return F.cross_entropy(logits, batch[1].flatten())

    run = fitted(trainer_of(monitor(), precision=precision), Scores)
    assert run.total.nats == pytest.approx(math.fsum(seen), rel=1e-6)


def test_a_compiled_module_is_measured(trainer_of):
    """`torch.compile` of the whole module changes neither the nats nor the counts."""
    torch._dynamo.reset()
    L.seed_everything(0)
    module = torch.compile(Toy(), backend="aot_eager")
    trainer_of(monitor()).fit(module, loader())
    run = read_book("book.jsonl")
    assert run.total.coded_tokens == TOKENS
    assert run.total.nats == pytest.approx(expected_nats(), rel=1e-6)


def test_every_logger_gets_exact_numbers_over_tokens(trainer_of, tmp_path):
    """CSV rows, TensorBoard events and the trainer's own tables hold the book's values."""
    loggers = [CSVLogger(tmp_path, name="csv"), TensorBoardLogger(tmp_path, name="tb")]
    trainer = trainer_of(monitor(token_bytes=[3] * VOCABULARY), logger=loggers)
    run = fitted(trainer)
    rows_of = list(csv.DictReader(Path(loggers[0].log_dir, "metrics.csv").read_text().splitlines()))
    last = [row for row in rows_of if row.get("prequential/tokens")][-1]
    values = run.measured()
    assert float(last["prequential/compressed_bytes"]) == values["compressed_bytes"]
    assert float(last["prequential/compression_ratio"]) == values["compression_ratio"]
    assert int(last["prequential/tokens"]) == TOKENS + ROWS
    assert float(trainer.callback_metrics["prequential/nats"]) == values["nats"]
    assert trainer.progress_bar_metrics["ratio"] == values["compression_ratio"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(loggers[1].log_dir)
    events.Reload()
    (*_, scalar) = events.Scalars("prequential/bits_per_byte")
    assert scalar.value == pytest.approx(values["bits_per_byte"], rel=1e-6)


def test_without_a_tokenizer_no_bytes_are_guessed(trainer_of):
    """Bits per token and a ratio against the uniform code are given, a ratio against raw bytes is not."""
    trainer = trainer_of(monitor())
    values = fitted(trainer).measured()
    assert values["raw_bytes"] is values["compression_ratio"] is values["bits_per_byte"] is None
    assert values["uniform_bytes"] == pytest.approx((TOKENS + ROWS) * math.log2(VOCABULARY) / 8)
    assert "uniform_ratio" in trainer.progress_bar_metrics
    assert "ratio" not in trainer.progress_bar_metrics


def test_intervals_are_single_steps_at_first_and_never_coarser_than_asked(trainer_of):
    """Over 600 steps the first 200 intervals are single steps, later ones hold at most 1 % or 4 steps."""
    run = fitted(trainer_of(monitor(every_n_steps=4)), data=loader(1, count=600))
    steps = [0, *(interval.step for interval in run.intervals)]
    lengths = [later - earlier for earlier, later in pairwise(steps)]
    assert sum(lengths) == 600
    assert set(lengths[:199]) == {1}
    assert 2 <= max(lengths) <= 4


class BrokenLogger(Logger):
    """Fails at the third row."""

    name, version, calls = "broken", 0, 0

    def log_metrics(self, metrics, step=None):
        self.calls += 1
        if self.calls == 3:
            raise ConnectionResetError("gone")

    def log_hyperparams(self, *args, **kwargs):
        pass


def test_a_logger_that_fails_is_left_alone_and_training_goes_on(trainer_of):
    """The failure is warned of once and on the book; the sums are complete."""
    logger = BrokenLogger()
    with pytest.warns(
        PrequentialWarning, match="BrokenLogger failed and gets no more values: ConnectionResetError: gone"
    ):
        run = fitted(trainer_of(monitor(every_n_steps=1), logger=logger))
    assert logger.calls == 3
    assert run.total.coded_tokens == TOKENS
    assert [event["event"] for event in run.events] == ["logger_failed"]


def test_a_full_disk_stops_the_recording_not_the_training(trainer_of, monkeypatch):
    """The weights are those of an undisturbed run, and the book says that it is incomplete."""
    from prequential import ledger

    L.seed_everything(0)
    undisturbed = Toy()
    trainer_of().fit(undisturbed, loader())
    original, calls = os.write, []

    def full(descriptor, data):
        if b'"sums"' in data:
            calls.append(data)
            if len(calls) == 4:
                raise OSError(28, "No space left on device")
        return original(descriptor, data)

    monkeypatch.setattr(ledger.os, "write", full)
    L.seed_everything(0)
    module = Toy()
    with pytest.warns(PrequentialWarning, match="the recording stopped, training goes on, the book is incomplete"):
        trainer_of(monitor(every_n_steps=1)).fit(module, loader())
    run = read_book("book.jsonl")
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), undisturbed.parameters(), strict=True))
    assert len(run.intervals) == 3
    assert (run.status, run.end["complete"]) == ("completed", False)
    assert "No space left" in run.events[-1]["message"]


@pytest.mark.parametrize(
    ("exception", "status"), [(ValueError("broken data"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_a_run_that_breaks_leaves_a_book_that_says_so(trainer_of, exception, status):
    """Five steps are on the book, and how it ended."""

    class Breaks(Toy):
        def training_step(self, batch, batch_idx):
            if batch_idx == 5:
                raise exception
            return super().training_step(batch, batch_idx)

    with pytest.raises((ValueError, SystemExit)):
        fitted(trainer_of(monitor()), Breaks)
    run = read_book("book.jsonl")
    assert run.status == status
    assert run.total.coded_tokens == 5 * 24


def test_warnings_as_errors_do_not_reach_the_training(trainer_of):
    """A script that turns warnings into errors is warned on stderr, and trains to its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrequentialWarning)
        run = fitted(trainer_of(monitor()), Smoothed)
    assert run.total.coded_tokens == TOKENS
    assert run.end["complete"]


def test_a_nan_is_charged_by_the_uniform_code_and_on_the_book(trainer_of):
    """A batch whose logits are NaN costs log2 V a token, and an event says so."""

    class Diverges(Toy):
        def forward(self, inputs):
            return super().forward(inputs) * (math.nan if self.global_step >= 6 else 1.0)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    with pytest.warns(PrequentialWarning, match="infinite or NaN code length"):
        run = fitted(trainer_of(monitor()), Diverges)
    assert run.total.nonfinite_tokens == 2 * 24
    assert run.total.coded_tokens == TOKENS
    assert sum(i.tally.nats for i in run.intervals if i.step > 6) == pytest.approx(48 * math.log(VOCABULARY))


def test_books_are_never_overwritten(trainer_of, tmp_path):
    """Two fits into the same log directory leave two books."""
    for _ in range(2):
        trainer_of(monitor(ledger=None)).fit(Toy(), loader())
    books = sorted(path.parent.name for path in tmp_path.rglob("book.jsonl"))
    assert books == ["prequential", "prequential-2"]


def test_a_named_book_that_exists_is_refused_before_anything_is_learnt(trainer_of):
    """Rather than a run that nobody records."""
    trainer_of(monitor(ledger="mine")).fit(Toy(), loader())
    module = Toy()
    before = module.head.weight.clone()
    with pytest.raises(MeasureError, match="expected a new path for the book, got the existing mine"):
        trainer_of(monitor(ledger="mine")).fit(module, loader())
    assert torch.equal(module.head.weight, before)


def test_the_bundle_lies_beside_the_book_and_is_charged(trainer_of):
    """The file beside the book has the size that the description length holds."""
    from prequential import Bundle

    bundle = Bundle(files={"train.py": b"print('a training script')\n" * 3})
    trainer_of(monitor(bundle=bundle)).fit(Toy(), loader())
    run = read_book("book.jsonl")
    assert os.path.getsize("bundle.tar.xz") == run.bundle["bundle_bytes"] == bundle.bundle_bytes
    values = run.measured()
    assert values["uncoded_bits"] == pytest.approx(ROWS * math.log2(VOCABULARY))
    assert values["description_bits"] == values["data_bits"] + values["uncoded_bits"] + 8 * bundle.bundle_bytes
    assert run.bundle["sha256"] == bundle.sha256


def test_a_bundle_that_cannot_be_written_is_warned_of_after_the_run(trainer_of, monkeypatch):
    """The book is whole, and the training script goes on."""
    from prequential import Bundle

    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(Bundle, "write", full)
    with pytest.warns(PrequentialWarning, match="the run has its book, but no summary: OSError: no space left"):
        run = fitted(trainer_of(monitor(bundle=Bundle(files={"train.py": b"pass"}))))
    assert (run.status, run.end["complete"], run.total.coded_tokens) == ("completed", True, TOKENS)


def test_a_program_that_cannot_be_found_is_left_out_and_said(trainer_of, monkeypatch):
    """Whatever goes wrong in finding it, the run is measured without it."""
    from prequential import Bundle

    def broken(*args, **kwargs):
        raise RuntimeError("a strange module")

    monkeypatch.setattr(Bundle, "discover", broken)
    with pytest.warns(PrequentialWarning, match="left out of the total: RuntimeError: a strange module"):
        run = fitted(trainer_of(monitor(bundle="auto")))
    assert (run.total.coded_tokens, run.bundle) == (TOKENS, {})
    assert "bundle unknown" in run.summary()[0]


def test_the_progress_bar_ends_with_the_totals(trainer_of):
    """The last values reach the trainer's tables before the epoch is over, whatever every_n_steps."""
    seen = {}

    class Look(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.update(trainer.progress_bar_metrics)

    run = fitted(
        trainer_of(monitor(token_bytes=[3] * VOCABULARY, every_n_steps=100), Look()), data=loader(count=28)
    )  # 7 steps: no log point falls on the last
    assert seen["ratio"] == run.measured()["compression_ratio"]


def test_without_the_variable_nothing_is_loaded():
    """Lightning asks everybody's factories at every trainer: ours costs nothing unless it is wanted."""
    code = """if True:
        import sys
        from importlib.metadata import entry_points
        (entry,) = [e for e in entry_points(group="lightning.pytorch.callbacks_factory") if e.name == "prequential"]
        assert entry.load()() == []
        assert not {"torch", "lightning", "prequential.recorder"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_choices_are_charged_live_and_in_the_book(trainer_of):
    """Named bits are in every number from the first log point on."""
    trainer = trainer_of(monitor(charges={"best of 8 runs": 3.0}))
    run = fitted(trainer)
    assert run.charges == {"best of 8 runs": 3.0}
    values = run.measured()
    assert values["description_bits"] == pytest.approx(values["data_bits"] + values["uncoded_bits"] + 3, abs=1e-9)
    assert float(trainer.callback_metrics["prequential/description_bits"]) == values["description_bits"]


SCRIPT = textwrap.dedent(
    """
    import lightning as L
    from toys import Toy, loader
    {extra}
    L.seed_everything(0)
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False{callbacks})
    trainer.fit(Toy(), loader())
    """
)


def run_script(tmp_path, environment, extra="", callbacks=""):
    """Run somebody's script in a process of its own."""
    (tmp_path / "train.py").write_text(SCRIPT.format(extra=extra, callbacks=callbacks))
    tests = os.path.dirname(__file__)
    full = {**os.environ, "PYTHONPATH": tests, **environment}
    command = [sys.executable, "train.py"]
    return subprocess.run(command, cwd=tmp_path, env=full, capture_output=True, text=True, check=True)


def test_a_script_is_measured_without_touching_it(tmp_path):
    """With PREQUENTIAL=1 an unchanged script leaves a book with its program counted; without, nothing."""
    run_script(tmp_path, {})
    assert not list(tmp_path.rglob("book.jsonl"))
    done = run_script(tmp_path, {"PREQUENTIAL": "1"})
    (book,) = tmp_path.rglob("book.jsonl")
    run = read_book(book)
    assert run.total.coded_tokens == TOKENS
    assert {file["name"] for file in run.bundle["files"]} >= {"train.py", "config.json"}
    assert "compressed bytes" in done.stderr


def test_the_environment_stands_back_behind_the_script(tmp_path):
    """A script that brings its own monitor is not measured twice."""
    extra = "from prequential import CompressionMonitor"
    run_script(tmp_path, {"PREQUENTIAL": "1"}, extra, ", callbacks=[CompressionMonitor(name='own')]")
    (book,) = tmp_path.rglob("book.jsonl")
    assert read_book(book).name == "own"


def test_lightning_cli_can_give_all_arguments(tmp_path):
    """LightningCLI builds the monitor from plain values and dotted paths."""
    (tmp_path / "train.py").write_text(
        "from lightning.pytorch.cli import LightningCLI\n"
        "from lightning import LightningDataModule\n"
        "from toys import Toy, loader\n"
        "class Data(LightningDataModule):\n"
        "    def train_dataloader(self):\n"
        "        return loader()\n"
        "LightningCLI(Toy, Data, save_config_callback=None)\n"
    )
    arguments = [
        "fit",
        "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu",
        "--trainer.logger=false",
        "--trainer.enable_checkpointing=false",
        "--trainer.callbacks+=prequential.CompressionMonitor",
        "--trainer.callbacks.token_bytes=bytes",
        "--trainer.callbacks.every_n_steps=2",
        "--trainer.callbacks.rescore=0.5",
        "--trainer.callbacks.ledger=book.jsonl",
    ]
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    command = [sys.executable, "train.py", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    run = read_book(tmp_path / "book.jsonl")
    assert run.total.raw_bytes == TOKENS + ROWS
    assert run.header["token_bytes"]["kind"] == "bytes"
    assert run.header["rescore"] == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_steps": 0}, "expected every_n_steps of at least 1, got 0"),
        ({"charges": {"luck": -1.0}}, "expected bits of 0 or more as charges"),
        ({"measure": "losses"}, "a callable or a dotted path to one, got 'losses'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, message):
    """The constructor says what was expected and what came."""
    with pytest.raises(MeasureError, match=message):
        CompressionMonitor(**options)


def test_the_book_holds_only_plain_json(trainer_of):
    """Every line parses as JSON with finite numbers."""
    fitted(trainer_of(monitor(baselines={"xz -9e": 123}, data_name="toy")))
    lines = [json.loads(line, parse_constant=pytest.fail) for line in Path("book.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["header", *["sums"] * (len(lines) - 2), "end"]
    assert (lines[0]["baselines"], lines[0]["data_name"]) == ({"xz -9e": 123}, "toy")
