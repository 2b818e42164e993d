"""First tokens of rows: found in each layout, charged once, and not where a stream goes on or a prompt is masked."""

import math

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset
from toys import VOCABULARY, Toy, rows

from prequential import CompressionMonitor
from prequential.columns.uncoded import FirstTokens, Layout, find_layout
from prequential.ledger import read_book

TOKENS = rows(count=12, length=9)  # shape (12, 10)


# -- layouts ----------------------------------------------------------------------------------------------------


def test_inputs_and_targets_moved_on_by_one_are_a_pair():
    """In either order, with masks beside them."""
    inputs, targets = TOKENS[:, :-1], TOKENS[:, 1:]
    seen = targets.flatten()
    assert find_layout([inputs, targets], seen.numel(), seen) == Layout(0, 1, False)
    assert find_layout([targets, inputs], seen.numel(), seen) == Layout(1, 0, False)
    assert find_layout([inputs, targets], seen.numel(), None) == Layout(0, 1, False)


@pytest.mark.parametrize("ignored", [-100, 0])
def test_pairs_may_have_been_padded_after_they_were_shifted(ignored):
    """Inputs `a b c pad`, targets `b c d pad`: they differ by one where the padding begins."""
    inputs, targets = TOKENS[:, :-1].clone(), TOKENS[:, 1:].clone()
    for row, length in enumerate([9, 3, 5, 9, 2, 4, 6, 7, 8, 5, 3, 4]):
        inputs[row, length:], targets[row, length:] = 0, ignored
    assert find_layout([inputs, targets], targets.numel(), targets.flatten()) == Layout(0, 1, False)


def test_a_shift_inside_is_found_with_and_without_an_empty_slot():
    """Sliced by one, or padded with an ignored target at the end as Hugging Face models do."""
    mask = torch.ones_like(TOKENS)
    sliced = TOKENS[:, 1:].flatten()
    padded = F.pad(TOKENS[:, 1:], (0, 1), value=-100).flatten()
    assert find_layout([TOKENS, mask], sliced.numel(), sliced) == Layout(0, 0, False)
    assert find_layout([mask, TOKENS], padded.numel(), padded) == Layout(1, 1, True)
    labels = TOKENS.clone()
    labels[:, :4] = -100
    masked = F.pad(labels[:, 1:], (0, 1), value=-100).flatten()
    assert find_layout([TOKENS, labels], masked.numel(), masked) == Layout(0, 0, True)


def test_a_stream_of_single_tokens_is_one_row():
    """Inputs and targets of shape (N,), moved on by one."""
    stream = TOKENS.flatten()
    assert find_layout([stream[:-1], stream[1:]], len(stream) - 1, stream[1:]) == Layout(0, 1, False)


@pytest.mark.parametrize(
    "tensors",
    [
        [torch.arange(12) % 3],  # class labels
        [TOKENS[:, :-1], TOKENS[:, 1:].flip(0)],  # targets of other rows
        [TOKENS, TOKENS],  # an autoencoder: every token is a target
        [torch.arange(12), torch.arange(12).flip(0)],
        [],
    ],
)
def test_where_every_token_is_a_target_there_is_no_layout(tensors):
    """Nothing is charged that the batch does not show."""
    seen = tensors[-1].flatten() if tensors else torch.zeros(5, dtype=torch.int64)
    assert find_layout(tensors, seen.numel(), seen) is None


def test_targets_that_go_beyond_the_batch_are_no_empty_slots():
    """Where the last target of a row is a token that the batch does not show, nothing is known of its layout."""
    assert find_layout([TOKENS[:, :-1]], TOKENS[:, 1:].numel(), TOKENS[:, 1:].flatten()) is None


def test_one_row_of_tokens_may_be_shifted_inside():
    """A batch of shape (N,)."""
    stream = TOKENS.flatten()
    assert find_layout([stream], len(stream) - 1, stream[1:]) == Layout(0, 0, False)
    assert find_layout([torch.zeros(1).long()], 0, torch.zeros(0).long()) is None


