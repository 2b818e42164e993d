"""Scoring in evaluation mode: exact against a plain float64 loop, unbiased as an estimate, and nothing disturbed."""

import itertools
import json
import math
import random
import statistics
import traceback

import lightning as L
import numpy as np
import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from click.testing import CliRunner
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader
from toys import Toy, loader

from prequential import CompressionMonitor, Meter, Recording, Tally, compare
from prequential.cli import main
from prequential.errors import MeasureError
from prequential.ledger import read_book
from prequential.rescore import DifferenceEstimator


class Noisy(Toy):
    """Dropout, running statistics and logging; draws from all random states in its step."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.3)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, inputs):
        hidden = self.norm(self.embedding(inputs).transpose(1, 2)).transpose(1, 2)
        return self.head(self.dropout(hidden))

    def training_step(self, batch, batch_idx):
        self.seen += 1
        loss = self.loss(batch)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss * (1 + 1e-4 * random.random() + 1e-4 * np.random.rand())


class Declaring(Noisy):
    """States its sums itself."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        nats = F.cross_entropy(self(batch[0]).flatten(0, 1), batch[1].flatten(), reduction="sum")
        return {"loss": loss, "nats": nats.detach(), "tokens": batch[1].numel()}


def by_function(module, batch, outputs):
    """A ``measure`` that runs the module itself."""
    nats = F.cross_entropy(module(batch[0]).flatten(0, 1), batch[1].flatten(), reduction="sum")
    return {"nats": nats, "tokens": batch[1].numel()}


def seeded():
    L.seed_everything(0)
    random.seed(0)
    np.random.seed(0)


def trained(trainer_of, make=Noisy, batches=None, *, trainer=None, **options):
    """A run with the monitor: its book, and all that it could have disturbed."""
    ledger = "-".join(map(str, [make.__name__, *options.values()]))
    seeded()
    module = make()
    options.setdefault("bundle", None)
    lightning = trainer_of(CompressionMonitor(ledger=ledger, **options), **(trainer or {}))
    lightning.fit(module, loader(2) if batches is None else batches)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    return read_book(f"{ledger}/book.jsonl"), module.state_dict(), states, lightning.callback_metrics.get("loss")


def by_hand(batches, *, evaluating):
    """Nats of each micro-batch of the same training in float64, before its update, as a plain loop."""
    seeded()
    module = Noisy()
    optimizer = module.configure_optimizers()
    nats = []
    for inputs, targets in batches:
        if evaluating:
            with torch.no_grad():
                logits = module.eval()(inputs).double()
            nats.append(F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item())
        logits = module.train()(inputs)
        if not evaluating:
            in_training = logits.detach().double().flatten(0, 1)
            nats.append(F.cross_entropy(in_training, targets.flatten(), reduction="sum").item())
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        (loss * (1 + 1e-4 * random.random() + 1e-4 * np.random.rand())).backward()
        optimizer.step()
        optimizer.zero_grad()
    return nats


def first(count):
    """The first micro-batches; the loader draws from the random state when it is begun, as in the run."""
    yield from itertools.islice(loader(2), count)


def test_the_code_in_evaluation_mode_is_exact(trainer_of):
    """The book holds what a loop computes that scores each micro-batch without dropout before its update."""
    run = trained(trainer_of, rescore="eval")[0]
    expected = sum(by_hand(loader(2), evaluating=True))
    assert run.total.nats == pytest.approx(expected, rel=1e-6)
    assert run.total.nats < sum(by_hand(loader(2), evaluating=False)) - 1
    assert run.total.coded_tokens == 32 * 6
    assert (run.header["rescore"], run.rescored, run.events) == ("eval", None, [])


@pytest.mark.parametrize("rescore", ["eval", 0.4])
def test_it_disturbs_nothing(trainer_of, rescore):
    """Weights, buffers, all random states and logged means are bit-identical with and without."""
    plain, watched = trained(trainer_of), trained(trainer_of, rescore=rescore)
    assert all(torch.equal(plain[1][name], watched[1][name]) for name in plain[1])
    assert torch.equal(plain[2][0], watched[2][0])
    assert plain[2][1:] == watched[2][1:]
    assert torch.equal(plain[3], watched[3])


