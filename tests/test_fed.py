"""Micro-batches that are looked at together: what each showed is what it shows alone."""

import dataclasses
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from prequential.capture import LossTap
from prequential.columns import fed
from prequential.columns.replay import RowPlan
from prequential.columns.watch import BatchWatch
from prequential.meter import Meter

VOCABULARY = 50


def batches(seed):
    """Pairs of inputs and targets: of changing sizes, padded at the end, some rows with a masked prompt."""
    choose, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    for _ in range(30):
        rows, length = choose.choice([(4, 40), (4, 40), (4, 40), (2, 40), (4, 30)])
        tokens = torch.randint(1, VOCABULARY, (rows, length + 1), generator=generator)
        targets = tokens[:, 1:].clone()
        if choose.random() < 0.5:
            tokens[0, -choose.randrange(1, 9) :] = 0
            targets = torch.where(tokens[:, 1:] == 0, -100, tokens[:, 1:])
        if choose.random() < 0.3:
            targets[1, :3] = -100
        yield [tokens[:, :-1].clone(), targets]


def watched(seed, *, replay, together, monkeypatch):
    """What the micro-batches showed, and their columns, interval by interval."""
    monkeypatch.setattr(fed, "_STACKED", 256 if together else 1)
    meter, watch, shown, columns = Meter(token_bytes=list(range(VOCABULARY))), None, [], []
    meter.pieces, meter.by_target = [], replay
    generator = torch.Generator().manual_seed(seed)
    for number, batch in enumerate(batches(seed)):
        inputs, targets = batch
        logits = torch.randn(*inputs.shape, VOCABULARY, generator=generator)
        meter.keeps_calls = together and number > 0
        with LossTap(meter):
            F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        pieces, meter.pieces = meter.pieces, []
        watch = watch or BatchWatch(
            batch,
            targets.numel(),
            pieces,
            vocab_size=VOCABULARY,
            table=np.arange(VOCABULARY),
            meter=meter,
            plan=RowPlan(replay_by_rows=replay),
        )
        watch.observe(batch, pieces)
        if together:  # a script may write into its batch once the step is over
            inputs.zero_()
            targets.zero_()
        if number % 7 == 6:  # a log point
            seen = watch.read()
            assert watch.take() == len(seen)
            shown += seen
            columns.append(watch.in_columns(meter.read(), seen, replay=False))
            meter.take()
    return shown, columns


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_what_each_showed_is_what_it_shows_alone(seed, replay, monkeypatch):
    """First tokens, padding, rows, passages, and every column."""
    together, columns = watched(seed, replay=replay, together=True, monkeypatch=monkeypatch)
    alone, expected = watched(seed, replay=replay, together=False, monkeypatch=monkeypatch)
    assert len(together) == len(alone) == 28
    for one, other in zip(together, alone, strict=True):
        assert (one.first_tokens, one.padding) == (other.first_tokens, other.padding)
        assert one.rows.hashes.tolist() == other.rows.hashes.tolist()
        assert (one.rows.sums is None) is not replay
        if replay:
            assert one.rows.sums.tolist() == other.rows.sums.tolist()
    assert sum(seen.padding for seen in alone) > 0
    for one, other in zip(columns, expected, strict=True):
        assert dataclasses.astuple(one.tally) == pytest.approx(dataclasses.astuple(other.tally), rel=1e-12)


def test_large_micro_batches_are_not_copied():
    """They are looked at where they lie, at once; small ones wait, as many as there is room for."""
    looked = []
    queue = fed.Queue(lambda some, count: looked.append((count, some.tensors[0])))
    large = torch.zeros(fed._COPIED + 1)
    queue.add(fed.Fed([large], None, None, None, None, None))
    assert looked[0][1].data_ptr() == large.data_ptr()
    small = torch.zeros(fed._COPIED)
    for _ in range(fed._WAITING // fed._COPIED + 1):
        queue.add(fed.Fed([small], None, None, None, None, None))
    assert [count for count, _ in looked] == [1, fed._WAITING // fed._COPIED]
    queue.flush()
    assert len(looked) == 3