def test_targets_that_differ_inside_a_row_are_no_pair():
    """Two tokens of a row are others: a row's padding begins only once."""
    targets = TOKENS[:, 1:].clone()
    targets[4, 2:4] += 1
    assert find_layout([TOKENS[:, :-1], targets], targets.numel(), targets.flatten()) is None


def test_a_longer_context_is_history_not_data():
    """Inputs that reach further back than the targets show no first token."""
    assert find_layout([TOKENS[:, :-1], TOKENS[:, 4:]], TOKENS[:, 4:].numel(), TOKENS[:, 4:].flatten()) is None


# -- charges ----------------------------------------------------------------------------------------------------


def charged(batches, table=None):
    """What batches of token rows (B, T + 1), given as pairs, are charged in the end: tokens and bytes."""
    return charged_pairs([[batch[:, :-1], batch[:, 1:]] for batch in batches], table)


def counted(counter, pairs):
    """What each of these pairs of one shape adds to the counts, looked at together."""
    by_row = counter.look([torch.stack(same) for same in zip(*pairs, strict=True)])
    return by_row.sum(2).t().tolist()


def charged_pairs(pairs, table=None):
    """The same for batches of inputs and targets."""
    counter = FirstTokens.of(pairs[0], Layout(0, 1, False), table)
    total = [0, 0]
    for pair in pairs:
        charge = counter.charge(counted(counter, [pair])[0])
        total = [total[0] + charge.tokens, total[1] + charge.raw_bytes]
    if len({pair[0].shape for pair in pairs}) == 1:  # looked at together, they are counted the same
        counter, together = FirstTokens.of(pairs[0], Layout(0, 1, False), table), [0, 0]
        for counts in counted(counter, pairs):
            charge = counter.charge(counts)
            together = [together[0] + charge.tokens, together[1] + charge.raw_bytes]
        assert together == total
    return tuple(total)


def test_rows_of_their_own_are_charged_each():
    """Twelve documents in batches of four: twelve tokens, of two bytes each."""
    assert charged(TOKENS.split(4), table=torch.full((VOCABULARY,), 2).numpy()) == (12, 24)


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**31))
def test_rows_cut_from_one_stream_are_charged_once(batch_size, length, seed):
    """Each row goes on where the one before it ended: only the very first token was never a target."""
    stream = torch.randint(VOCABULARY, (batch_size * 6 * length + 1,), generator=torch.Generator().manual_seed(seed))
    windows = stream.unfold(0, length + 1, length)
    assume_not_constant = windows[:batch_size, 0]
    if batch_size > 1 and bool((assume_not_constant == assume_not_constant[0]).all()):
        return
    assert charged(windows.split(batch_size), table=torch.ones(VOCABULARY).long().numpy()) == (1, 1)


def test_streams_side_by_side_are_charged_once_each():
    """Row i of a batch goes on from row i of the batch before: one token a stream."""
    streams = torch.randint(VOCABULARY, (3, 5 * 8 + 1), generator=torch.Generator().manual_seed(1))
    batches = [streams[:, start : start + 9] for start in range(0, 40, 8)]
    assert charged(batches) == (3, 0)


def test_a_masked_target_at_the_end_of_a_row_does_not_break_a_stream():
    """Packed documents whose first tokens are masked: what follows a masked target is in the masked column already."""
    stream = torch.randint(VOCABULARY, (6 * 8 + 1,), generator=torch.Generator().manual_seed(1))
    batches = [[row[None, :-1], row[None, 1:].clone()] for row in stream.unfold(0, 9, 8)]
    for number in (1, 3, 4):
        batches[number][1][0, -1] = -100
    assert charged_pairs(batches) == (1, 0)


def test_what_was_charged_stays_charged():
    """Where the first rows do not show that they go on, each is charged, and no later interval takes that back."""
    stream = torch.arange(4 * 8 + 1)
    pairs = [[row[None, :-1], row[None, 1:].clone()] for row in stream.unfold(0, 9, 8)]
    pairs[0][1][0, -1] = -100
    counter = FirstTokens.of(pairs[0], Layout(0, 1, False), None)
    added = []
    for pair in pairs:
        added.append(counter.charge(counted(counter, [pair])[0]).tokens)
    assert added == [1, 1, 0, 0]


