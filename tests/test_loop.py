"""`Recording`: hand-written loops get the same book as Lightning, the bundle, and the same W&B keys."""

import os
import subprocess
import sys
import textwrap

import lightning as L
import pytest
import torch
from toys import VOCABULARY, FakeRun, Toy, loader

from prequential import Bundle, CompressionMonitor, Recording
from prequential.errors import MeasureError, PrequentialWarning
from prequential.ledger import read_book


def train(recording, steps_every=1, batch_size=4):
    """The toy's training as a plain loop under a recording."""
    L.seed_everything(0)
    module = Toy()
    optimizer = module.configure_optimizers()
    for number, batch in enumerate(loader(batch_size), start=1):
        with recording.batch(batch) as outputs:
            outputs["loss"] = loss = module.loss(batch)
        (loss / steps_every).backward()
        if number % steps_every == 0:
            optimizer.step()
            optimizer.zero_grad()
            recording.step()
    return module


def test_a_loop_and_lightning_write_the_same_sums(trainer_of):
    """Same data, same seed: every interval has the same columns, and the weights are the same."""
    with Recording("loop", bundle=None, token_bytes=[2] * VOCABULARY) as recording:
        module = train(recording)
    L.seed_everything(0)
    other = Toy()
    trainer_of(CompressionMonitor(bundle=None, token_bytes=[2] * VOCABULARY, ledger="door")).fit(other, loader())
    loop, door = read_book("loop/book.jsonl"), read_book("door/book.jsonl")
    assert [(i.step, i.tally) for i in loop.intervals] == [(i.step, i.tally) for i in door.intervals]
    assert all(torch.equal(*pair) for pair in zip(module.parameters(), other.parameters(), strict=True))
    keys = ("measure", "vocab_size", "bytes_known", "fingerprint_scheme", "token_bytes", "grade")
    assert [loop.header[key] for key in keys] == [door.header[key] for key in keys]
    assert (loop.status, loop.end["complete"]) == ("completed", True)


def test_accumulation_gives_the_same_sums():
    """Two micro-batches a step, or one of twice the size."""
    with Recording("two", bundle=None) as two:
        train(two, steps_every=2, batch_size=4)
    with Recording("one", bundle=None) as one:
        train(one, batch_size=8)
    assert two.run.total.fingerprint == one.run.total.fingerprint
    assert two.run.total.nats == pytest.approx(one.run.total.nats, rel=1e-6)
    assert [i.step for i in two.run.intervals] == [i.step for i in one.run.intervals]


def test_a_later_epoch_is_replay():
    """After `epoch` nothing is data again."""
    with Recording("run", bundle=None) as recording:
        train(recording)
        recording.epoch()
        train(recording)
    total = recording.run.total
    assert total.replayed_tokens == total.coded_tokens == 192
    assert recording.run.single_pass[0] == "no"


def test_sums_may_be_declared():
    """A loop that knows its nats says so."""
    with Recording("run", bundle=None) as recording:
        for _ in range(3):
            with recording.batch(torch.arange(4)) as outputs:
                outputs.update(nats=torch.tensor(2.5), tokens=4)
            recording.step()
    assert (recording.run.total.nats, recording.run.total.coded_tokens) == (7.5, 12)
    assert recording.run.header["measure"] == "outputs"


def test_a_batch_without_a_code_length_is_an_error_before_anything_is_learnt():
    """The block raises, so that the optimiser step after it is not reached."""

    def loop():
        with Recording("run", bundle=None) as recording:
            with recording.batch(torch.arange(4)):
                pass
            raise AssertionError("learnt from it")

    with pytest.raises(MeasureError, match="saw none"):
        loop()
    assert not os.path.exists("run/book.jsonl")


@pytest.mark.parametrize(("error", "status"), [(ValueError, "failed"), (KeyboardInterrupt, "interrupted")])
def test_a_loop_that_breaks_leaves_a_book_that_says_so(error, status):
    """The exception goes on, the book is ended."""

    def loop():
        with Recording("run", bundle=None) as recording:
            train(recording)
            raise error

    with pytest.raises(error):
        loop()
    assert read_book("run/book.jsonl").status == status


def test_a_book_is_never_overwritten():
    """An existing path is refused before training begins."""
    with Recording("run", bundle=None) as recording:
        train(recording)
    with pytest.raises(MeasureError, match="expected a new path for the book"):
        Recording("run")


