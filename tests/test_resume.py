"""A run that was interrupted and resumed leaves the book that the unbroken run leaves."""

import json
import math
import os
import random
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset
from toys import Toy, loader, rows

from prequential import CompressionMonitor
from prequential.errors import MeasureError, PrequentialWarning
from prequential.ledger import read_book

ROWS, LENGTH = 32, 12  # of some 56 bits, so that rows can be told apart
TOKENS = ROWS * LENGTH
FLOATS = ("nats", "uncoded_nats", "replayed_nats")


class Resumable:
    """A loader that keeps its place: batches of the toy rows, in order."""

    def __init__(self, batch_size=4, count=ROWS, drop_last=False):
        self.batches = list(DataLoader(loader(count=count, length=LENGTH).dataset, batch_size, drop_last=drop_last))
        self.next = 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.next %= len(self.batches)
        while self.next < len(self.batches):
            self.next += 1
            yield self.batches[self.next - 1]

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


class Stops(L.Callback):
    """Ends the process, as far as Lightning can tell, after so many steps."""

    def __init__(self, after):
        self.after = after

    def on_train_batch_end(self, trainer, *ignored):
        if trainer.global_step >= self.after:
            raise KeyError("the machine is gone")


def saver(every=1, **options):
    return ModelCheckpoint(
        **{"dirpath": "ckpt", "filename": "{step}", "save_top_k": -1, "every_n_train_steps": every, **options}
    )


def monitor(**options):
    return CompressionMonitor(**{"bundle": None, "ledger": "book.jsonl", "token_bytes": [2] * 20, **options})


def fitted(trainer_of, *callbacks, data=None, module=Toy, ckpt=None, weights_only=None, **options):
    L.seed_everything(0)
    trainer = trainer_of(*callbacks, **{"enable_checkpointing": True, **options})
    trainer.fit(module(), data() if callable(data) else data or Resumable(), ckpt_path=ckpt, weights_only=weights_only)
    return trainer


def interrupted(trainer_of, after, *callbacks, **options):
    """Train until the machine is gone; what stands in the book is what a killed process would leave, and its end."""
    with pytest.raises(KeyError, match="the machine is gone"):
        fitted(trainer_of, *callbacks, Stops(after), **options)


def unbroken(trainer_of, **options):
    own = options.pop("own", {})
    fitted(trainer_of, monitor(ledger="unbroken", **own), enable_checkpointing=False, **options)
    return read_book("unbroken/book.jsonl")


def same(run, other):
    """Counts and fingerprints are equal, nats to 1e-9."""
    a, b = asdict(run.total), asdict(other.total)
    assert {name: a[name] for name in a if name not in FLOATS} == {name: b[name] for name in b if name not in FLOATS}
    for name in FLOATS:
        assert a[name] == pytest.approx(b[name], rel=1e-9)
    assert run.sources.keys() == other.sources.keys()
    assert (run.warnings, run.status, run.end["complete"]) == ([], "completed", True)
    assert run.single_pass == other.single_pass
    return True


def checkpoint(step):
    return f"ckpt/step={step}.ckpt"


