"""Rows: found in a batch, told apart by content, summed one by one, and moved to the replay column."""

import math

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from toys import Toy

from prequential import CompressionMonitor, Recording
from prequential.capture import LossTap
from prequential.codelength import Tally
from prequential.columns.fed import stacked
from prequential.columns.replay import RowPlan, Rows
from prequential.columns.rows import LEAST_BITS, find_rows, row_hashes
from prequential.errors import MeasureError
from prequential.identity.exposure import FirstExposures
from prequential.ledger import read_book
from prequential.meter import Meter
from prequential.views.sheet import source_headings

VOCABULARY, LENGTH = 20, 12


def token_rows(count, seed=7):
    return torch.randint(VOCABULARY, (count, LENGTH + 1), generator=torch.Generator().manual_seed(seed))


def pieces_of(*calls, by_target=True):
    """What a meter keeps of loss calls on logits and targets, and the meter."""
    meter = Meter()
    meter.pieces, meter.by_target = [], by_target
    with LossTap(meter):
        for logits, targets in calls:
            F.cross_entropy(logits, targets)
    return meter.pieces, meter


def in_float64(logits, targets):
    log_p = torch.log_softmax(logits.double(), -1).gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(targets >= 0, -log_p, 0.0)


def looked_at(layout, meter, batch, pieces):
    """Rows of one micro-batch, on the host."""
    rows = Rows(layout, meter, RowPlan(replay_by_rows=True))
    return rows.look(stacked([rows.fed(batch, pieces)]), None).on_host()[0]


# -- finding and summing --------------------------------------------------------------------------------------------


def whole(logits, targets):
    return [(logits.flatten(0, 1), targets.flatten())]


def in_time(logits, targets):
    return [
        (part.flatten(0, 1), ids.flatten()) for part, ids in zip(logits.split(5, 1), targets.split(5, 1), strict=True)
    ]


def in_blocks(logits, targets):
    return list(zip(logits.flatten(0, 1).split(17), targets.flatten().split(17), strict=True))


def class_second(logits, targets):
    return [(logits.transpose(1, 2), targets)]


@pytest.mark.parametrize("calls", [whole, in_time, in_blocks, class_second])
@pytest.mark.parametrize("grad", [True, False])
def test_nats_are_summed_by_row_however_the_loss_is_called(calls, grad):
    """Against float64, with some targets ignored, from what a backward pass needs or by another pass."""
    rows = token_rows(6)
    targets = rows[:, 1:].clone()
    targets[2, 5:] = -100
    logits = torch.randn(6, LENGTH, VOCABULARY, generator=torch.Generator().manual_seed(1), requires_grad=grad)
    batch = [rows[:, :-1], targets]
    pieces, meter = pieces_of(*calls(logits, targets))
    layout = find_rows(batch, pieces, VOCABULARY, targets.numel())
    sums = looked_at(layout, meter, batch, pieces)
    expected = in_float64(logits.detach().flatten(0, 1), targets.flatten()).view(6, LENGTH).sum(1)
    assert sums.resolved
    assert torch.allclose(torch.from_numpy(sums.sums[2]), expected, rtol=1e-6, atol=0)
    assert sums.sums[0].tolist() == (targets >= 0).sum(1).tolist()


def test_a_shift_inside_and_bits_are_found():
    """Tokens of which the step predicts each next one, and pixels that are yes or no."""
    rows, logits = token_rows(4), torch.zeros(4, LENGTH, VOCABULARY)
    pieces, _ = pieces_of(*whole(logits, rows[:, 1:]))
    layout = find_rows(rows, pieces, VOCABULARY, 4 * LENGTH)
    assert layout.bits == pytest.approx((LENGTH + 2) * math.log2(VOCABULARY))
    images = (torch.rand(5, 1, 4, 4) > 0.5).float()
    meter = Meter()
    meter.pieces = []
    with LossTap(meter):
        F.binary_cross_entropy_with_logits(torch.zeros_like(images), images)
    assert find_rows(images, meter.pieces, 2, 80).count(images) == 5


def test_targets_that_the_batch_does_not_hold_have_no_rows():
    """Made inside the step."""
    rows = token_rows(4)
    pieces, _ = pieces_of(*whole(torch.zeros(4, LENGTH, VOCABULARY), token_rows(4, seed=1)[:, 1:]))
    assert find_rows(rows, pieces, VOCABULARY, 4 * LENGTH) is None