def test_every_way_to_find_the_nats_is_rescored(trainer_of):
    """Sums that the step states, and those of a function that runs the module, are those of evaluation mode too."""
    capture = trained(trainer_of, rescore="eval")[0]
    outputs = trained(trainer_of, Declaring, rescore="eval")[0]
    function = trained(trainer_of, rescore="eval", measure=by_function)[0]
    assert function.total.nats == pytest.approx(capture.total.nats, rel=1e-6)
    assert (outputs.header["measure"], function.header["measure"]) == ("outputs", "callable")
    plain = trained(trainer_of, Declaring)[0]
    assert outputs.total.nats < plain.total.nats - 1


def drawn(share, batches):
    """Which micro-batches the estimator draws."""
    estimator = DifferenceEstimator(share, "cpu")
    return [estimator.draw() for _ in range(batches)]


def test_the_estimate_is_that_of_the_formula(trainer_of):
    """Training nats stay the code; the estimate beside them is the difference estimator's, from values by hand."""
    batches = loader(2, count=30)  # 15 micro-batches: the last log point is before the end
    run = trained(trainer_of, batches=batches, rescore=0.4)[0]
    in_training, evaluated = (by_hand(batches, evaluating=mode) for mode in (False, True))
    sample = drawn(0.4, len(evaluated))
    differences = [e - t for e, t, one in zip(evaluated, in_training, sample, strict=True) if one]
    assert run.total.nats == pytest.approx(sum(in_training), rel=1e-6)
    assert run.rescored["nats"] - run.total.nats == pytest.approx(sum(differences) / 0.4, rel=1e-4)
    squares = sum(d**2 for d in differences)
    assert run.rescored["standard_error"] == pytest.approx(math.sqrt(0.6 * squares) / 0.4, rel=1e-4)
    assert (run.rescored["batches"], run.rescored["share"]) == (sum(sample), 0.4)
    assert run.rescored["nats"] < run.total.nats
    assert run.end["complete"]


def test_stated_sums_are_estimated_too(trainer_of):
    """By their difference between the modes, whoever states them."""
    for make, options in ((Declaring, {}), (Noisy, {"measure": by_function})):
        run = trained(trainer_of, make, rescore=0.4, **options)[0]
        assert run.rescored["batches"] == sum(drawn(0.4, 16))
        assert -30 < run.rescored["nats"] - run.total.nats < -1


def test_the_estimate_is_unbiased_and_knows_its_error():
    """Over 2000 draws of the sample the mean is the truth within its error, and the spread is the stated error."""
    generator = random.Random(1)
    in_training = [generator.uniform(4, 6) for _ in range(400)]
    evaluated = [nats - generator.uniform(0, 1) for nats in in_training]
    estimates = [_estimated(in_training, evaluated, seed) for seed in range(2000)]
    mean = statistics.fmean(found.nats for found in estimates)
    spread = statistics.stdev(found.nats for found in estimates)
    assert abs(mean - sum(evaluated)) < 4 * spread / math.sqrt(len(estimates))
    truth = math.sqrt(0.9 / 0.1 * sum((e - t) ** 2 for e, t in zip(evaluated, in_training, strict=True)))
    assert spread == pytest.approx(truth, rel=0.1)
    stated = math.sqrt(statistics.fmean(found.standard_error**2 for found in estimates))
    assert stated == pytest.approx(truth, rel=0.05)


def _estimated(in_training, evaluated, seed):
    estimator = DifferenceEstimator(0.1, "cpu", seed=seed)
    for trained_nats, nats in zip(in_training, evaluated, strict=True):
        if estimator.draw():
            estimator.add(_sums(nats), _sums(trained_nats))
    estimator.count(estimator.take(), Tally(coded_tokens=400))
    return estimator.estimate(sum(in_training))


def _sums(nats):
    meter = Meter()
    meter.add(torch.tensor(nats, dtype=torch.float64), torch.zeros(1, dtype=torch.long), vocab_size=2)
    return meter.peek()


