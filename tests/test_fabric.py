"""`recording`: a loop on Fabric writes the book of a plain loop, with device, loggers and facts from Fabric."""

import csv

import lightning as L
import pytest
import torch
from lightning.fabric.loggers import CSVLogger
from lightning.pytorch.loggers import WandbLogger
from toys import VOCABULARY, FakeRun, Toy, loader

from prequential import Bundle, CompressionMonitor, Recording
from prequential.errors import MeasureError, PrequentialWarning
from prequential.integrations.fabric import recording
from prequential.ledger import read_book


def fabric_with(**options):
    return L.Fabric(accelerator="cpu", devices=1, **options)


def train(fabric, run):
    """The toy's training as a loop on Fabric."""
    L.seed_everything(0)
    toy = Toy()
    module, optimizer = fabric.setup(toy, toy.configure_optimizers())
    for inputs, targets in fabric.setup_dataloaders(loader()):
        with run.batch((inputs, targets)) as outputs:
            logits = module(inputs)
            outputs["loss"] = loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        run.step()
    return toy


def test_fabric_lightning_and_a_plain_loop_write_the_same_sums(trainer_of):
    """Same data, same seed: every interval has the same columns, and the weights are the same."""
    options = {"bundle": None, "token_bytes": [2] * VOCABULARY}
    fabric = fabric_with()
    fabric.seed_everything(0)
    with recording(fabric, "fabric", **options) as run:
        weights = train(fabric, run).state_dict()
    with Recording("plain", **options) as plain:
        train(fabric_with(), plain)
    L.seed_everything(0)
    other = Toy()
    trainer_of(CompressionMonitor(ledger="door", **options)).fit(other, loader())
    books = [read_book(f"{name}/book.jsonl") for name in ("fabric", "plain", "door")]
    sums = [[(i.step, i.tally) for i in book.intervals] for book in books]
    assert sums[0] == sums[1] == sums[2]
    assert all(torch.equal(weights[name], value) for name, value in other.state_dict().items())
    keys = ("measure", "vocab_size", "fingerprint_scheme", "grade", "precision", "world_size", "seed")
    assert [books[0].header[key] for key in keys] == [books[2].header[key] for key in keys]
    assert (books[0].status, books[0].end["complete"]) == ("completed", True)


def test_bfloat16_is_measured_and_named():
    """Under autocast the nats are those of the rounded logits."""
    books = []
    for precision in ("32-true", "bf16-mixed"):
        fabric = fabric_with(precision=precision)
        with recording(fabric, precision, bundle=None) as run:
            train(fabric, run)
        books.append(run.run)
    assert books[1].header["precision"] == "bf16-mixed"
    assert books[1].total.coded_tokens == books[0].total.coded_tokens == 192
    assert books[1].total.nats != books[0].total.nats
    assert books[1].total.nats == pytest.approx(books[0].total.nats, rel=1e-2)


def test_every_logger_gets_rows():
    """At log points, with the keys of the other doors; one that fails is left alone, the others go on."""

    class Broken(CSVLogger):
        def log_metrics(self, metrics, step=None):
            raise OSError("disk full")

    fabric = fabric_with(loggers=[Broken("broken"), CSVLogger("logs", name="", version="")])
    with (
        pytest.warns(PrequentialWarning, match="Broken failed and gets no more values: OSError: disk full") as warned,
        recording(fabric, "run", bundle=None, every_n_steps=4) as run,
    ):
        train(fabric, run)
    assert sum("disk full" in str(warning.message) for warning in warned) == 1
    fabric.loggers[1].save()
    with open("logs/metrics.csv") as file:
        table = list(csv.DictReader(file))
    assert [(row["step"], row["prequential/tokens"]) for row in table] == [
        ("0", "28"),
        ("1", "56"),
        ("3", "112"),
        ("7", "224"),
    ]
    assert float(table[-1]["prequential/compressed_bytes"]) == run.run.measured()["compressed_bytes"]


class Follower(WandbLogger):
    """A logger of a run that reaches nobody."""

    def __init__(self):
        self.follower = FakeRun()

    @property
    def experiment(self):
        return self.follower

    def log_metrics(self, metrics, step=None):
        raise AssertionError("rows go to the run itself")


def test_a_wandb_logger_gets_rows_a_summary_and_the_artifact():
    """As under Lightning."""
    logger = Follower()
    fabric = fabric_with(loggers=[logger])
    with recording(fabric, "run", bundle=Bundle({"train.py": b"pass"})) as run:
        train(fabric, run)
    follower = logger.experiment
    assert "prequential/compressed_bytes" in follower.declared
    assert follower.rows[-1]["prequential/tokens"] == 224
    assert follower.summary["prequential/compressed_bytes"] == run.run.measured()["compressed_bytes"]
    assert follower.artifacts == [["book.jsonl", "bundle.tar.xz"]]
    assert run.run.header["wandb"]["id"] == "abc"


def test_processes_that_were_not_launched_are_refused():
    """In one line, before a book is opened; those that were are in `test_ranks`."""
    with pytest.raises(MeasureError, match=r"expected a process group .* for 2 processes, got none"):
        recording(L.Fabric(accelerator="cpu", devices=2), "run")