def test_a_bundle_is_written_beside_the_book_and_failures_only_warn(monkeypatch):
    """As under Lightning."""
    bundle = Bundle({"train.py": b"pass"})
    with Recording("run", bundle=bundle) as recording:
        train(recording)
    assert os.path.getsize("run/bundle.tar.xz") == recording.run.bundle["bundle_bytes"] == bundle.bundle_bytes

    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(Bundle, "write", full)
    with (
        pytest.warns(PrequentialWarning, match="no summary: OSError: no space left"),
        Recording("other", bundle=bundle) as recording,
    ):
        train(recording)


def test_a_wandb_run_gets_rows_a_summary_and_the_artifact():
    """The same keys as under Lightning; the last row equals the book."""
    run = FakeRun()
    with Recording("run", bundle=Bundle({"train.py": b"pass"}), wandb_run=run, every_n_steps=4) as recording:
        train(recording)
    values = recording.run.measured()
    assert [row["prequential/tokens"] for row in run.rows] == [28, 56, 112, 224]
    assert run.rows[-1]["prequential/compressed_bytes"] == values["compressed_bytes"]
    assert run.summary["prequential/compressed_bytes"] == values["compressed_bytes"]
    assert run.summary["prequential/status"] == "completed"
    assert "prequential/compressed_bytes" in run.declared
    assert run.artifacts == [["book.jsonl", "bundle.tar.xz"]]
    assert recording.run.header["wandb"] == {"id": "abc", "project": "toys", "entity": "us"}


def test_keys_that_come_up_later_get_their_x_axis_too():
    """Sums by source have names that only the data tells."""
    run = FakeRun()
    with Recording("run", bundle=None, wandb_run=run, source=lambda batch: ["book", "web"] * 2) as recording:
        train(recording)
    assert any("web" in key for key in run.rows[-1])
    assert set(run.rows[-1]) <= set(run.declared)


def test_a_script_finds_its_own_program_and_loads_no_lightning(tmp_path):
    """A loop in a file of its own: the file and its configuration are the bundle; lightning stays out."""
    (tmp_path / "train.py").write_text(
        textwrap.dedent(
            """
            import sys
            import torch
            from prequential import Recording

            table = torch.zeros(50, 50, requires_grad=True)
            with Recording("run", config={"learning_rate": 0.5}) as recording:
                for batch in torch.arange(320).remainder(50).split(32):
                    with recording.batch(batch):
                        loss = torch.nn.functional.cross_entropy(table[batch[:-1]], batch[1:])
                    loss.backward()
                    recording.step()
            assert sorted(recording.run.bundle["packages"]) == ["prequential", "torch"]
            assert [file["name"] for file in recording.run.bundle["files"]] == ["config.json", "train.py"]
            assert "lightning" not in sys.modules
            """
        )
    )
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, check=True)


def test_a_loop_that_resumes_has_the_book_of_the_unbroken_loop():
    """Its state travels in the loop's own checkpoint; what was recorded behind it is void."""
    from dataclasses import asdict

    batches = list(loader())

    def train(recording, module, first, last):
        optimizer = module.configure_optimizers()
        for batch in batches[first:last]:
            with recording.batch(batch) as outputs:
                outputs["loss"] = loss = module.loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recording.step()

    L.seed_everything(0)
    module = Toy()
    broken = Recording("broken", bundle=None)
    train(broken, module, 0, 5)
    torch.save({"module": module.state_dict(), "recording": broken.state_dict()}, "loop.pt")
    train(broken, module, 5, 7)
    broken.__exit__(KeyError, KeyError("the machine is gone"), None)
    loaded = torch.load("loop.pt", weights_only=True)
    module.load_state_dict(loaded["module"])
    with Recording("broken", bundle=None, state=loaded["recording"]) as recording:
        train(recording, module, 5, 8)
    L.seed_everything(0)
    with Recording("whole", bundle=None) as whole:
        train(whole, Toy(), 0, 8)
    assert asdict(recording.run.total) == asdict(whole.run.total)
    assert [interval.step for interval in recording.run.intervals] == list(range(1, 9))
    assert (recording.run.status, recording.run.warnings, recording.run.events) == ("completed", [], [])