def lines():
    return [json.loads(line) for line in Path("book.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("weights_only", [False, True])
def test_a_book_ahead_of_the_checkpoint_is_rewound(trainer_of, weights_only):
    """Stopped after six steps, resumed from the third: three steps and the end line are void."""
    interrupted(trainer_of, 6, monitor(), saver())
    broken = read_book("book.jsonl")
    assert (broken.status, broken.end["error"]) == ("failed", "KeyError: 'the machine is gone'")
    fitted(trainer_of, monitor(), ckpt=checkpoint(3), weights_only=weights_only)
    run = read_book("book.jsonl")
    assert same(run, unbroken(trainer_of))
    assert [interval.step for interval in run.intervals] == list(range(1, 9))
    assert run.events == []
    (rewind,) = [line for line in lines() if line["kind"] == "rewind"]
    assert rewind == {"kind": "rewind", "step": 3, "lines": 4}


def test_a_killed_run_goes_on_where_its_book_ends(trainer_of, monkeypatch):
    """Nothing was written behind the checkpoint: no line is void, none is added but sums."""
    monkeypatch.setattr(CompressionMonitor, "on_exception", lambda *ignored: None)  # SIGKILL tells nobody
    interrupted(trainer_of, 5, monitor(), saver(4))
    assert read_book("book.jsonl").status == "open"
    fitted(trainer_of, monitor(), ckpt=checkpoint(4))
    assert same(read_book("book.jsonl"), unbroken(trainer_of))
    kinds = [line["kind"] for line in lines()]
    assert kinds == ["header", *["sums"] * 8, "end"]


@pytest.mark.parametrize("ledger", ["elsewhere", "other/book.jsonl", None])
def test_a_run_that_resumes_elsewhere_carries_its_sums(trainer_of, ledger, tmp_path):
    """Its new book names the old one, and has the gap on record; the old one stays as it is."""
    interrupted(trainer_of, 6, monitor(), saver())
    before = Path("book.jsonl").read_bytes()
    again = monitor(ledger=ledger)
    with pytest.warns(PrequentialWarning, match="carried in one interval, line by line they stand in"):
        fitted(trainer_of, again, ckpt=checkpoint(3))
    assert Path("book.jsonl").read_bytes() == before
    run, old = read_book(again.book), read_book("book.jsonl")
    assert same(run, unbroken(trainer_of))
    assert [interval.step for interval in run.intervals] == [3, 4, 5, 6, 7, 8]
    ancestor = {"id": old.header["id"], "book": str(tmp_path / "book.jsonl"), "step": 3}
    assert run.header["ancestor"] == ancestor
    assert run.header["id"] != old.header["id"]
    assert [(event["event"], event["step"]) for event in run.events] == [("carried", 3)]
    assert run.header["weights"] is None


def test_a_lost_book_begins_again_with_the_gap_on_record(trainer_of):
    """The totals travel in the checkpoint."""
    interrupted(trainer_of, 6, monitor(), saver())
    os.remove("book.jsonl")
    with pytest.warns(PrequentialWarning, match="which is gone"):
        fitted(trainer_of, monitor(), ckpt=checkpoint(5))
    run = read_book("book.jsonl")
    assert same(run, unbroken(trainer_of))
    assert [interval.step for interval in run.intervals] == [5, 6, 7, 8]


def test_a_book_that_lost_lines_carries_the_sums_instead(trainer_of):
    """The disk kept less than the checkpoint knows: what is left of the book is void, its totals are right."""
    interrupted(trainer_of, 6, monitor(), saver())
    kept = Path("book.jsonl").read_bytes().splitlines(keepends=True)[:3]
    Path("book.jsonl").write_bytes(b"".join(kept) + b'{"kind":"sums","st')
    with pytest.warns(PrequentialWarning, match="knows more than this book"):
        fitted(trainer_of, monitor(), ckpt=checkpoint(5))
    run = read_book("book.jsonl")
    assert same(run, unbroken(trainer_of))
    assert [interval.step for interval in run.intervals] == [5, 6, 7, 8]


@pytest.mark.parametrize("damage", [b"not a book\n", b'{"kind":"header","book":3,"id":"of another run"}\n'])
def test_a_book_of_another_run_is_left_alone(trainer_of, damage):
    """Whatever stands at the path, a resumed run is not refused: its book lies beside it."""
    interrupted(trainer_of, 6, monitor(), saver())
    Path("book.jsonl").write_bytes(damage)
    again = monitor(ledger="book.jsonl")
    with pytest.warns(PrequentialWarning, match="carried in one interval"):
        fitted(trainer_of, again, ckpt=checkpoint(5))
    assert Path("book.jsonl").read_bytes() == damage
    assert again.book == Path("book-2.jsonl")
    assert same(read_book(again.book), unbroken(trainer_of))


def test_two_runs_from_one_checkpoint_have_a_book_each(trainer_of):
    """The first goes on in its own book and completes; the second is a fork, and does not void it."""
    interrupted(trainer_of, 6, monitor(ledger="run"), saver())
    fitted(trainer_of, monitor(ledger="run"), ckpt=checkpoint(3))
    first = Path("run/book.jsonl").read_bytes()
    with pytest.warns(PrequentialWarning, match="carried in one interval"):
        fitted(trainer_of, monitor(ledger="run"), ckpt=checkpoint(3), module=lambda: Toy(learning_rate=0.5))
    assert Path("run/book.jsonl").read_bytes() == first
    fork = read_book("run-2/book.jsonl")
    assert fork.header["ancestor"]["id"] == read_book("run/book.jsonl").header["id"]
    assert fork.total.coded_tokens == TOKENS


def test_a_completed_run_that_trains_on_keeps_its_book(trainer_of):
    """Its last checkpoint stands at the end: the later epoch is replay, in the same book."""
    fitted(trainer_of, monitor(), saver(8, save_last=True))
    once = read_book("book.jsonl")
    fitted(trainer_of, monitor(), ckpt="ckpt/last.ckpt", max_epochs=2)
    run = read_book("book.jsonl")
    assert (run.total.nats, run.total.coded_tokens) == (once.total.nats, TOKENS)
    assert run.total.replayed_tokens == TOKENS
    assert same(run, unbroken(trainer_of, max_epochs=2))


def test_an_ancestor_is_named_by_every_fork(trainer_of):
    """Two runs that resume from one checkpoint elsewhere."""
    interrupted(trainer_of, 6, monitor(), saver())
    for ledger in ("a", "b"):
        with pytest.warns(PrequentialWarning, match="carried in one interval"):
            fitted(trainer_of, monitor(ledger=ledger), ckpt=checkpoint(4))
    a, b = (read_book(f"{ledger}/book.jsonl").header for ledger in ("a", "b"))
    assert a["ancestor"] == b["ancestor"]
    assert len({a["id"], b["id"], a["ancestor"]["id"]}) == 3


def test_a_resume_from_the_end_of_an_epoch(trainer_of):
    """The second epoch is replay, whether it is reached in one go or not."""
    interrupted(trainer_of, 11, monitor(), saver(8), max_epochs=2)
    fitted(trainer_of, monitor(), ckpt=checkpoint(8), max_epochs=2)
    run = read_book("book.jsonl")
    assert same(run, unbroken(trainer_of, max_epochs=2))
    assert run.total.replayed_tokens == TOKENS


@pytest.mark.parametrize("step", [3, 7, 8, 9, 11])
@pytest.mark.parametrize("repeats", ["data", "replay"])
def test_rows_that_came_before_the_checkpoint_are_known_after_it(trainer_of, step, repeats):
    """Rows that stand in the data three times, in one epoch: replay or data, as in the unbroken run."""
    once = loader(count=16, length=LENGTH).dataset.tensors
    data = TensorDataset(*(torch.cat([part, part, part]) for part in once), torch.arange(16).repeat(3) % 3)

    class Thrice(Resumable):
        def __init__(self):
            self.batches, self.next = list(DataLoader(data, batch_size=4)), 0

    own, options = {"repeats": repeats, "source": 2}, {"data": Thrice, "module": Sourced}
    interrupted(trainer_of, step + 1, monitor(**own), saver(step), **options)
    fitted(trainer_of, monitor(**own), ckpt=checkpoint(step), **options)
    run, whole = read_book("book.jsonl"), unbroken(trainer_of, own=own, **options)
    assert same(run, whole)
    assert run.total.replayed_tokens == (2 * 16 * LENGTH if repeats == "replay" else 0)
    for name, tally in whole.sources.items():
        assert run.sources[name].coded_tokens == tally.coded_tokens
        assert run.sources[name].nats == pytest.approx(tally.nats, rel=1e-9)


class Sourced(Toy):
    """Its batches name the source of each row."""

    def loss(self, batch):
        return super().loss(batch[:2])


class Noisy(Toy):
    """Has dropout, whose state the checkpoint carries on: Lightning keeps no random states."""

    def on_save_checkpoint(self, checkpoint):
        checkpoint["random"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint):
        torch.set_rng_state(checkpoint["random"])

    def forward(self, inputs):
        return self.head(F.dropout(self.embedding(inputs), 0.5, self.training))


def test_the_estimate_in_evaluation_mode_goes_on(trainer_of):
    """The same micro-batches are drawn, and the estimate and its error are the same."""
    own = {"rescore": 0.5}
    interrupted(trainer_of, 6, monitor(**own), saver(), module=Noisy)
    fitted(trainer_of, monitor(**own), ckpt=checkpoint(4), module=Noisy)
    run, whole = read_book("book.jsonl"), unbroken(trainer_of, own=own, module=Noisy)
    assert same(run, whole)
    assert run.rescored == pytest.approx(whole.rescored, rel=1e-9)


def test_passages_and_coverage_go_on(trainer_of):
    """What was sampled of a corpus before the checkpoint is compared with what comes after it."""
    corpus = torch.randint(20, (4000,), generator=torch.Generator().manual_seed(1))
    starts = torch.arange(0, 3600, 100)
    rows = torch.stack([corpus[start : start + 601] for start in starts.tolist() if start + 601 <= 4000])
    data = TensorDataset(rows[:, :-1], rows[:, 1:], starts[: len(rows)])

    class Crops(Resumable):
        def __init__(self):
            self.batches, self.next = list(DataLoader(data, batch_size=5)), 0

    own = {"positions": 2, "corpus_tokens": 4000}
    interrupted(trainer_of, 4, monitor(**own), saver(), data=Crops, module=Sourced)
    fitted(trainer_of, monitor(**own), ckpt=checkpoint(3), data=Crops, module=Sourced)
    run, whole = read_book("book.jsonl"), unbroken(trainer_of, own=own, data=Crops, module=Sourced)
    assert same(run, whole)
    assert run.end["coverage"] == whole.end["coverage"]
    assert run.end["repeats"] == whole.end["repeats"]
    assert run.end["coverage"]["repeated"] > 2000


def test_a_checkpoint_in_the_middle_of_a_window(trainer_of):
    """Saved after the first micro-batch of a window of three: what was scored stays scored, nothing counts twice."""

    class Saves(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if batch_idx == 3:
                trainer.save_checkpoint("middle.ckpt")

    interrupted(trainer_of, 2, monitor(), Saves(), accumulate_grad_batches=3)
    fitted(trainer_of, monitor(), ckpt="middle.ckpt", accumulate_grad_batches=3)
    run = read_book("book.jsonl")
    assert (run.total.coded_tokens, run.total.uncoded_tokens) == (TOKENS, ROWS)
    assert run.total.fingerprint == unbroken(trainer_of, accumulate_grad_batches=3).total.fingerprint


def test_a_checkpoint_on_an_exception_can_be_resumed(trainer_of):
    """It is written after the end of the book, and holds what the book held before it."""

    class Breaks(Toy):
        def training_step(self, batch, batch_idx):
            if batch_idx == 5 and not os.path.exists("ckpt/broken.ckpt"):
                raise ValueError("broken data")
            return super().training_step(batch, batch_idx)

    from lightning.pytorch.callbacks import OnExceptionCheckpoint

    with pytest.raises(ValueError, match="broken data"):
        fitted(trainer_of, monitor(), OnExceptionCheckpoint("ckpt", "broken"), module=Breaks)
    assert read_book("book.jsonl").end["error"] == "ValueError: broken data"
    fitted(trainer_of, monitor(), ckpt="ckpt/broken.ckpt", module=Breaks)
    run = read_book("book.jsonl")
    # The batch at which it broke had left the loader, and is not fed again.
    assert run.total.coded_tokens == TOKENS - 4 * LENGTH
    assert (run.status, run.warnings) == ("completed", [])


def test_a_resume_with_other_batches_and_another_program_is_allowed_and_noted(trainer_of):
    """Each change is an event of the book."""
    from prequential import Bundle

    interrupted(trainer_of, 6, monitor(bundle=Bundle(files={"train.py": b"a"})), saver())
    loaded = torch.load(checkpoint(4), weights_only=False)
    loaded["loops"]["fit_loop"]["state_dict"]["combined_loader"] = [{"next": 2}]
    torch.save(loaded, "ckpt/other.ckpt")
    other = monitor(bundle=Bundle(files={"train.py": b"something longer"}))
    with pytest.warns(PrequentialWarning, match="with batches of 8 rows"):
        fitted(trainer_of, other, ckpt="ckpt/other.ckpt", data=lambda: Resumable(8))
    run = read_book("book.jsonl")
    assert run.total.coded_tokens == TOKENS
    assert [event["event"] for event in run.events] == ["resumed", "batch_size"]
    assert "with other settings: bundle" in run.events[0]["message"]
    assert run.bundle["sha256"] == other.options.bundle.sha256
    assert os.path.getsize("bundle.tar.xz") == run.bundle["bundle_bytes"]


@pytest.mark.parametrize("again", [True, False])
def test_the_program_of_the_first_part_is_charged_where_it_is_the_same_or_left_out(trainer_of, again):
    """Live and in the book."""
    from prequential import Bundle

    bundle = Bundle(files={"train.py": b"print('training')"})
    interrupted(trainer_of, 6, monitor(bundle=bundle), saver())
    trainer = fitted(trainer_of, monitor(bundle=bundle if again else None), ckpt=checkpoint(4))
    run = read_book("book.jsonl")
    assert run.bundle["sha256"] == bundle.sha256
    assert "bundle" not in run.end
    assert float(trainer.callback_metrics["prequential/bundle_bytes"]) == bundle.bundle_bytes


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"token_bytes": None}, "expected bytes_known as in the run that is resumed, True, got False"),
        ({"rescore": "eval"}, "expected rescore as in the run that is resumed, None, got eval"),
        ({"token_bytes": [3] * 20}, "expected token_bytes as in the run that is resumed"),
    ],
)
def test_sums_of_two_kinds_are_refused_before_anything_is_learnt(trainer_of, option, message):
    """In one line; the book stays as it is."""
    interrupted(trainer_of, 6, monitor(), saver())
    before = Path("book.jsonl").read_bytes()
    with pytest.raises(MeasureError, match=message) as caught:
        fitted(trainer_of, monitor(**option), ckpt=checkpoint(4))
    assert "\n" not in str(caught.value)
    assert Path("book.jsonl").read_bytes() == before


