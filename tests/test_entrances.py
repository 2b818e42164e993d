"""Losses seen where they enter torch's C library: the calls that the function mode sees, and nothing left behind."""

import threading

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from toys import Toy

from prequential import CompressionMonitor
from prequential.capture import LossTap, entrances
from prequential.ledger import read_book
from prequential.meter import Meter

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
Y = torch.tensor([0, 1, 2, 3, 4, -100])
BITS = torch.tensor([0.0, 1, 1, 0, 1]).expand(6, 5)
PLACES = [(module, name) for module, name, *_ in entrances._LOSSES] + [entrances._GRADIENTS]

LOSSES = {
    "cross_entropy": lambda: F.cross_entropy(X, Y),
    "sum": lambda: F.cross_entropy(X, Y, reduction="sum"),
    "module, smoothed and weighted": lambda: nn.CrossEntropyLoss(torch.arange(1.0, 6), label_smoothing=0.1)(X, Y),
    "unreduced": lambda: F.cross_entropy(X, Y, reduction="none"),
    "old arguments": lambda: F.cross_entropy(X, Y, size_average=False),
    "another index": lambda: F.cross_entropy(X, Y.clamp(min=0), ignore_index=0),
    "nll_loss": lambda: F.nll_loss(X.log_softmax(1), Y),
    "bits with logits": lambda: F.binary_cross_entropy_with_logits(X, BITS, pos_weight=torch.ones(5)),
    "bits": lambda: F.binary_cross_entropy(X.sigmoid(), BITS, reduction="sum"),
    "probabilities": lambda: F.cross_entropy(X, X.softmax(1)),
    "unnormalised": lambda: F.nll_loss(X, Y),
}


def read(step, *, by_entrances):
    meter = Meter()
    tap = LossTap(meter)
    tap.listing, tap.entrances_suffice = False, by_entrances
    with tap:
        step()
    return meter.read(), meter.peek().counts.tolist()


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.filterwarnings("ignore:size_average")
def test_both_ways_of_seeing_see_the_same(loss):
    """Every count, what is no code length, and nats but for the rounding of a float32 that one of them scores again."""
    (tally, counts), (expected, expected_counts) = (read(loss, by_entrances=way) for way in (True, False))
    assert counts == expected_counts
    assert tally.nats == pytest.approx(expected.nats, rel=1e-7, nan_ok=True)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("gradients", ["method", "backward", "grad"])
def test_what_a_backward_pass_computes_again_is_not_counted_twice(reentrant, gradients):
    """Whichever function asks for the gradients; a loss after it is counted again."""

    def step():
        loss = checkpoint(lambda x: F.cross_entropy(x * 2, Y), X, use_reentrant=reentrant)
        if gradients == "method":
            loss.backward()
        elif gradients == "backward" or reentrant:  # which grad cannot do
            torch.autograd.backward(loss)
        else:
            torch.autograd.grad(loss, X)
        F.cross_entropy(X, Y)

    tally, _ = read(step, by_entrances=True)
    assert tally.coded_tokens == 10
    assert read(step, by_entrances=False)[0] == tally


def test_the_functions_are_left_as_they_were():
    """Also where the step fails, and where two threads watch in turn; each sees its own calls only."""
    before = [getattr(*place) for place in PLACES]
    with pytest.raises(RuntimeError, match="of the step"):
        read(_fail, by_entrances=True)
    assert [getattr(*place) for place in PLACES] == before
    begun, over, found = threading.Event(), threading.Event(), {}

    def outer():
        def step():
            F.cross_entropy(X, Y)
            begun.set()
            over.wait(20)
            F.cross_entropy(X, Y)

        found["outer"] = read(step, by_entrances=True)[0].coded_tokens

    thread = threading.Thread(target=outer, daemon=True)
    thread.start()
    begun.wait()
    found["inner"] = read(LOSSES["sum"], by_entrances=True)[0].coded_tokens
    F.cross_entropy(X, Y)
    assert [getattr(*place) for place in PLACES] != before
    over.set()
    thread.join()
    assert found == {"outer": 10, "inner": 5}
    assert [getattr(*place) for place in PLACES] == before


def _fail():
    raise RuntimeError("of the step")


def fitted(trainer_of, module):
    data = torch.randint(11, (32, 8), generator=torch.Generator().manual_seed(1))
    monitor = CompressionMonitor(bundle=None, ledger="book.jsonl")
    taps = []

    class Looks(L.Callback):
        def on_train_batch_end(self, *args):
            taps.append(monitor.recorder._tap.entrances_suffice and not monitor.recorder._tap._entrances.compiled)

    trainer_of(monitor, Looks()).fit(module, DataLoader(data, batch_size=4))
    return read_book("book.jsonl"), taps


class Shifted(Toy):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


class CompiledLater(Shifted):
    """Compiles its loss in the fifth batch."""

    def training_step(self, batch, batch_idx):
        loss = torch.compile(super().training_step, backend="aot_eager") if batch_idx > 4 else super().training_step
        return loss(batch, batch_idx)


def test_a_plain_script_is_watched_at_the_entrances(trainer_of):
    """From the second micro-batch on; every token of it is counted."""
    run, taps = fitted(trainer_of, Shifted())
    if not entrances._compiled():  # another test of this process may have compiled something
        assert all(taps)
    assert run.total.coded_tokens == 32 * 7
    assert not run.events


def test_a_script_that_compiles_later_is_watched_by_the_mode_then(trainer_of, monkeypatch):
    """The first compiled step is missed, and the book says so; those after it are seen."""
    monkeypatch.setattr(entrances, "_compiled", lambda: False)
    run, taps = fitted(trainer_of, CompiledLater())
    assert taps == [True] * 5 + [False] * 3
    assert run.total.coded_tokens == 7 * 4 * 7
    assert "uncovered" in [event["event"] for event in run.events]
