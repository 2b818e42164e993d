"""Whatever happens to a run, its book has a defined end, and the training is left alone."""

import json
import math
import os
import resource
import signal
import time
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader
from toys import VOCABULARY, Toy, loader

from prequential import CompressionMonitor
from prequential.errors import MeasureError, PrequentialWarning
from prequential.ledger import read_book

ROWS, BATCH = 32, 4 * 6
TOKENS = ROWS * 6


def monitor(**options):
    return CompressionMonitor(**{"bundle": None, "ledger": "book.jsonl", **options})


def fitted(trainer, module=Toy, data=None):
    L.seed_everything(0)
    model = module()
    trainer.fit(model, data or loader())
    return model


def undisturbed(trainer_of, model, module=Toy, data=None, **options):
    """Whether the weights are those of a run without a monitor."""
    plain = fitted(trainer_of(**options), module, data)
    return all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


# -- how a run ends -----------------------------------------------------------------------------------------------


def test_sigterm_ends_the_book_as_interrupted(trainer_of):
    """Lightning ends the batch, then the run."""

    class Told(Toy):
        def training_step(self, batch, batch_idx):
            if batch_idx == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().training_step(batch, batch_idx)

    with pytest.raises(SystemExit):
        fitted(trainer_of(monitor()), Told)
    run = read_book("book.jsonl")
    assert (run.status, run.end["complete"]) == ("interrupted", True)
    assert run.end["error"].startswith("SIGTERMException")
    assert run.total.coded_tokens == 5 * BATCH


class Bursts:
    """A loader whose memory runs out."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 8

    def __iter__(self):
        for number, batch in enumerate(loader()):
            if number == 5:
                raise self.error
            yield batch


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (MemoryError("cannot allocate 8 GiB"), "failed", "MemoryError: cannot allocate 8 GiB"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
    ],
)
def test_a_loader_that_breaks_leaves_a_book_that_says_so(trainer_of, error, status, words):
    """What came before is on the book."""
    with pytest.raises((MemoryError, SystemExit)):
        fitted(trainer_of(monitor()), data=Bursts(error))
    run = read_book("book.jsonl")
    assert (run.status, run.end["error"], run.warnings) == (status, words, [])
    assert run.total.coded_tokens == 5 * BATCH


# -- several fits, several monitors -------------------------------------------------------------------------------


def test_a_second_fit_of_a_trainer_is_a_run_of_its_own(trainer_of):
    """It starts from what the first one learnt, which is given; what it codes counts as its own data."""
    L.seed_everything(0)
    module, trainer = Toy(), trainer_of(monitor(ledger=None))
    trainer.fit(module, loader())
    trainer.fit(module, loader())  # nothing left to do
    assert len(list(Path.cwd().rglob("book.jsonl"))) == 1
    trainer.fit_loop.max_epochs = 2
    with pytest.warns(PrequentialWarning, match="the fit starts at step 8"):
        trainer.fit(module, loader())
    first, second = (read_book(path) for path in sorted(Path.cwd().rglob("book.jsonl")))
    assert (first.length, second.length[:5]) == ("K(D)", "K(D |")
    for run in (first, second):
        assert (run.total.coded_tokens, run.total.replayed_tokens) == (TOKENS, 0)
    assert second.total.nats < first.total.nats
    assert first.header["id"] != second.header["id"]


def test_two_trainers_in_one_process_have_a_book_each(trainer_of):
    """One trains between two steps of the other: neither sees the tokens of the other."""
    inner = trainer_of(monitor(ledger="inner"))

    class Probes(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if batch_idx == 3:
                inner.fit(Toy(), loader(count=8))

    fitted(trainer_of(monitor(ledger="outer"), Probes()))
    assert read_book("outer/book.jsonl").total.coded_tokens == TOKENS
    assert read_book("inner/book.jsonl").total.coded_tokens == 8 * 6


class Other(CompressionMonitor):
    """A monitor of one's own."""


def test_two_monitors_in_one_trainer_are_refused_in_one_line(trainer_of):
    """By Lightning where they share a name in checkpoints, else before anything is trained."""
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `CompressionMonitor`"):
        trainer_of(monitor(), monitor(ledger="other"))
    trainer = trainer_of(monitor(), Other(bundle=None, ledger="other"))
    with pytest.raises(MeasureError, match="expected one CompressionMonitor in a trainer, got several") as caught:
        trainer.fit(Toy(), loader())
    assert "\n" not in str(caught.value)
    assert not Path("book.jsonl").exists()


# -- limits of a run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [None, "mine"])
def test_a_fast_dev_run_measures_and_leaves_nothing(trainer_of, named):
    """Neither a book nor a taken name; a step that cannot be measured is refused all the same."""
    watching = monitor(ledger=named)
    trainer = trainer_of(watching, fast_dev_run=2)
    fitted(trainer)
    assert float(trainer.callback_metrics["prequential/coded_tokens"]) == 2 * BATCH
    assert watching.book is None
    assert not list(Path.cwd().rglob("*"))

    class Squared(Toy):
        def loss(self, batch):
            return self(batch[0]).square().mean()

    with pytest.raises(MeasureError, match="saw none"):
        fitted(trainer_of(monitor(ledger=named), fast_dev_run=True), Squared)
    fitted(trainer_of(monitor(ledger="mine")))
    assert read_book("mine/book.jsonl").total.coded_tokens == TOKENS