def test_weights_of_a_checkpoint_without_a_state_are_given(trainer_of):
    """The run begins where another one ended, which nobody recorded: K(D | theta 0), in a book of its own."""
    fitted(trainer_of, saver(3), max_steps=3)
    with pytest.warns(PrequentialWarning, match="the fit starts at step 3, with what was learnt up to there"):
        fitted(trainer_of, monitor(), ckpt=checkpoint(3))
    run = read_book("book.jsonl")
    assert run.length.startswith("K(D | ")
    assert run.total.coded_tokens == TOKENS - 3 * 4 * LENGTH
    assert run.header["start_step"] == 3


def test_the_weights_of_a_resumed_run_are_its_own(trainer_of, monkeypatch):
    """They were learnt in this run: nobody looks whether they were learnt before."""
    interrupted(trainer_of, 6, monitor(), saver())
    monkeypatch.setattr("prequential.integrations.start.find_weights", lambda *ignored: pytest.fail("looked"))
    fitted(trainer_of, monitor(), ckpt=checkpoint(4))
    assert read_book("book.jsonl").length == "K(D)"


def test_prices_and_charges_travel(trainer_of):
    """Priced weights and choices stay charged, in a new book as well; a new choice is added."""
    own = {"weights": "bytes", "charges": {"luck": 3.0}}
    interrupted(trainer_of, 6, monitor(**own), saver())
    fitted(trainer_of, monitor(charges={"more": 1.0}), ckpt=checkpoint(4))
    charges = read_book("book.jsonl").charges
    assert charges == {"weights, bytes": 8.0 * 4 * (20 * 8 + 8 * 20 + 20), "luck": 3.0, "more": 1.0}
    with pytest.warns(PrequentialWarning, match="carried in one interval"):
        fitted(trainer_of, monitor(ledger="fork"), ckpt=checkpoint(4))
    assert read_book("fork/book.jsonl").charges == {name: charges[name] for name in ("weights, bytes", "luck")}


