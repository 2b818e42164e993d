"""Loaders that feed every row once, and those that may feed one again."""

import math

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler
from toys import VOCABULARY, Toy, rows

from prequential import CompressionMonitor
from prequential.integrations.feeding import loader_draws_once
from prequential.ledger import read_book

DATA = TensorDataset(torch.arange(10))
OTHER = TensorDataset(torch.arange(5))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(10))


ONCE = {
    "in order": DataLoader(DATA, batch_size=3),
    "shuffled": DataLoader(DATA, batch_size=3, shuffle=True, drop_last=True),
    "one by one": DataLoader(DATA, batch_size=None),
    "a random part": DataLoader(DATA, sampler=RandomSampler(DATA, num_samples=4)),
    "two data sets": DataLoader(ConcatDataset([DATA, OTHER])),
    "a part": DataLoader(Subset(DATA, [3, 1, 2])),
}
MAYBE_AGAIN = {
    "with replacement": DataLoader(DATA, sampler=RandomSampler(DATA, replacement=True)),
    "more than there are": DataLoader(DATA, sampler=RandomSampler(DATA, num_samples=11)),
    "weighted": DataLoader(DATA, sampler=WeightedRandomSampler([1.0] * 10, 10)),
    "padded": DataLoader(DATA, sampler=DistributedSampler(DATA, num_replicas=4, rank=0)),
    "own batches": DataLoader(DATA, batch_sampler=[[0, 1], [0, 2]]),
    "own sampler of batches": DataLoader(DATA, batch_sampler=BatchSampler([0, 0], 2, drop_last=False)),
    "a stream": DataLoader(Stream()),
    "listed twice": DataLoader(ConcatDataset([DATA, OTHER, DATA])),
    "an index twice": DataLoader(Subset(DATA, [3, 1, 3])),
    "a part of what is listed twice": DataLoader(Subset(ConcatDataset([DATA, DATA]), [0, 1])),
}


@pytest.mark.parametrize("name", ONCE)
def test_a_loader_that_draws_each_row_once_is_known(name):
    assert loader_draws_once(ONCE[name])


@pytest.mark.parametrize("name", MAYBE_AGAIN)
def test_a_loader_that_may_feed_a_row_again_is_known(name):
    assert not loader_draws_once(MAYBE_AGAIN[name])


def test_epochs_cut_short_show_other_rows_each_time():
    """Shuffled, but not in order."""
    assert not loader_draws_once(ONCE["shuffled"], whole=False)
    assert loader_draws_once(ONCE["in order"], whole=False)


def fed(trainer_of, monitor=None, **options):
    """A run over 30 rows in batches of 4, of which two are left over."""
    tokens = rows(30)
    data = DataLoader(TensorDataset(tokens[:, :-1], tokens[:, 1:]), batch_size=4, drop_last=True, shuffle=True)
    monitor = monitor or CompressionMonitor(bundle=None, ledger="book.jsonl")
    trainer_of(monitor, **options).fit(Toy(), data)
    return read_book("book.jsonl")


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_dropped_remainder_is_charged_by_the_uniform_code_once(trainer_of, epochs):
    """Two rows of seven tokens are in the data and never fed: log2 20 bits a token, beside the first tokens."""
    run = fed(trainer_of, max_epochs=epochs)
    assert run.total.uncoded_tokens == 28 + 2 * 7
    assert run.total.uncoded_nats == pytest.approx((28 + 14) * math.log(VOCABULARY))
    assert run.total.tokens == 30 * 7
    (message,) = [event["message"] for event in run.events if event["event"] == "dropped"]
    assert message == "2 rows (14 tokens) were never fed: charged by the uniform code"


def test_a_dropped_remainder_of_rows_of_many_lengths_is_said_and_not_charged(trainer_of):
    """How many tokens it has is not known: it is no part of what is described."""

    class Masked(Toy):
        def loss(self, batch):
            return super().loss([batch[0], batch[1].masked_fill(batch[1] == 3, -100)])

    tokens = rows(30)
    data = DataLoader(TensorDataset(tokens[:, :-1], tokens[:, 1:]), batch_size=4, drop_last=True)
    trainer_of(CompressionMonitor(bundle=None, ledger="book.jsonl")).fit(Masked(), data)
    run = read_book("book.jsonl")
    assert run.total.uncoded_tokens == 28
    assert "no part of what is described" in run.events[-1]["message"]


@pytest.mark.parametrize("options", [{"limit_train_batches": 3}, {"max_steps": 3, "max_epochs": -1}])
def test_what_a_run_did_not_get_to_is_no_remainder(trainer_of, options):
    """A run that was told to stop describes what it was fed."""
    run = fed(trainer_of, **options)
    assert run.total.uncoded_tokens == 12
    assert run.total.tokens == 12 * 7