@pytest.mark.parametrize(
    ("options", "batches", "steps"),
    [
        ({"limit_train_batches": 3}, 3, 3),
        ({"limit_train_batches": 0.5}, 4, 4),
        ({"max_steps": 2, "max_epochs": -1, "accumulate_grad_batches": 3}, 6, 2),
        ({"accumulate_grad_batches": 3}, 8, 3),
        ({"accumulate_grad_batches": 3, "limit_train_batches": 4}, 4, 2),
        ({"overfit_batches": 2}, 2, 2),
    ],
)
def test_a_run_that_is_limited_codes_what_it_was_fed(trainer_of, options, batches, steps):
    """Every micro-batch that came counts once, those of a window that was cut short as well; nothing is charged."""
    fitted(trainer_of(monitor(), **options))
    run = read_book("book.jsonl")
    assert run.total.coded_tokens == batches * BATCH
    assert run.total.uncoded_tokens == batches * 4
    assert run.intervals[-1].step == steps
    assert (run.status, run.end["complete"], run.events) == ("completed", True, [])


# -- batches and numbers ------------------------------------------------------------------------------------------


class With:
    """The toy batches with one of another kind among them."""

    def __init__(self, place, batch):
        batches = list(loader())
        self.batches = [*batches[:place], batch, *batches[place:]]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


EMPTY = [torch.zeros(0, 6, dtype=torch.int64)] * 2
MASKED = [torch.zeros(4, 6, dtype=torch.int64), torch.full((4, 6), -100)]


class Frozen(Toy):
    """Learns nothing, so that a loss that is no number harms nobody."""

    def on_after_backward(self):
        self.zero_grad()


@pytest.mark.parametrize("place", [0, 3, 8])
@pytest.mark.parametrize("repeats", ["data", "replay"])
@pytest.mark.parametrize(("batch", "masked"), [(EMPTY, 0), (MASKED, BATCH)], ids=["empty", "masked"])
def test_a_batch_without_targets_costs_nothing(trainer_of, batch, masked, place, repeats):
    """Its mean loss is 0/0; no token is charged for it, and all others are counted."""
    fitted(trainer_of(monitor(repeats=repeats, token_bytes=[1] * VOCABULARY)), Frozen, With(place, batch))
    run = read_book("book.jsonl")
    assert run.end["complete"]
    assert run.total.coded_tokens == TOKENS
    assert run.total.masked_tokens + run.total.padding_tokens == masked
    assert run.total.uncoded_tokens == ROWS
    assert run.intervals[-1].step == 9
    assert run.total.nonfinite_tokens == 0
    assert math.isfinite(run.total.nats)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("repeats", ["data", "replay"])
def test_a_loss_that_is_no_number_is_charged_by_the_uniform_code(trainer_of, value, repeats):
    """It costs ln V a token, and is an event."""

    class Diverges(Frozen):
        def forward(self, inputs):
            scores = super().forward(inputs)
            return scores * value if self.global_step == 4 else scores

    with pytest.warns(PrequentialWarning, match="24 tokens had an infinite or NaN code length by step 5"):
        fitted(trainer_of(monitor(repeats=repeats)), Diverges, loader())
    run = read_book("book.jsonl")
    assert (run.total.nonfinite_tokens, run.total.coded_tokens) == (BATCH, TOKENS)
    assert run.intervals[4].tally.nats == pytest.approx(BATCH * math.log(VOCABULARY))
    assert [event["event"] for event in run.events] == ["nonfinite"]


