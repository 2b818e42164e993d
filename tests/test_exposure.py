"""Which rows came before: exact while they fit, an estimate within its error beyond."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prequential.identity import exposure
from prequential.identity.exposure import FirstExposures
from prequential.identity.refeeding import Refeeding


def hashes(values, seed=0):
    """Spread small numbers over 64 bits, as row hashes are."""
    table = np.random.default_rng(seed).integers(0, 2**64, 100_000, dtype=np.uint64)
    return table[np.asarray(values)]


def came_before(seen, values):
    return seen.came_before(values, np.ones(len(values), np.int64))


@given(st.lists(st.lists(st.integers(0, 30), max_size=20), max_size=8))
def test_a_row_came_before_if_an_equal_one_did(parts):
    """The second route: a Python set, whatever the cut into calls."""
    seen, known = FirstExposures(), set()
    for part in parts:
        expected = []
        for value in part:
            expected.append(float(value in known))
            known.add(value)
        assert came_before(seen, hashes(np.array(part, int))).tolist() == expected
    assert seen.sampling is None


def test_rows_are_remembered_across_merges(monkeypatch):
    """The sorted rows and those since the last merge are one memory."""
    monkeypatch.setattr(exposure, "_MERGED", 8)
    seen, values = FirstExposures(), hashes(range(1000))
    for part in np.split(values, 50):
        assert not came_before(seen, part).any()
    assert came_before(seen, np.random.default_rng(1).permutation(values)).all()


def test_all_hashes_can_be_remembered():
    """The smallest and the largest, which stand at the edges of the sample."""
    edges = np.array([0, 2**64 - 1, 2**63], np.uint64)
    seen = FirstExposures()
    assert came_before(seen, edges).tolist() == [0, 0, 0]
    assert came_before(seen, edges).tolist() == [1, 1, 1]


def test_memory_is_bounded_and_the_rest_is_estimated():
    """Half of 40,000 rows come again: with room for 1,000 the share is right within its stated error."""
    seen, values = FirstExposures(capacity=1000), hashes(range(20_000))
    shares = [came_before(seen, part) for part in np.split(np.concatenate([values, values]), 400)]
    assert len(seen._known) <= 1000
    sampling = seen.sampling
    assert sampling.sampled_share == 1 / 32
    assert np.concatenate(shares[:200]).sum() == 0
    found = np.concatenate(shares[200:]).sum()
    assert found == pytest.approx(20_000, abs=4 * sampling.standard_error)
    assert 0 < sampling.standard_error < 0.06 * 20_000
    assert all(part.max() <= 1 for part in shares)


def test_the_error_is_that_of_many_trials():
    """A random third of the rows repeats: over 60 trials the estimates scatter as each one says, around the truth."""
    errors, misses = [], []
    for seed in range(60):
        generator = np.random.default_rng([seed, 1])
        seen = FirstExposures(capacity=2_000)
        old = hashes(range(30_000), seed)
        came_before(seen, old)
        again = generator.random(12_000) < 1 / 3
        fresh = generator.integers(0, 2**64, 12_000, dtype=np.uint64)
        mix = np.where(again, old[:12_000], fresh)
        misses.append(sum(came_before(seen, part).sum() for part in np.split(mix, 6)) - again.sum())
        errors.append(seen.sampling.standard_error)
    assert abs(np.mean(misses)) < 3 * np.mean(errors) / 60**0.5
    assert np.std(misses) == pytest.approx(np.mean(errors), rel=0.3)


@given(st.lists(st.integers(0, 9), max_size=40), st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=6))
def test_of_a_pass_that_begins_again_as_many_rows_come_again_as_came(first, parts):
    """The second route: a count of each value, whatever the cut into calls; rows that are new count from then on."""
    seen = Refeeding()
    for value in first:
        seen.add(hashes([value]))
    known, passes = Counter(first), (parts, parts)
    for again in passes:
        seen.begin_again()
        due = Counter(known)
        for part in again:
            expected = []
            for value in part:
                expected.append(float(due[value] > 0))
                due[value] -= due[value] > 0
                known[value] += not expected[-1]
            assert came_before(seen, hashes(np.array(part, int))).tolist() == expected
    assert seen.sampling is None


@pytest.mark.parametrize("kind", [FirstExposures, Refeeding])
def test_what_is_remembered_goes_through_a_checkpoint(kind, tmp_path):
    """Nothing but tensors and plain numbers, and the rest is told as without it; beyond the capacity too."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    whole, cut = kind(capacity=100), kind(capacity=100)
    first, second = hashes(rng.integers(0, 300, 200)), hashes(rng.integers(0, 300, 200))
    for seen in (whole, cut):
        if kind is Refeeding:
            seen.add(first)
            seen.begin_again()
        else:
            came_before(seen, first)
    came_before(whole, second[:50])
    came_before(cut, second[:50])
    torch.save(cut.state(), tmp_path / "state.pt")
    resumed = kind(capacity=100)
    resumed.load(torch.load(tmp_path / "state.pt", weights_only=True))
    assert came_before(resumed, second[50:]).tolist() == came_before(whole, second[50:]).tolist()
    assert resumed.sampling == whole.sampling
    assert resumed.sampling is not None


def test_a_pass_beyond_the_capacity_is_estimated():
    """Half of the rows come again: the estimate is within four of its standard errors, and honest about them."""
    seen, values = Refeeding(capacity=1000), hashes(range(20_000))
    seen.add(values[:10_000])
    assert seen.sampling is None
    seen.begin_again()
    shares = came_before(seen, values[5_000:15_000])
    found = seen.sampling
    assert shares.sum() == pytest.approx(5_000, abs=4 * found.standard_error)
    assert 0 < found.standard_error < 500
    seen.end_pass()
    assert seen.sampling is None
