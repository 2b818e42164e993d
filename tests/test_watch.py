"""Was it a single pass? Whole runs over rows long enough to tell, and what their books say."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from toys import VOCABULARY, Toy

from prequential import CompressionMonitor
from prequential.columns.watch import repeated
from prequential.identity.passages import Repeats, passage_tokens
from prequential.ledger import read_book

ROWS, LENGTH = 44, 2_000  # about 1,000 sampled passages, of which two thirds are found however a row is cut


def token_rows():
    """Random rows, long enough to hold passages."""
    assert passage_tokens(VOCABULARY) < LENGTH
    return torch.randint(VOCABULARY, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(3))


def run_over(rows, trainer_of, module=None, **options):
    """Train on rows as pairs of inputs and targets; return the run as its book tells it."""
    data = DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:]), batch_size=4)
    L.seed_everything(0)
    trainer_of(CompressionMonitor(bundle=None, ledger="book.jsonl"), **options).fit(module or Toy(), data)
    return read_book("book.jsonl")


def test_rows_that_are_all_new_are_a_single_pass(trainer_of):
    """No passage came before, in samples enough to say so."""
    run = run_over(token_rows(), trainer_of)
    assert run.single_pass == ("yes", [])
    assert run.end["repeats"]["share"] == 0
    assert run.end["repeats"]["samples"] > 300


def test_rows_fed_twice_within_an_epoch_are_noticed(trainer_of):
    """A sampler with replacement, a shard listed twice: half of the passages came before."""
    rows = token_rows()
    again = torch.cat([rows, rows[torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))]])
    run = run_over(again, trainer_of)
    answer, (reason,) = run.single_pass
    assert answer == "no"
    assert "an estimate of 50.0 % (+- " in reason
    assert [event["event"] for event in run.events] == ["not_single_pass"]
    assert run.end["repeats"]["share"] == 0.5


def test_random_crops_of_a_corpus_are_noticed(trainer_of):
    """Windows drawn at random overlap: the reason says that a stream was coded."""
    corpus = torch.randint(VOCABULARY, (40_000,), generator=torch.Generator().manual_seed(3))
    starts = torch.randint(len(corpus) - LENGTH - 1, (ROWS,), generator=torch.Generator().manual_seed(4))
    rows = torch.stack([corpus[start : start + LENGTH + 1] for start in starts.tolist()])
    answer, (reason,) = run_over(rows, trainer_of).single_pass
    assert answer == "no"
    assert "codes a stream, not the corpus" in reason


def test_rows_known_to_come_again_are_no_news_to_the_passages(trainer_of):
    """They are in the replay column: what is left is a pass over the corpus, and the reason says what came twice."""
    rows = token_rows()
    again = torch.cat([rows, rows[torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))]])
    L.seed_everything(0)
    monitor = CompressionMonitor(bundle=None, ledger="book.jsonl", repeats="replay")
    trainer_of(monitor).fit(Toy(), DataLoader(TensorDataset(again[:, :-1], again[:, 1:]), batch_size=4))
    run = read_book("book.jsonl")
    assert run.end["repeats"]["share"] == 0.5
    assert run.single_pass == (
        "no",
        [f"{ROWS * LENGTH:,} tokens were scored again after their first exposure, taken for replay, left out"],
    )


def test_a_second_epoch_is_replay_and_not_counted_again(trainer_of):
    """Its passages did come before, but they are in the replay column already."""
    run = run_over(token_rows(), trainer_of, max_epochs=2)
    assert run.single_pass[0] == "no"
    assert "tokens were scored again after their first exposure" in run.single_pass[1][0]
    assert run.end["repeats"]["share"] == 0


def test_a_few_samples_do_not_make_a_yes(trainer_of):
    """With a handful of passages the answer is unknown, with the bound."""
    answer, (reason,) = run_over(token_rows()[:4], trainer_of).single_pass
    assert answer == "unknown"
    assert "(an estimate) may stand in repeated passages" in reason


def test_rows_that_an_old_cut_may_hide_tell_nothing(trainer_of):
    """The same text fed twice, cut half a row later: no passage of such rows is seen whole in both."""
    length = 2 * passage_tokens(VOCABULARY) - 2
    text = torch.randint(VOCABULARY, (40 * length,), generator=torch.Generator().manual_seed(3))
    cuts = [text, text.roll(length // 2)]
    rows = torch.cat([torch.cat([part.view(-1, length), part.view(-1, length)[:, :1]], 1) for part in cuts])
    run = run_over(rows, trainer_of)
    assert run.end["repeats"]["share"] == 0
    assert run.single_pass == (
        "unknown",
        ["up to 100 % of the tokens (an estimate) may stand in repeated passages"],
    )


def test_short_rows_tell_nothing(trainer_of):
    """Rows shorter than a passage repeat by chance."""
    answer, (reason,) = run_over(token_rows()[:, :200], trainer_of).single_pass
    assert answer == "unknown"
    assert "too short" in reason


def test_other_integers_of_a_batch_are_not_taken_for_tokens(trainer_of):
    """Position ids repeat in every row and mean nothing."""

    class WithPositions(Toy):
        def loss(self, batch):
            return super().loss(batch[1:])

    rows = token_rows()
    positions = torch.arange(LENGTH).expand(ROWS, LENGTH)
    data = DataLoader(TensorDataset(positions, rows[:, :-1], rows[:, 1:]), batch_size=4)
    trainer_of(CompressionMonitor(bundle=None, ledger="book.jsonl")).fit(WithPositions(), data)
    assert read_book("book.jsonl").single_pass[0] == "yes"


def test_integers_beside_the_targets_are_not_taken_for_them(trainer_of):
    """A tensor of the targets' size with other content, the same in every row, is passed over."""

    class Decoder(Toy):
        def loss(self, batch):
            targets = batch[1]
            return torch.nn.functional.cross_entropy(self(torch.zeros_like(targets)).flatten(0, 1), targets.flatten())

    rows = token_rows()
    data = DataLoader(TensorDataset(rows[:1].expand_as(rows), rows), batch_size=4)
    trainer_of(CompressionMonitor(bundle=None, ledger="book.jsonl")).fit(Decoder(), data)
    assert read_book("book.jsonl").single_pass[0] == "yes"


def test_only_what_is_beyond_doubt_is_called_no_single_pass():
    """The share must stand two standard errors above what text repeats by itself."""
    assert repeated(Repeats(0.02, 0.006, 100)) is None
    assert "2.0 % (+- 0.8)" in repeated(Repeats(0.02, 0.004, 100))


@pytest.mark.parametrize("compiled", [False, True])
def test_targets_without_their_inputs_are_rows_too(trainer_of, compiled):
    """Where a batch holds only the targets, they are audited if they were seen."""

    class Decoder(Toy):
        def loss(self, batch):
            (targets,) = batch
            return torch.nn.functional.cross_entropy(self(torch.zeros_like(targets)).flatten(0, 1), targets.flatten())

    data = DataLoader(TensorDataset(token_rows()), batch_size=4)
    module = torch.compile(Decoder(), backend="aot_eager") if compiled else Decoder()
    trainer_of(CompressionMonitor(bundle=None, ledger="book.jsonl")).fit(module, data)
    assert read_book("book.jsonl").single_pass[0] == ("unknown" if compiled else "yes")