def test_compiled_calls_leave_the_rows_to_their_shapes():
    """Nothing was seen target by target: each row has an equal share."""
    rows, meter = token_rows(4), Meter()
    layout = find_rows(rows, [], VOCABULARY, 4 * LENGTH)
    meter.add(torch.tensor(100.0), torch.zeros(48, dtype=torch.int64), vocab_size=VOCABULARY)
    sums = looked_at(layout, meter, rows, [])
    assert not sums.resolved
    assert sums.sums.tolist() == [[12.0] * 4, [0.0] * 4, [25.0] * 4]


def test_rows_are_told_apart_by_all_that_stands_in_them():
    """A label alone means nothing, an image does; the place in the batch does not matter."""
    images, labels = torch.rand(6, 3, 3), torch.tensor([0, 1, 0, 1, 0, 1])
    images[4] = images[0]
    hashes = row_hashes([images[None], labels[None]], 6)
    assert len(hashes.unique()) == 5
    assert torch.equal(row_hashes([images.flip(0)[None], labels.flip(0)[None]], 6), hashes.flip(1))
    halves = row_hashes([images.view(2, 3, 3, 3), labels.view(2, 3)], 3)
    assert torch.equal(halves.flatten(), hashes.flatten())
    labels[4] = 1
    assert len(row_hashes([images[None], labels[None]], 6).unique()) == 6


@pytest.mark.parametrize(("floats", "identifies"), [(0, False), (2, True)])
def test_rows_that_repeat_by_chance_are_not_told_apart(floats, identifies):
    """Ten classes hold 7 bits, two floats 64 more; 44 are needed for four million rows."""
    assert pytest.approx(44) == LEAST_BITS
    labels = torch.arange(10)
    batch = [torch.rand(10, floats), labels] if floats else [labels]
    pieces, _ = pieces_of((torch.zeros(10, 10), labels))
    assert find_rows(batch, pieces, 10, 10).identifies is identifies


@pytest.mark.parametrize("reentrant", [True, False])
def test_scoring_by_target_does_not_run_a_checkpointed_forward_again(reentrant):
    """Saved tensors behind hooks are left alone."""
    runs, meter = [], Meter()
    meter.pieces, meter.by_target = [], True
    weight = torch.randn(4, 20, requires_grad=True)

    def loss(x):
        runs.append(1)
        return F.cross_entropy(x @ weight, torch.tensor([1, 2, 3]))

    with LossTap(meter):
        result = checkpoint(loss, torch.randn(3, 4, requires_grad=True), use_reentrant=reentrant)
    assert len(runs) == 1
    assert meter.pieces[0].nats.sum().item() == pytest.approx(3 * result.item(), rel=1e-6)
    result.backward()
    assert len(runs) == 2


# -- whole runs -----------------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    """Yields rows as inputs and targets, each with a source, in the order of a list of places for every epoch."""

    def __init__(self, rows, *epochs):
        self.rows, self.epochs, self.epoch = rows, epochs, -1

    def __iter__(self):
        self.epoch += 1
        for place in self.epochs[self.epoch]:
            yield {"x": self.rows[place, :-1], "y": self.rows[place, 1:], "source": place % 3}