def test_a_step_that_the_scaler_skips_counts(trainer_of):
    """Its batch was scored, and is fed once; that nothing was learnt from it makes the code longer, not wrong."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    nats = []

    class Overflows(Toy):
        def training_step(self, batch, batch_idx):
            scores = self(batch[0])
            picked = torch.log_softmax(scores.detach().double(), 2).gather(2, batch[1].unsqueeze(2))
            nats.append(-picked.sum().item())
            loss = F.cross_entropy(scores.flatten(0, 1), batch[1].flatten())
            return loss * (1e38 if batch_idx == 4 else 1)

    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    with pytest.warns(PrequentialWarning, match="is not likelihood"):
        fitted(trainer_of(monitor(), plugins=[plugin]), Overflows)
    run = read_book("book.jsonl")
    assert scaler.get_scale() < 2.0**14  # a step was skipped
    assert (run.total.coded_tokens, run.total.nonfinite_tokens) == (TOKENS, 0)
    assert run.total.nats == pytest.approx(sum(nats), rel=1e-5)
    assert run.intervals[-1].step == 8


def test_a_clock_that_goes_backwards_does_not_reach_the_book(trainer_of, monkeypatch):
    """Elapsed seconds never fall."""
    clock = iter([100.0, 101.0, 105.0, 40.0, 41.0, 106.0])
    monkeypatch.setattr("prequential.account.time.monotonic", lambda: next(clock, 90.0))
    fitted(trainer_of(monitor()))
    seconds = [interval.elapsed_s for interval in read_book("book.jsonl").intervals]
    assert seconds == sorted(seconds)
    assert seconds[0] >= 0
    monkeypatch.setattr(time, "time", lambda: -1e9)
    fitted(trainer_of(monitor(ledger="again")))


# -- the disk -----------------------------------------------------------------------------------------------------


def test_a_book_that_is_deleted_begins_again(trainer_of):
    """With the sums so far in one interval, what was said, and the gap on record."""

    class Deletes(Toy):
        def training_step(self, batch, batch_idx):
            if batch_idx == 5:
                os.remove("book.jsonl")
            return super().training_step(batch, batch_idx)

    with pytest.warns(PrequentialWarning, match="the book was deleted while it was written"):
        fitted(trainer_of(monitor(every_n_steps=1, charges={"luck": 3})), Deletes)
    run = read_book("book.jsonl")
    assert run.total.coded_tokens == TOKENS
    assert [interval.step for interval in run.intervals] == [5, 6, 7, 8]
    assert (run.status, run.end["complete"], run.warnings) == ("completed", True, [])
    assert [event["event"] for event in run.events] == ["book_deleted"]
    assert run.header["ancestor"]["id"] != run.header["id"]
    assert run.charges == {"luck": 3.0}


@pytest.mark.parametrize("ledger", ["/proc/prequential", "taken/by/a/file"])
def test_a_place_that_cannot_be_written_stops_the_recording_not_the_training(trainer_of, ledger):
    """One warning; the weights are those of an undisturbed run."""
    Path("taken").touch()
    with pytest.warns(PrequentialWarning, match="the recording stopped, training goes on"):
        model = fitted(trainer_of(monitor(ledger=ledger)))
    assert undisturbed(trainer_of, model)


def test_a_full_disk_leaves_a_readable_book(trainer_of):
    """The kernel takes a part of a line and refuses the rest: whole lines stay, the weights are undisturbed."""

    def train(limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            with pytest.warns(PrequentialWarning, match="the recording stopped, training goes on"):
                return fitted(trainer_of(monitor(every_n_steps=1, ledger=f"{limit}")))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    fitted(trainer_of(monitor(every_n_steps=1, ledger="whole")))
    ends = [len(line) for line in Path("whole/book.jsonl").read_bytes().splitlines(keepends=True)]
    limit = sum(ends[:5]) + 40
    model = train(limit)
    run = read_book(f"{limit}/book.jsonl")
    assert (len(run.intervals), run.status, run.warnings) == (4, "open", [])
    assert undisturbed(trainer_of, model)


def test_a_recording_that_had_stopped_is_missing_after_a_resume(trainer_of, monkeypatch):
    """What was trained between is not in the sums, and the book says that it is incomplete."""
    from prequential import ledger

    original = os.write

    def full(descriptor, data):
        if b'"sums","step":4' in data:
            raise OSError(28, "No space left on device")
        return original(descriptor, data)

    class Saves(L.Callback):
        def on_train_batch_end(self, trainer, *ignored):
            if trainer.global_step == 6:
                trainer.save_checkpoint("six.ckpt")
                raise KeyError("gone")

    monkeypatch.setattr(ledger.os, "write", full)
    with pytest.raises(KeyError), pytest.warns(PrequentialWarning, match="the recording stopped"):
        fitted(trainer_of(monitor(every_n_steps=1), Saves(), enable_checkpointing=True))
    monkeypatch.setattr(ledger.os, "write", original)
    with pytest.warns(PrequentialWarning, match="the recording had stopped before the checkpoint"):
        trainer_of(monitor()).fit(Toy(), loader(), ckpt_path="six.ckpt")
    run = read_book("book.jsonl")
    assert (run.status, run.end["complete"]) == ("completed", False)
    assert "No space left" in next(event["message"] for event in run.events if event["event"] == "missed")


def test_a_book_that_a_reader_has_open_is_written_on(trainer_of):
    """Readers take nothing away: neither a line nor the right to write."""

    class Reads(Toy):
        def training_step(self, batch, batch_idx):
            if batch_idx > 2:
                assert read_book("book.jsonl").status == "open"
            return super().training_step(batch, batch_idx)

    fitted(trainer_of(monitor(every_n_steps=1)), Reads)
    assert read_book("book.jsonl").total.coded_tokens == TOKENS
    assert json.loads(Path("book.jsonl").read_text().splitlines()[-1])["status"] == "completed"


def test_sanity_validation_is_not_coded(trainer_of):
    """Neither before training nor after it."""

    class Validated(Toy):
        def validation_step(self, batch, batch_idx):
            self.log("loss", self.loss(batch))

    L.seed_everything(0)
    trainer_of(monitor(), num_sanity_val_steps=2).fit(Validated(), loader(), DataLoader(loader().dataset, 4))
    assert read_book("book.jsonl").total.positions == TOKENS + ROWS