def test_a_state_of_the_future_is_left_out(trainer_of):
    """Its weights are then given, and it is said."""
    interrupted(trainer_of, 6, monitor(ledger="old"), saver())
    loaded = torch.load(checkpoint(4), weights_only=False)
    loaded["callbacks"]["CompressionMonitor"]["format"] = 99
    torch.save(loaded, "ckpt/future.ckpt")
    with pytest.warns(PrequentialWarning, match="expected a state of the monitor in format 1, got 99"):
        fitted(trainer_of, monitor(), ckpt="ckpt/future.ckpt")
    assert read_book("book.jsonl").length.startswith("K(D | ")


def test_events_travel_into_a_new_book(trainer_of):
    """What makes a sum no code length is not lost with the book in which it stood."""
    own = {"ledger": "old"}
    interrupted(trainer_of, 6, monitor(**own), saver(), module=Smoothed)
    with pytest.warns(PrequentialWarning, match="carried in one interval"):
        fitted(trainer_of, monitor(ledger="new"), ckpt=checkpoint(4), module=Smoothed)
    events = [(event["event"], event["step"]) for event in read_book("new/book.jsonl").events]
    assert events == [("not_likelihood", 1), ("carried", 4)]


class Smoothed(Toy):
    """Trains on a smoothed loss."""

    def loss(self, batch):
        return F.cross_entropy(self(batch[0]).flatten(0, 1), batch[1].flatten(), label_smoothing=0.3)