class Keyed(Toy):
    """The toy on batches with names; keeps what the oracle needs."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def loss(self, batch):
        logits = self(batch["x"]).flatten(0, 1)
        nats = in_float64(logits.detach(), batch["y"].flatten()).view(batch["y"].shape).sum(1)
        self.seen += zip(map(tuple, batch["y"].tolist()), batch["source"].tolist(), nats.tolist(), strict=True)
        return F.cross_entropy(logits, batch["y"].flatten())


def run_of(trainer_of, data, module=None, *, epochs=1, **options):
    module = Keyed() if module is None else module
    monitor = CompressionMonitor(bundle=None, ledger="book.jsonl", token_bytes=[2] * VOCABULARY, **options)
    trainer_of(monitor, max_epochs=epochs).fit(module, DataLoader(data, batch_size=4))
    return read_book("book.jsonl"), module


def expected(seen, of=lambda source: True):
    """Sums of first exposures and of replay, by the second route."""
    known, total = set(), Tally()
    for row, source, nats in seen:
        if of(source):
            new = row not in known
            total += Tally(nats=nats, coded_tokens=LENGTH) if new else Tally(replayed_nats=nats, replayed_tokens=LENGTH)
        known.add(row)
    return total


def same(found, truth):
    assert (found.coded_tokens, found.replayed_tokens) == (truth.coded_tokens, truth.replayed_tokens)
    assert found.nats == pytest.approx(truth.nats, rel=1e-6)
    assert found.replayed_nats == pytest.approx(truth.replayed_nats, rel=1e-6)


PLACES = [0, 1, 2, 3, 0, 4, 5, 5, 6, 7, 8, 9, 10, 2, 11]


def test_rows_fed_again_are_replay_and_free(trainer_of):
    """Three rows come twice within the epoch: neither their nats nor their bytes nor their first tokens count again."""
    run, module = run_of(trainer_of, Stream(token_rows(12), PLACES))
    same(run.total, expected(module.seen))
    assert run.total.coded_tokens == run.total.rows * LENGTH == 12 * LENGTH
    assert run.total.uncoded_tokens == 12
    assert run.total.raw_bytes == 2 * 12 * (LENGTH + 1)
    assert run.single_pass[0] == "no"
    assert (run.grade, run.replay_error) == ("ideal", None)


def test_new_rows_of_a_later_epoch_are_data(trainer_of):
    """A stream that goes on: only what came before is replay, whatever the number of the epoch."""
    run, module = run_of(trainer_of, Stream(token_rows(12), [0, 1, 2, 3], [3, 4, 5, 6, 0, 7]), epochs=2)
    same(run.total, expected(module.seen))
    assert run.total.replayed_tokens == 2 * LENGTH


def test_rows_of_a_loader_that_draws_once_are_data(trainer_of):
    """Equal rows of a data set that is gone through once are part of it, and charged each time."""
    rows = token_rows(12)[PLACES]
    data = [{"x": row[:-1], "y": row[1:], "source": 0} for row in rows]
    run, _ = run_of(trainer_of, data)
    assert (run.total.coded_tokens, run.total.replayed_tokens) == (len(PLACES) * LENGTH, 0)


@pytest.mark.parametrize("repeats", ["data", "replay"])
def test_what_repeats_mean_can_be_said(trainer_of, repeats):
    """Either way, whatever the loader is."""
    run, module = run_of(trainer_of, Stream(token_rows(12), PLACES), repeats=repeats)
    if repeats == "replay":
        same(run.total, expected(module.seen))
    else:
        assert (run.total.coded_tokens, run.total.replayed_tokens) == (len(PLACES) * LENGTH, 0)


@pytest.mark.parametrize("source", ["source", lambda batch: batch["source"], lambda batch: list("abcd")])
def test_sums_are_kept_by_source(trainer_of, source):
    """By numbers under a key, by a function, by names: each first exposure and replay under its own."""
    data = Stream(token_rows(12), PLACES[:12])
    run, module = run_of(trainer_of, data, source=source)
    names = ["a", "b", "c", "d"] if callable(source) and source({"source": 0}) == list("abcd") else ["0", "1", "2"]
    assert list(run.sources) == names
    total = Tally.total(run.sources.values())
    same(total, expected(module.seen))
    if names[0] == "0":
        for name in names:
            same(run.sources[name], expected(module.seen, lambda source, name=name: str(source) == name))
    assert total.raw_bytes == run.total.raw_bytes - 2 * run.total.uncoded_tokens


def test_a_compiled_batch_of_new_and_old_rows_is_an_estimate(trainer_of):
    """Wholly new and wholly repeated batches stay exact; a mixed one is split in proportion, and said."""
    rows = token_rows(12)
    places = [0, 1, 2, 3, 0, 1, 4, 5, 2, 3, 4, 5]

    class Compiled(Toy):
        def loss(self, batch):
            return super().loss([batch["x"], batch["y"]])

    def run_over(places):
        module = torch.compile(Compiled(), backend="aot_eager")
        found, _ = run_of(trainer_of, Stream(rows, places), module)
        return found, [event["event"] for event in found.events]

    run, events = run_over(places)
    assert (run.total.coded_tokens, run.total.replayed_tokens) == (6 * LENGTH, 6 * LENGTH)
    assert events == ["replay_split"]
    assert run.grade == "estimate"
    mixed = run.intervals[1].tally  # the first batch was all new, the third all old
    bound = math.ceil((mixed.nats + mixed.replayed_nats) / math.log(2) / 8)
    assert run.replay_error == f"split in proportion, off by at most {bound:,} bytes"


def test_a_compiled_batch_of_several_sources_is_an_estimate_by_source(trainer_of):
    """The total stays exact; the sums by source are split in proportion, and said."""

    class Compiled(Toy):
        def loss(self, batch):
            return super().loss([batch["x"], batch["y"]])

    module = torch.compile(Compiled(), backend="aot_eager")
    run, _ = run_of(trainer_of, Stream(token_rows(12), range(12)), module, source="source")
    assert [event["event"] for event in run.events] == ["sources_split"]
    assert run.grade == "ideal"
    assert Tally.total(run.sources.values()).nats == pytest.approx(run.total.nats)
    assert "source (estimates)" in source_headings(run)


def test_more_rows_than_are_remembered_make_an_estimate_with_its_error(trainer_of, monkeypatch):
    """Half of 200 rows come again, with room for 64: the book says so, and how far off that may be."""
    monkeypatch.setattr(FirstExposures.__init__, "__defaults__", (64,))
    places = [*range(200), *range(100)]
    run, _ = run_of(trainer_of, Stream(token_rows(200), places))
    sampling = run.end["row_sampling"]
    assert run.grade == "estimate"
    assert run.total.replayed_tokens == pytest.approx(100 * LENGTH, abs=4 * sampling["standard_error"])
    assert sampling["tokens"] > 0
    assert "an estimate for" in run.replay_error
    assert run.total.rows_fingerprint != 0  # of the rows before there were too many: no identity of the data
    assert run.total.coded_tokens + run.total.replayed_tokens == 300 * LENGTH


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "domain"}, "one value a row by source=, for 4 rows, got KeyError: 'domain'"),
        ({"source": lambda batch: ["a"]}, "one value a row by source=, for 4 rows, got 1"),
        ({"positions": lambda batch: torch.zeros(())}, "one value a row by positions=, for 4 rows, got TypeError"),
    ],
)
def test_what_is_no_value_a_row_is_refused_before_anything_is_learnt(trainer_of, options, message):
    """In one line, at the first micro-batch."""
    with pytest.raises(MeasureError, match=message) as caught:
        run_of(trainer_of, Stream(token_rows(8), range(8)), **options)
    assert "\n" not in str(caught.value)


def test_a_loop_tells_replay_too():
    """Without a loader to look at, rows that came before are replay."""
    rows = token_rows(8)
    with Recording("run", bundle=None) as recording:
        for part in (rows[:4], rows[2:6], rows[4:]):
            with recording.batch([part[:, :-1], part[:, 1:]]):
                F.cross_entropy(torch.zeros(4 * LENGTH, VOCABULARY), part[:, 1:].flatten())
            recording.step()
    assert (recording.run.total.coded_tokens, recording.run.total.replayed_tokens) == (8 * LENGTH, 4 * LENGTH)


def test_the_fingerprint_of_rows_knows_no_order(trainer_of):
    """The same rows shuffled and in other batches: one fingerprint agrees, the other does not."""
    rows, totals = token_rows(12), []
    for order, size in ((torch.arange(12), 4), (torch.arange(12).flip(0), 3), (torch.arange(12) % 11, 4)):
        data = DataLoader(TensorDataset(rows[order, :-1], rows[order, 1:]), batch_size=size)
        L.seed_everything(0)
        monitor = CompressionMonitor(bundle=None)
        trainer_of(monitor).fit(Toy(), data)
        totals.append(read_book(monitor.book).total)
    assert totals[0].rows_fingerprint == totals[1].rows_fingerprint != totals[2].rows_fingerprint
    assert totals[0].fingerprint != totals[1].fingerprint


def test_the_fingerprint_of_replay_is_that_of_the_rows_once(trainer_of):
    """Fed once, or some of them twice: the data is the same."""
    rows, totals = token_rows(12), []
    for places in (range(12), PLACES):
        monitor = CompressionMonitor(bundle=None)
        trainer_of(monitor).fit(Keyed(), DataLoader(Stream(rows, list(places)), batch_size=4))
        totals.append(read_book(monitor.book).total)
    assert totals[0].rows_fingerprint == totals[1].rows_fingerprint != 0
    assert [total.rows for total in totals] == [12, 12]


def test_a_batch_without_a_finite_sum_is_charged_by_the_uniform_code_row_by_row(trainer_of):
    """A repeated row of such a batch leaves with its share of that charge."""

    class Broken(Keyed):
        def loss(self, batch):
            logits = self(batch["x"]).flatten(0, 1) * torch.tensor(float("nan"))
            return F.cross_entropy(logits, batch["y"].flatten())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    run, _ = run_of(trainer_of, Stream(token_rows(4), [0, 1, 2, 0]), Broken())
    assert run.total.nats == pytest.approx(3 * LENGTH * math.log(VOCABULARY))
    assert run.total.replayed_nats == pytest.approx(LENGTH * math.log(VOCABULARY))
