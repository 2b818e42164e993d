"""A run that is killed and resumed goes on in its bitstream, which decodes as if nothing had happened."""

import functools
import json

import pytest
import streams
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from streams import Bytes, decoded, train

from prequential import CompressionMonitor, load_run

TEXT = b"Neither a borrower nor a lender be, for loan oft loses both itself and friend. " * 5
FEED = functools.partial(streams.streams, length=8, count=4)
STOP = 7


class KilledError(Exception):
    """What stands for a kill: no hook of the monitor is called for it."""


class Kill(Callback):
    """Ends the training after some steps."""

    def on_train_batch_end(self, trainer, *ignored):
        if trainer.global_step == STOP:
            raise KilledError


def begun(folder, monkeypatch):
    """A run that is killed one step after its last checkpoint; the checkpoint."""
    monitor = CompressionMonitor(token_bytes="bytes", ledger=folder / "run", bundle=None, bitstream=True)
    monkeypatch.setattr(CompressionMonitor, "on_exception", lambda *ignored: None)
    saving = ModelCheckpoint(folder, filename="last", every_n_train_steps=3)
    with pytest.raises(KilledError):
        train(monitor, TEXT, feed=resumable, callbacks=[saving, Kill()], enable_checkpointing=True)
    monkeypatch.undo()
    return folder / "last.ckpt"


def resumable(ids):
    """Goes on in the middle of an epoch, where it was left."""
    return Resumable(FEED(ids))


class Resumable:
    """The batches of a loader, with a state."""

    def __init__(self, loader):
        self.loader, self.at = loader, 0

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for number, batch in enumerate(self.loader):
            if number >= self.at:
                self.at = number + 1
                yield batch
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in place", "in another folder"])
def test_killed_and_resumed(elsewhere, tmp_path, monkeypatch):
    """The stream is cut back to the checkpoint, or copied to where the book goes on."""
    checkpoint = begun(tmp_path, monkeypatch)
    folder = tmp_path / ("other" if elsewhere else "run")
    monitor = CompressionMonitor(token_bytes="bytes", ledger=folder, bundle=None, bitstream=True)
    train(monitor, TEXT, feed=resumable, ckpt_path=checkpoint)
    assert load_run(folder).grade == "coded"
    found, told = decoded(folder, monkeypatch, feed=resumable)
    assert found == TEXT, told


def test_what_was_sealed_decodes(tmp_path, monkeypatch):
    """Of a killed run, up to its last checkpoint: six batches of four streams, the first of them written."""
    begun(tmp_path, monkeypatch)
    found, told = decoded(tmp_path / "run", monkeypatch, feed=resumable, unended=True)
    assert (found, told["done"]["tokens"]) == (TEXT[:48], 6 * 8 * 4)
    assert not told["done"]["whole"]


def test_a_stream_that_is_gone_stops_no_training(tmp_path, monkeypatch):
    """The book goes on; the stream cannot."""
    checkpoint = begun(tmp_path, monkeypatch)
    (tmp_path / "run" / "data.bits").unlink()
    monitor = CompressionMonitor(token_bytes="bytes", ledger=tmp_path / "run", bundle=None, bitstream=True)
    train(monitor, TEXT, feed=resumable, ckpt_path=checkpoint)
    run = load_run(tmp_path / "run")
    assert (run.status, run.grade) == ("completed", "ideal")
    assert "data.bits" in run.bitstream["failure"]


def test_the_state_is_plain(tmp_path, monkeypatch):
    """A checkpoint loads with weights only, and its state of the stream is small."""
    state = torch.load(begun(tmp_path, monkeypatch), weights_only=True)["callbacks"]["CompressionMonitor"]["bitstream"]
    known = state.pop("known")
    assert (known.dtype, len(known)) == (torch.uint8, -(-len(TEXT) // 8))
    assert len(json.dumps(state)) < 1000


def test_bytes_are_a_model(tmp_path):
    """The test's model is causal; else nothing above means anything."""
    model, ids = Bytes(), torch.randint(256, (1, 8), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, 5] += 1
    assert torch.equal(model(ids)[:, :5], model(changed)[:, :5])