@pytest.mark.parametrize("rescore", ["eval", 0.4])
def test_nothing_waits_for_the_device_between_log_points(trainer_of, monkeypatch, rescore):
    """No tensor is read on the host by the package, but at log points."""
    asked, after_batch = [0], []

    def counted(original):
        def call(self, *args, **kwargs):
            asked[0] += any("/prequential/" in frame.filename for frame in traceback.extract_stack()[-4:-1])
            return original(self, *args, **kwargs)

        return call

    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, counted(getattr(torch.Tensor, name)))

    class Marks(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            after_batch.append(asked[0])

    seeded()
    monitor = CompressionMonitor(bundle=None, ledger="waits", rescore=rescore)
    trainer_of(monitor, Marks()).fit(Noisy(), loader(2))
    assert after_batch[15] > after_batch[14] == after_batch[8]  # log points at steps 1, 2, 4, 8 and 16
    assert after_batch[8] == after_batch[7] > after_batch[6]


def test_only_first_exposures_are_sampled(trainer_of):
    """A second epoch is free, and changes no estimate."""
    once = trained(trainer_of, rescore=0.4)[0]
    seeded()
    trainer_of(CompressionMonitor(bundle=None, ledger="twice", rescore=0.4), max_epochs=2).fit(Noisy(), loader(2))
    twice = read_book("twice/book.jsonl")
    assert twice.total.replayed_tokens == 32 * 6
    assert twice.rescored == once.rescored


def test_rows_that_came_before_in_the_same_epoch_are_not_sampled(trainer_of):
    """They are replay, whose differences weigh nothing."""
    long = loader(2, length=40)
    once = trained(trainer_of, batches=long, rescore=0.4)[0]
    twice = DataLoader(ConcatDataset([long.dataset] * 2), batch_size=2)
    again = trained(trainer_of, batches=twice, rescore=0.4, repeats="replay")[0]
    assert again.total.replayed_tokens == again.total.coded_tokens == 32 * 40
    assert again.rescored["batches"] == once.rescored["batches"]
    assert again.rescored == pytest.approx(once.rescored)


def test_an_interrupted_run_has_its_estimate(trainer_of):
    """Over what it had coded by then."""

    class Breaks(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 11:
                raise RuntimeError("out of patience")

    seeded()
    monitor = CompressionMonitor(bundle=None, ledger="broken", rescore=0.4)
    with pytest.raises(RuntimeError, match="patience"):
        trainer_of(monitor, Breaks()).fit(Noisy(), loader(2))
    run = read_book("broken/book.jsonl")
    in_training, evaluated = (by_hand(first(11), evaluating=mode) for mode in (False, True))
    sample = zip(evaluated, in_training, drawn(0.4, 11), strict=True)
    expected = sum(in_training) + sum(e - t for e, t, one in sample if one) / 0.4
    assert run.status == "failed"
    assert run.rescored["nats"] == pytest.approx(expected, rel=1e-6)


def test_with_accumulated_gradients_the_mode_is_the_same(trainer_of):
    """Each micro-batch is scored before the update that learns from it."""
    run = trained(trainer_of, rescore="eval", trainer={"accumulate_grad_batches": 4})[0]
    plain = trained(trainer_of, trainer={"accumulate_grad_batches": 4})[0]
    assert run.total.nats < plain.total.nats
    assert run.total.fingerprint == plain.total.fingerprint
    assert [i.tally.coded_tokens for i in run.intervals] == [i.tally.coded_tokens for i in plain.intervals]


def test_loggers_get_nothing_of_the_extra_pass(trainer_of):
    """Neither through the module's own logger."""

    class Logs(Noisy):
        def training_step(self, batch, batch_idx):
            self.logger.log_metrics({"mine": float(self.training)}, step=batch_idx)
            return super().training_step(batch, batch_idx)

    class Counting(CSVLogger):
        rows = 0

        def log_metrics(self, metrics, step=None):
            self.rows += "mine" in metrics
            super().log_metrics(metrics, step)

    logger = Counting("logs")
    run = trained(trainer_of, Logs, rescore="eval", trainer={"logger": logger})[0]
    assert (logger.rows, run.events) == (16, [])


def test_manual_optimisation_is_refused_before_training(trainer_of):
    """Such a step learns: it cannot be run twice."""

    class Manual(Noisy):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(MeasureError, match=r"a step that learns by itself \(manual optimisation\) cannot"):
        trainer_of(CompressionMonitor(bundle=None, rescore="eval")).fit(Manual(), loader())


def test_a_step_that_is_given_all_batches_is_refused(trainer_of):
    """Running it twice would take a batch away."""

    class Takes(Noisy):
        def training_step(self, dataloader_iter):
            batch, batch_idx, _ = next(dataloader_iter)
            return super().training_step(batch, batch_idx)

    with pytest.raises(MeasureError, match="expected a training step that can be run again"):
        trainer_of(CompressionMonitor(bundle=None, rescore=0.5)).fit(Takes(), loader())


class NeedsGradients(Noisy):
    """Cannot run without gradients."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        torch.autograd.grad(loss, self.head.weight, retain_graph=True)
        return loss


def test_a_step_that_cannot_be_scored_is_refused_before_anything_is_learnt(trainer_of):
    """In one line, with the reason."""
    with pytest.raises(MeasureError, match="runs in evaluation mode without gradients, got RuntimeError") as caught:
        trained(trainer_of, NeedsGradients, rescore="eval")
    assert "\n" not in str(caught.value)


def test_an_estimate_that_cannot_be_made_leaves_the_code_alone(trainer_of):
    """Training goes on, the headline is complete, and the book says why there is no estimate."""
    run = trained(trainer_of, NeedsGradients, rescore=0.4)[0]
    assert (run.status, run.end["complete"], run.rescored) == ("completed", True, None)
    assert [event["event"] for event in run.events] == ["cross_row", "not_rescored"]
    assert run.total.coded_tokens == 32 * 6


def test_a_model_without_a_loss_in_evaluation_mode_gets_no_estimate(trainer_of):
    """Nothing is taken for 0 nats."""

    class Silent(Noisy):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) if self.training else None

    run = trained(trainer_of, Silent, rescore=0.4)[0]
    assert run.rescored is None
    assert "other tokens are scored there than in training" in run.events[-1]["message"]


def test_a_sample_of_nothing_is_no_estimate(trainer_of):
    """A short run of which no micro-batch was drawn says so."""
    run = trained(trainer_of, rescore=0.001)[0]
    assert run.rescored is None
    assert "drew no micro-batch" in run.events[-1]["message"]


def test_a_recording_that_stopped_runs_no_more_extra_passes(trainer_of, monkeypatch):
    """A failure of the instrument costs no compute from then on, and training goes on."""

    class Counts(Noisy):
        evaluated = 0

        def training_step(self, batch, batch_idx):
            type(self).evaluated += not self.training
            if batch_idx == 3 and not self.training:
                raise RuntimeError("no")
            return super().training_step(batch, batch_idx)

    run = trained(trainer_of, Counts, rescore="eval")[0]
    assert Counts.evaluated == 4
    assert (run.end["complete"], run.status) == (False, "completed")


def test_a_compiled_module_is_rescored(trainer_of):
    """One more graph, for evaluation mode, and no more than that."""
    counters = {}
    for rescore in (None, "eval"):
        torch._dynamo.reset()
        counters[rescore] = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
        seeded()
        module = torch.compile(Toy(), backend=counters[rescore])
        trainer_of(CompressionMonitor(bundle=None, ledger=str(rescore), rescore=rescore)).fit(module, loader(2))
    runs = [read_book(f"{rescore}/book.jsonl") for rescore in counters]
    assert runs[0].total.nats == pytest.approx(runs[1].total.nats, rel=1e-6)
    assert counters["eval"].frame_count == 2 * counters[None].frame_count


@pytest.mark.parametrize("rescore", ["evaluation", 0.0, 1.0, -0.5, float("nan"), True, 1])
def test_other_modes_are_refused(rescore):
    """The constructor says which there are."""
    with pytest.raises(MeasureError, match="expected rescore to be 'eval', a share between 0 and 1, or None, got"):
        CompressionMonitor(rescore=rescore)


def test_a_loop_written_by_hand_is_refused():
    """There is no step that could be run again."""
    with pytest.raises(MeasureError, match="a loop written by hand"):
        Recording("runs/loop", bundle=None, rescore=0.1)


def test_readers_see_the_mode_and_the_estimate(trainer_of):
    """`show`, `--json`, the summary and `compare`."""
    sampled = trained(trainer_of, rescore=0.4)[0]
    evaluated = trained(trainer_of, rescore="eval")[0]
    shown = CliRunner().invoke(main, ["show", sampled.path]).output
    assert "in evaluation mode" in shown
    assert "micro-batches, drawn with probability 0.4" in " ".join(shown.split())
    assert "evaluation mode" in CliRunner().invoke(main, ["show", evaluated.path]).output
    record = json.loads(CliRunner().invoke(main, ["show", "--json", sampled.path]).output)
    assert (record["rescore"], record["rescored"]) == (0.4, sampled.rescored)
    assert any("in evaluation mode an estimate of" in line for line in sampled.summary())
    notes = compare([sampled, evaluated]).notes
    assert any(note.startswith("rescore differs") and "eval" in note for note in notes)