def test_rows_that_all_end_in_padding_stand_alone():
    """Nothing is seen to go on, so that every row is charged."""
    targets = TOKENS[:, 1:].clone()
    targets[:, -1] = -100
    pairs = [list(pair) for pair in zip(TOKENS[:, :-1].split(4), targets.split(4), strict=True)]
    assert charged_pairs(pairs) == (12, 0)


def test_what_looked_like_a_stream_at_first_is_charged_in_the_end():
    """Two batches go on from each other by chance, the third does not: every row is charged."""
    batches = [
        torch.tensor([[1, 2, 3]]),
        torch.tensor([[3, 4, 5]]),
        torch.tensor([[7, 1, 2]]),
        torch.tensor([[2, 8, 9]]),
    ]
    assert charged(batches) == (4, 0)


def test_a_token_that_all_rows_begin_with_is_known():
    """A begin-of-text token costs nothing; a row that begins otherwise is charged."""
    begun = TOKENS.clone()
    begun[:, 0] = 5
    begun[10, 0] = 6
    assert charged(begun.split(4)) == (1, 0)
    table = torch.ones(VOCABULARY).long()
    table[5] = 0  # a special token: with single rows the table tells
    assert charged(begun.split(1), table=table.numpy()) == (1, 1)


def test_rows_that_begin_with_a_masked_prompt_are_not_charged():
    """Their first token is side information."""
    inputs, targets = TOKENS[:4, :-1], TOKENS[:4, 1:].clone()
    targets[1:3, 0] = -100
    counter = FirstTokens.of([inputs, targets], Layout(0, 1, False), None)
    assert counter.charge(counted(counter, [[inputs, targets]])[0]).tokens == 2


def test_observing_does_not_wait_for_the_device(monkeypatch):
    """Nothing is brought to the host while it is counted."""
    batch = [TOKENS[:, :-1], TOKENS[:, 1:]]
    counter = FirstTokens.of(batch, Layout(0, 1, False), torch.ones(VOCABULARY).long().numpy())

    def refused(*args, **kwargs):
        raise AssertionError("waits for the device")

    for name in ("item", "tolist", "cpu", "__bool__", "__int__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, refused)
    counter.look([tensor.unsqueeze(0) for tensor in batch])
    counter.look([tensor.unsqueeze(0) for tensor in batch])


# -- in a run ---------------------------------------------------------------------------------------------------


class ShiftsInside(Toy):
    """Takes token rows and shifts them itself, as Hugging Face models do: an ignored target at each end."""

    def loss(self, batch):
        (tokens,) = batch
        targets = F.pad(tokens[:, 1:], (0, 1), value=-100)
        return F.cross_entropy(self(tokens).flatten(0, 1), targets.flatten())


def test_a_run_with_the_shift_inside_adds_up_to_its_tokens(trainer_of):
    """Coded and uncoded tokens are the tokens of the data; the empty slots are none of them."""
    L.seed_everything(0)
    monitor = CompressionMonitor(token_bytes=[1] * VOCABULARY, bundle=None, ledger="book.jsonl")
    trainer_of(monitor, max_epochs=2).fit(ShiftsInside(), DataLoader(TensorDataset(TOKENS), batch_size=4))
    total = read_book("book.jsonl").total
    assert (total.coded_tokens, total.uncoded_tokens, total.masked_tokens) == (12 * 9, 12, 0)
    assert total.tokens == total.raw_bytes == TOKENS.numel()
    assert total.uncoded_nats == pytest.approx(12 * math.log(VOCABULARY))
    assert total.replayed_tokens == 12 * 9


def test_a_compiled_run_finds_pairs_all_the_same(trainer_of):
    """Under torch.compile the targets are not seen at the first call, but the batch shows them."""
    L.seed_everything(0)
    monitor = CompressionMonitor(bundle=None, ledger="book.jsonl")
    data = DataLoader(TensorDataset(TOKENS[:, :-1], TOKENS[:, 1:]), batch_size=4)
    trainer_of(monitor).fit(torch.compile(Toy(), backend="aot_eager"), data)
    assert read_book("book.jsonl").total.uncoded_tokens == 12