def plain(batch_size=4, drop_last=False, shuffle=False):
    """A loader of torch, which keeps no place."""
    data = loader(length=LENGTH).dataset
    return lambda: DataLoader(data, batch_size=batch_size, drop_last=drop_last, shuffle=shuffle)


CURE = "a loader that started over: it feeds rows again, which is replay, and never gets to its end; use a loader with"


@pytest.mark.parametrize("repeats", ["auto", "replay"])
@pytest.mark.parametrize("step", [2, 3, 4, 6])
def test_a_loader_that_starts_over_is_seen_through(trainer_of, repeats, step):
    """Of batches 0 to 7 come 0 to k - 1, then 0 to 7 - k: what came twice is replay, what never came is uncoded."""
    own = {"repeats": repeats}
    interrupted(trainer_of, step + 1, monitor(**own), saver(step), data=plain())
    with pytest.warns(PrequentialWarning, match=CURE):
        fitted(trainer_of, monitor(**own), ckpt=checkpoint(step), data=plain())
    run, batch = read_book("book.jsonl"), 4 * LENGTH
    came, twice = max(step, 8 - step), min(step, 8 - step)
    assert run.total.coded_tokens == came * batch
    assert run.total.replayed_tokens == twice * batch
    never = (8 - came) * 4 * (LENGTH + 1)
    assert run.total.uncoded_tokens == came * 4 + never
    assert run.total.uncoded_nats == pytest.approx((came * 4 + never) * math.log(20))
    assert run.total.rows == came * 4
    answer, reasons = run.single_pass
    assert (answer, len(reasons)) == ("no", 1)
    assert "StatefulDataLoader" in reasons[0]
    assert run.grade == "ideal"
    assert (run.warnings, run.status) == ([], "completed")


def test_rows_that_the_data_holds_twice_are_no_replay_when_a_loader_starts_over(trainer_of):
    """Of row 0, which stands there three times, one came before the cut: the first to come again is that one."""
    once = loader(count=7, length=LENGTH).dataset.tensors
    data = TensorDataset(*(part[torch.tensor([0, 1, 2, 0, 3, 0, 4, 5])] for part in once))

    def make():
        return DataLoader(data, batch_size=2)

    interrupted(trainer_of, 2, monitor(), saver(), data=make)
    with pytest.warns(PrequentialWarning, match=CURE):
        fitted(trainer_of, monitor(), ckpt=checkpoint(1), data=make)
    run = read_book("book.jsonl")
    assert (run.total.rows, run.total.coded_tokens, run.total.replayed_tokens) == (6, 6 * LENGTH, 2 * LENGTH)


