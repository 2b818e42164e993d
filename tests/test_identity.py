"""The audit of repeated passages: what it samples, what it estimates, and how far off it is."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prequential.identity import passages
from prequential.identity.passages import PassageAudit, Repeats, passage_tokens

VOCABULARY = 1000


def tokens(count, seed=0, vocabulary=VOCABULARY):
    """Random tokens."""
    return torch.randint(vocabulary, (count,), generator=torch.Generator().manual_seed(seed))


def audited(batches, length=16):
    """The share of repeated passages over batches of rows."""
    audit = PassageAudit(length)
    for batch in batches:
        audit.count(audit.sample(batch).tolist())
    return audit.repeats()


def test_a_passage_is_worth_2048_bits():
    """256 bytes, or 132 tokens of GPT-2's vocabulary."""
    assert (passage_tokens(256), passage_tokens(50_257), passage_tokens(2)) == (256, 132, 2048)


def test_a_hash_is_that_of_the_polynomial_whatever_stands_before():
    """The second route: Horner's scheme in exact integers, then splitmix64's finaliser."""
    row = tokens(40)
    found = passages._passage_hashes(row[None], 16)
    for start in range(25):
        value = 0
        for token in reversed(row[start : start + 16].tolist()):
            value = (value * 0x9E3779B97F4A7C15 + token + 1) % 2**64
        for shift, mixer in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            value = (value ^ (value >> shift)) * mixer % 2**64
        value ^= value >> 31
        assert int(found[start]) % 2**64 == value


def test_the_sample_is_fair_and_complete():
    """About one passage in 64, and every passage whose hash is under the limit: the room for samples is enough."""
    rows = tokens(64 * 2000).view(64, 2000)
    audit = PassageAudit(16)
    sample = {h for h in audit.sample(rows).tolist() if h + 2**63 < 2**64 // 64}
    every = {h for h in passages._passage_hashes(rows, 16).tolist() if h + 2**63 < 2**64 // 64}
    assert sample == every
    assert len(every) == pytest.approx(64 * 1985 / 64, rel=0.1)


def test_new_data_has_no_repeats_and_says_how_sure_that_is():
    """Nothing repeated in about 1,950 samples: the error is that of the rule of three."""
    found = audited(tokens(128_000).view(64, 2, 1000))
    assert found.share == 0
    assert found.standard_error == 1.5 / found.samples
    assert found.samples > 1500


def test_a_second_time_over_is_half_repeated():
    """The same rows again, in another order and cut into other batches."""
    rows = tokens(64_000).view(64, 1000)
    again = rows[torch.randperm(64, generator=torch.Generator().manual_seed(1))]
    assert audited([*rows.split(2), *again.split(4)]).share == 0.5


@pytest.mark.parametrize("crops", [50, 200])
def test_random_crops_are_estimated_within_their_error(crops):
    """Overlapping windows of one corpus, against exact coverage counted passage by passage."""
    corpus, length, window = tokens(40_000, seed=2), 16, 400
    generator = random.Random(crops)
    starts = [generator.randrange(len(corpus) - window) for _ in range(crops)]
    seen, repeated = set(), 0
    for start in starts:
        passages = set(range(start, start + window - length + 1))
        repeated += len(passages & seen)
        seen |= passages
    exact = repeated / (crops * (window - length + 1))
    found = audited([corpus[start : start + window][None] for start in starts])
    assert found.share == pytest.approx(exact, abs=4 * found.standard_error)
    assert 0 < found.standard_error < 0.06


def test_the_error_is_that_of_many_trials():
    """Over 60 corpora in which a fifth of the passages are repeats, the spread is what a single run says."""
    shares, errors = [], []
    for seed in range(60):
        rows = tokens(20_000, seed).view(40, 500)
        found = audited([rows, rows[:10]])
        shares.append(found.share)
        errors.append(found.standard_error)
    mean_error = sum(errors) / 60
    assert sum(shares) / 60 == pytest.approx(0.2, abs=3 * mean_error / 60**0.5)
    assert torch.tensor(shares).std().item() == pytest.approx(mean_error, rel=0.25)


def test_padding_is_no_repeated_passage():
    """What is mostly one token is passed over; what is left counts."""
    rows = torch.zeros(50, 400, dtype=torch.int64)
    assert audited([rows]) is None
    rows[:, :200] = tokens(10_000).view(50, 200)
    assert audited(rows.split(5)).share == 0


def test_a_full_memory_halves_the_sample_and_stays_fair(monkeypatch):
    """With room for 200 passages the share is still found."""
    monkeypatch.setattr(passages, "_KEPT", 200)
    audit = PassageAudit(16)
    rows = tokens(128_000).view(128, 1000)
    for batch in [*rows.split(2), *rows.split(2)]:
        audit.count(audit.sample(batch).tolist())
    assert 50 < len(audit._times) <= 200
    assert audit.repeats().share == 0.5


@given(st.integers(16, 80), st.integers(1, 4), st.integers(0, 2**31))
def test_a_passage_hashes_the_same_wherever_it_stands(length, rows, seed):
    """Moved to another place in another row, its hash is the same."""
    passage = tokens(length, seed)
    around = tokens(rows * 200, seed + 1).view(rows, 200).clone()
    around[rows - 1, 50 : 50 + length] = passage
    alone = passages._passage_hashes(passage[None], length)[0]
    assert alone in passages._passage_hashes(around, length)


def test_sampling_does_not_wait_for_the_device(monkeypatch):
    """Nothing is brought to the host."""
    audit, rows = PassageAudit(16), tokens(1000).view(2, 500)

    def refused(*args, **kwargs):
        raise AssertionError("waits for the device")

    for name in ("item", "tolist", "cpu", "__bool__", "__int__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, refused)
    audit.sample(rows)


def test_nothing_seen_is_no_estimate():
    """Without a sample there is no share."""
    assert PassageAudit(16).repeats() is None
    assert Repeats(0.5, 0.1, 10).share == 0.5


@pytest.mark.parametrize("length", [40, 64])
def test_the_share_that_a_cut_cannot_hide_is_stated(length):
    """The same text again, cut anywhere else: at least ``detected`` of its repeated passages are found."""
    text = tokens(400 * length)
    for shift in (1, length // 4, length // 2):
        found = audited([text.view(-1, length), text.roll(shift).view(-1, length)])
        assert found.detected == (length - 30) / (length - 15)
        assert found.share / 0.5 > found.detected - 4 * found.standard_error
    assert found.share / 0.5 == pytest.approx(found.detected, abs=4 * found.standard_error)
