"""Exact coverage, against counting token by token."""

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset
from toys import VOCABULARY, Toy

from prequential import CompressionMonitor
from prequential.identity.coverage import Coverage
from prequential.ledger import read_book

calls = st.lists(st.tuples(st.lists(st.integers(0, 40), max_size=6), st.integers(1, 12)), max_size=6)


@given(calls)
def test_each_token_is_counted_as_often_as_it_was_coded(rows):
    """The second route: an array with a counter for each token of the corpus."""
    coverage, times = Coverage(corpus_tokens=60), np.zeros(60, int)
    for starts, length in rows:
        coverage.add(np.array(starts, np.int64), length)
        for start in starts:
            times[start : start + length] += 1
    found = coverage.covered()
    if times.sum() == 0:
        assert found is None
        return
    assert found[:3] == ((times == 1).sum(), (times > 1).sum(), (times == 0).sum())
    assert found.share == pytest.approx((times - 1).clip(0).sum() / times.sum())


def test_a_pass_in_order_takes_no_room():
    """A million rows of 1,000 tokens are two places."""
    coverage = Coverage()
    for start in range(0, 10**6, 10**5):
        coverage.add(np.arange(start, start + 10**5) * 1000, 1000)
    assert coverage._places.tolist() == [0, 10**9]
    assert coverage.covered() == (10**9, 0, None, 0.0)


class Positioned(Toy):
    def loss(self, batch):
        return super().loss(batch[:2])


def run_over(trainer_of, starts, length=6, **options):
    corpus = torch.randint(VOCABULARY, (200,), generator=torch.Generator().manual_seed(1))
    rows = torch.stack([corpus[start : start + length + 1] for start in starts])
    data = DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:], torch.tensor(starts)), batch_size=4)
    L.seed_everything(0)
    monitor = CompressionMonitor(bundle=None, ledger="book.jsonl", positions=2, **options)
    trainer_of(monitor).fit(Positioned(), data)
    return read_book("book.jsonl")


def test_crops_that_overlap_are_counted_exactly(trainer_of):
    """Rows far too short for the sampled audit: with their positions the verdict is exact."""
    run = run_over(trainer_of, [0, 3, 20, 60, 61, 120], corpus_tokens=200)
    times = np.zeros(200, int)
    for start in [0, 3, 20, 60, 61, 120]:
        times[start : start + 6] += 1
    found = run.end["coverage"]
    assert [found[key] for key in ("once", "repeated", "never")] == [(times == n).sum() for n in (1, 2, 0)]
    answer, (reason,) = run.single_pass
    assert answer == "no"
    assert reason.startswith(f"{100 * 8 / 36:.1f} % of the tokens had been coded before")


def test_rows_side_by_side_are_a_single_pass(trainer_of):
    """Also where they are too short to tell by themselves."""
    run = run_over(trainer_of, list(range(0, 192, 6)))
    assert run.single_pass == ("yes", [])
    assert run.end["coverage"]["never"] is None


def test_positions_need_rows(trainer_of):
    """A batch that does not show its rows cannot be covered: said, and the training goes on."""

    class Made(Toy):
        def loss(self, batch):
            return super().loss([batch[0], batch[0].roll(1, 1)])

    data = DataLoader(TensorDataset(torch.arange(12).view(2, 6), torch.zeros(2, 6).long(), torch.arange(2)))
    trainer_of(CompressionMonitor(bundle=None, ledger="book.jsonl", positions=2)).fit(Made(), data)
    assert "no_rows" in [event["event"] for event in read_book("book.jsonl").events]