def test_a_shuffled_loader_that_starts_over_is_seen_through(trainer_of):
    """Another order: some rows of a batch came before, others did not, each is told by itself."""
    seen = []

    class Sees(Toy):
        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                scores = torch.log_softmax(self(batch[0]).double(), 2)
            nats = -scores.gather(2, batch[1].unsqueeze(2)).sum((1, 2))
            seen.extend(zip(map(tuple, batch[0].tolist()), nats.tolist(), strict=True))
            return super().training_step(batch, batch_idx)

    interrupted(trainer_of, 4, monitor(), saver(3), data=plain(shuffle=True), module=Sees)
    before = seen[: 3 * 4]
    seen.clear()
    trainer = trainer_of(monitor(), enable_checkpointing=True)
    L.seed_everything(5)
    with pytest.warns(PrequentialWarning, match=CURE):
        trainer.fit(Sees(), plain(shuffle=True)(), ckpt_path=checkpoint(3))
    known = {row for row, _ in before}
    new = [nats for row, nats in seen if row not in known]
    again = [nats for row, nats in seen if row in known]
    run = read_book("book.jsonl")
    assert 0 < len(again) < len(seen) == 5 * 4
    assert run.total.replayed_tokens == len(again) * LENGTH
    assert run.total.coded_tokens == (12 + len(new)) * LENGTH
    assert run.total.nats == pytest.approx(sum(nats for _, nats in before) + sum(new), rel=1e-6)
    assert run.total.uncoded_tokens == 12 + len(new) + (20 - len(new)) * (LENGTH + 1)
    assert run.grade == "ideal"


def test_a_loader_may_start_over_twice(trainer_of):
    """0 1 2, then 0 1 2 3, then 0: of eight batches four came."""
    interrupted(trainer_of, 4, monitor(), saver(3), data=plain())
    with pytest.warns(PrequentialWarning, match=CURE):
        interrupted(trainer_of, 8, monitor(), saver(7), data=plain(), ckpt=checkpoint(3))
    fitted(trainer_of, monitor(), ckpt=checkpoint(7), data=plain())
    run, batch = read_book("book.jsonl"), 4 * LENGTH
    assert (run.total.coded_tokens, run.total.replayed_tokens) == (4 * batch, 4 * batch)
    assert run.total.uncoded_tokens == 4 * 4 + 4 * 4 * (LENGTH + 1)
    assert run.single_pass[0] == "no"


def test_later_epochs_of_a_run_whose_loader_started_over_are_replay(trainer_of):
    """What never came was charged by the uniform code when its epoch ended: both sides have it."""
    interrupted(trainer_of, 4, monitor(), saver(3), data=plain())
    with pytest.warns(PrequentialWarning, match=CURE):
        fitted(trainer_of, monitor(), ckpt=checkpoint(3), data=plain(), max_epochs=2)
    run, batch = read_book("book.jsonl"), 4 * LENGTH
    assert (run.total.coded_tokens, run.total.replayed_tokens) == (5 * batch, 3 * batch + 8 * batch)
    assert run.total.uncoded_tokens == 5 * 4 + 3 * 4 * (LENGTH + 1)


def test_a_loader_that_starts_over_in_a_later_epoch_changes_nothing(trainer_of):
    """All of it is replay."""
    interrupted(trainer_of, 12, monitor(), saver(11), data=plain(), max_epochs=2)
    fitted(trainer_of, monitor(), ckpt=checkpoint(11), data=plain(), max_epochs=2)
    run, whole = read_book("book.jsonl").total, unbroken(trainer_of, data=plain(), max_epochs=2).total
    assert (run.nats, run.coded_tokens, run.fingerprint) == (whole.nats, TOKENS, whole.fingerprint)
    assert (run.uncoded_tokens, run.replayed_tokens) == (ROWS, TOKENS)


def test_rows_too_short_to_be_told_apart_are_replay_by_their_number(trainer_of):
    """As many batches as there were before the resume."""

    def short():
        return loader(count=32)

    interrupted(trainer_of, 3, monitor(), saver(2), data=short)
    with pytest.warns(PrequentialWarning, match=CURE):
        fitted(trainer_of, monitor(), ckpt=checkpoint(2), data=short)
    run = read_book("book.jsonl")
    assert (run.total.coded_tokens, run.total.replayed_tokens) == (6 * 24, 2 * 24)
    assert run.total.uncoded_tokens == 6 * 4 + 2 * 4 * 7


def test_a_loader_of_torchdata_is_resumed_exactly(trainer_of):
    """The cure that is named is one."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    data = loader(length=LENGTH).dataset

    def make():
        return stateful.StatefulDataLoader(data, batch_size=4)

    interrupted(trainer_of, 6, monitor(), saver(), data=make)
    fitted(trainer_of, monitor(), ckpt=checkpoint(3), data=make)
    run = read_book("book.jsonl")
    assert same(run, unbroken(trainer_of, data=make))
    assert (run.total.replayed_tokens, run.total.uncoded_tokens) == (0, ROWS)


def test_a_run_killed_thirty_times_has_the_book_of_the_unbroken_run(tmp_path):
    """Killed at random moments, in training, while it saves and while it starts: no count differs, nats to 1e-9."""
    script, tests = Path(__file__).with_name("killed.py"), str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(script), "1", "30"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("killed at") == 30
    run, whole = read_book("killed/book.jsonl"), read_book("unbroken/book.jsonl")
    assert same(run, whole)
    assert (run.events, run.total.rows) == ([], 200)
    written = [json.loads(line) for line in Path("killed/book.jsonl").read_text().splitlines()]
    assert sum(line["kind"] == "rewind" for line in written) > 3


def batches_of(*batches):
    """A resumable loader over these batches."""

    class Given(Resumable):
        def __init__(self):
            self.batches, self.next = list(batches), 0

    return Given


class Declares(Toy):
    """States its sums itself, in place of a loss call that is seen."""

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        return {"loss": loss, "nats": loss.double() * batch[1].numel(), "tokens": batch[1].numel(), "targets": batch[1]}


def test_declared_sums_go_on(trainer_of):
    """The fingerprint depends on the order of all targets, over the cut as well."""
    interrupted(trainer_of, 6, monitor(), saver(), module=Declares)
    fitted(trainer_of, monitor(), ckpt=checkpoint(4), module=Declares)
    assert same(read_book("book.jsonl"), unbroken(trainer_of, module=Declares))


class Masks(Toy):
    """Multiplies its losses by a mask of its own."""

    def loss(self, batch):
        inputs, targets, mask = batch
        losses = F.cross_entropy(self(inputs).flatten(0, 1), targets.flatten(), reduction="none")
        return (losses * mask.flatten()).sum() / mask.sum()


def test_a_mask_that_was_proved_in_the_first_batch_is_kept(trainer_of):
    """The first batch after the checkpoint masks nothing, and could prove nothing."""
    tokens = rows(16, LENGTH)
    masks = (torch.arange(LENGTH) > 2).float().repeat(16, 1)
    masks[8:12] = 1
    parts = zip(*(part.split(4) for part in (tokens[:, :-1], tokens[:, 1:], masks)), strict=True)
    data = batches_of(*map(list, parts))
    interrupted(trainer_of, 3, monitor(), saver(), data=data, module=Masks)
    fitted(trainer_of, monitor(), ckpt=checkpoint(2), data=data, module=Masks)
    run = read_book("book.jsonl")
    assert same(run, unbroken(trainer_of, data=data, module=Masks))
    assert run.total.coded_tokens == 12 * (LENGTH - 3) + 4 * LENGTH


@pytest.mark.parametrize("side_by_side", [False, True])
def test_a_contiguous_stream_goes_on(trainer_of, side_by_side):
    """A row that goes on from the one before the checkpoint begins with a token that was a target there."""
    stream = torch.randint(20, (16 * LENGTH + 1,), generator=torch.Generator().manual_seed(3))
    inputs, targets = stream[:-1].view(16, -1), stream[1:].view(16, -1)
    order = torch.arange(16).view(4, 4).T.reshape(-1) if side_by_side else torch.arange(16)
    data = batches_of(*([inputs[some], targets[some]] for some in order.split(4)))
    interrupted(trainer_of, 3, monitor(), saver(), data=data)
    fitted(trainer_of, monitor(), ckpt=checkpoint(2), data=data)
    run = read_book("book.jsonl")
    assert same(run, unbroken(trainer_of, data=data))
    assert run.total.uncoded_tokens == (4 if side_by_side else 1)


def test_a_filler_that_is_known_stays_known(trainer_of):
    """One token at the end of a row is padding if it was seen to fill rows up before the checkpoint."""
    tokens = rows(16, LENGTH)
    tokens[tokens == 0] = 1
    targets = tokens[:, 1:].clone()
    tokens[:4, -3:] = 0
    targets[:4, -3:] = -100
    tokens[8, -2:], targets[8, -1] = 0, -100
    data = batches_of(*map(list, zip(tokens[:, :-1].split(4), targets.split(4), strict=True)))
    interrupted(trainer_of, 3, monitor(), saver(), data=data)
    fitted(trainer_of, monitor(), ckpt=checkpoint(2), data=data)
    run = read_book("book.jsonl")
    assert same(run, unbroken(trainer_of, data=data))
    assert run.total.padding_tokens == 4 * 3 + 1


def test_a_begin_of_text_is_known_over_the_cut(trainer_of):
    """Rows begin alike in the first batch, or they do not: what a later batch shows by chance is not asked."""
    tokens = rows(16, LENGTH)
    tokens[8:12, 0] = 5
    data = batches_of(*([some[:, :-1], some[:, 1:]] for some in tokens.split(4)))
    interrupted(trainer_of, 3, monitor(), saver(), data=data)
    fitted(trainer_of, monitor(), ckpt=checkpoint(2), data=data)
    run = read_book("book.jsonl")
    assert same(run, unbroken(trainer_of, data=data))
    assert run.total.uncoded_tokens == 16


def test_rows_that_were_dropped_are_charged_once(trainer_of):
    """The line of their charge has the step of the checkpoint, and stands behind it: it is void, and written again."""
    data = loader(count=30, length=LENGTH).dataset

    class Drops(DataLoader):
        def __init__(self):
            super().__init__(data, batch_size=4, drop_last=True)

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    fitted(trainer_of, monitor(), saver(7), data=Drops)
    whole = read_book("book.jsonl")
    assert whole.total.uncoded_tokens == 28 + 2 * (LENGTH + 1)
    with pytest.warns(PrequentialWarning, match="2 rows"):
        fitted(trainer_of, monitor(), ckpt=checkpoint(7), data=Drops, max_epochs=2, max_steps=9)
    run = read_book("book.jsonl")
    assert (run.total.uncoded_tokens, run.total.replayed_tokens) == (whole.total.uncoded_tokens, 2 * 4 * LENGTH)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_checkpoints_by_time_and_the_last_one(trainer_of, accumulate):
    """Saved after every micro-batch, within a window too; ``ckpt_path="last"`` finds the newest."""
    from datetime import timedelta

    def every_batch():
        return ModelCheckpoint(dirpath="ckpt", save_last=True, train_time_interval=timedelta(0))

    interrupted(trainer_of, 2, monitor(), every_batch(), accumulate_grad_batches=accumulate)
    fitted(trainer_of, monitor(), every_batch(), ckpt="last", accumulate_grad_batches=accumulate)
    run = read_book("book.jsonl")
    assert (run.total.coded_tokens, run.total.rows) == (TOKENS, ROWS)
    assert (run.warnings, run.status) == ([], "completed")
    if accumulate == 1:
        assert same(run, unbroken(trainer_of))


def test_loggers_go_on_with_the_values_of_the_whole_run(trainer_of):
    """The last values are those of the book, and steps are counted on."""
    interrupted(trainer_of, 6, monitor(), saver())
    trainer = fitted(trainer_of, monitor(), ckpt=checkpoint(4))
    values = read_book("book.jsonl").measured()
    for name in ("data_bits", "compressed_bytes", "tokens"):
        assert float(trainer.callback_metrics[f"prequential/{name}"]) == values[name]


def test_saving_disturbs_nothing(trainer_of):
    """Weights and random states are bit for bit the same with a state in every checkpoint."""
    ends = []
    for callbacks in ([], [monitor(rescore=0.5)]):
        L.seed_everything(0)
        module = Noisy()
        trainer_of(*callbacks, saver(dirpath=f"ckpt{len(ends)}"), enable_checkpointing=True).fit(module, Resumable())
        ends.append((list(module.parameters()), torch.get_rng_state(), random.getstate()))
    assert all(torch.equal(a, b) for a, b in zip(ends[0][0], ends[1][0], strict=True))
    assert torch.equal(ends[0][1], ends[1][1])
    assert ends[0][2] == ends[1][2]


def test_validation_with_a_checkpoint_does_not_make_the_next_fit_a_resumed_one(trainer_of):
    """Only `fit` with a checkpoint goes on from its state."""

    class Validated(Toy):
        def validation_step(self, batch, batch_idx):
            self.log("loss", self.loss(batch))

    interrupted(trainer_of, 6, monitor(ledger="old"), saver(), module=Validated)
    trainer = trainer_of(monitor(), enable_checkpointing=True)
    module = Validated()
    trainer.validate(module, Resumable(), ckpt_path=checkpoint(4), verbose=False)
    trainer.fit(module, Resumable())
    run = read_book("book.jsonl")
    assert run.total.coded_tokens == TOKENS
    assert "ancestor" not in run.header


def test_a_monitor_from_the_environment_goes_on_with_the_state_of_the_scripts_own(trainer_of, monkeypatch):
    """Whoever put the monitor there: it is one run."""
    interrupted(trainer_of, 6, monitor(ledger=None, token_bytes=None), saver())
    monkeypatch.setenv("PREQUENTIAL", "1")
    fitted(trainer_of, ckpt=checkpoint(4))
    run = read_book(next(Path.cwd().rglob("book.jsonl")))
    assert (run.total.coded_tokens, run.status) == (TOKENS, "completed")


@pytest.mark.parametrize("limit", [{}, {"max_steps": 7}])
def test_a_run_that_was_killed_behind_its_last_checkpoint_is_ended(trainer_of, monkeypatch, limit):
    """Nothing is left to train, and Lightning starts nothing: the book gets its end all the same."""
    from prequential.integrations import lightning as door

    data = loader(count=30, length=LENGTH).dataset

    class Drops(DataLoader):
        def __init__(self):
            super().__init__(data, batch_size=4, drop_last=True)

    with monkeypatch.context() as killed:
        killed.setattr(door.CompressionMonitor, "on_train_epoch_end", lambda *ignored: None)
        killed.setattr(door.CompressionMonitor, "on_train_end", lambda *ignored: None)
        fitted(trainer_of, monitor(), saver(7), data=Drops, **limit)
    assert read_book("book.jsonl").status == "open"
    fitted(trainer_of, monitor(), ckpt=checkpoint(7), data=Drops, **limit)
    run = read_book("book.jsonl")
    assert same(run, unbroken(trainer_of, data=Drops))
    assert run.total.uncoded_tokens == 28 + 2 * (LENGTH + 1)
    assert run.end["totals"]["rows"] == 28
