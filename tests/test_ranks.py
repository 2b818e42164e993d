"""A run spread over several ranks has the book of one process, whatever happens to a rank; trained by `in_ranks`."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import EarlyStopping
from toys import loader

from prequential import CompressionMonitor, compare
from prequential.codelength import Tally
from prequential.columns.replay import SeenRows
from prequential.columns.uncoded import FirstTokens, Layout
from prequential.columns.watch import Seen
from prequential.errors import MeasureError, RanksError
from prequential.hashing import BASE
from prequential.integrations.feeding import loader_draws_once, loader_drops
from prequential.integrations.places import place_in_group, place_of
from prequential.integrations.session import Options, Session
from prequential.ledger import read_book
from prequential.meter import Reading
from prequential.ranks import Interval, Letter, Several, condensed, together

FLOATS = ("nats", "uncoded_nats", "replayed_nats")
TOKENS = 64 * 12


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder in which all cases were trained, and the exit codes of their ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here.parent), str(here), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(here / "in_ranks.py")],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    codes = {}
    for line in done.stdout.splitlines():
        name, *numbers = line.split()[:-2]
        codes.setdefault(name, []).append(list(map(int, numbers)))
    return SimpleNamespace(folder=folder, codes=codes)


@pytest.fixture
def book(trained):
    """A function that reads the book of a case, whose ranks all came to their end."""

    def read(name):
        run = read_book(trained.folder / name / "book" / "book.jsonl")
        assert not set(trained.codes[name][-1]) - {0}, (trained.folder / name / "rank0.txt").read_text()
        assert (run.warnings, run.status, run.end["complete"]) == ([], "completed", True)
        return run

    return read


def said(run):
    return [event["message"] for event in run.events]


def by_hand(trained, name):
    """Nats of the first exposure of every row, and how many rows there were, from what the ranks wrote down."""
    ranks = [torch.load(path) for path in sorted((trained.folder / name).glob("scored*.pt"))]
    first = {}
    for turn in range(max(map(len, ranks))):
        for rank in ranks:
            if turn < len(rank) and rank[turn][0]:
                first.setdefault(*rank[turn])
    return sum(first.values()), len(first)


def same(run, other):
    """Counts and the fingerprint of the rows are equal, nats to 1e-7; the order is another one."""
    a, b = asdict(run.total), asdict(other.total)
    counts = a.keys() - FLOATS - {"fingerprint"}
    assert {name: a[name] for name in counts} == {name: b[name] for name in counts}
    for name in FLOATS:
        assert a[name] == pytest.approx(b[name], rel=1e-7)
    assert run.total.rows_fingerprint != 0
    return True


@pytest.mark.parametrize(
    ("one", "several"),
    [
        ("one", "two"),
        ("one", "four"),
        ("one_replay", "two_replay"),
        ("one_sources", "two_sources"),
        ("one_evaluated", "two_evaluated"),
    ],
)
def test_several_ranks_write_the_book_of_one_process(book, one, several):
    """The same data, the same global batches: every interval has the same columns."""
    alone, spread = book(one), book(several)
    assert same(spread, alone)
    assert [i.step for i in spread.intervals] == [i.step for i in alone.intervals]
    for mine, other in zip(spread.intervals, alone.intervals, strict=True):
        assert mine.tally.coded_tokens == other.tally.coded_tokens
        assert mine.tally.nats == pytest.approx(other.tally.nats, rel=1e-7)
    assert spread.sources.keys() == alone.sources.keys()
    for name, tally in spread.sources.items():
        assert tally.coded_tokens == alone.sources[name].coded_tokens
        assert tally.nats == pytest.approx(alone.sources[name].nats, rel=1e-7)
    assert spread.single_pass == alone.single_pass


@pytest.mark.parametrize(
    "name", ["two", "four", "loop", "fabric", "sharded", "copies", "model_parallel", "join", "late", "late_first"]
)
def test_sums_are_those_that_the_ranks_scored(book, trained, name):
    """Lightning, a loop by hand, Fabric, FSDP2, ranks that hold the same tokens, fewer batches: against float64."""
    nats, rows = by_hand(trained, name)
    run = book(name)
    assert run.total.nats == pytest.approx(nats, rel=1e-6)
    assert (run.total.rows, run.total.coded_tokens) == (rows, 12 * rows)
    assert run.total.uncoded_tokens == rows
    assert rows == (60 if name in ("join", "late", "late_first") else 64)


@pytest.mark.parametrize(("name", "rows", "fed"), [("uneven", 30, 32), ("shuffled", 63, 64)])
def test_the_padding_of_a_sampler_is_replay(book, trained, name, rows, fed):
    """Rows that fill up the ranks are counted once, in the order given and in the order that Lightning shuffles."""
    run = book(name)
    nats, found = by_hand(trained, name)
    assert found == rows
    assert (run.total.rows, run.total.coded_tokens) == (rows, 12 * rows)
    assert run.total.replayed_tokens == 12 * (fed - rows)
    assert run.total.nats == pytest.approx(nats, rel=1e-6)


def test_the_trainer_of_transformers_counts_what_fills_up_its_last_batch_once(book):
    """63 rows on two ranks, of which each is fed with 32."""
    total = book("hugging_face").total
    assert (total.rows, total.coded_tokens, total.replayed_tokens, total.uncoded_tokens) == (63, 63 * 12, 12, 63)


def test_the_data_is_proved_equal_whatever_the_number_of_ranks(book):
    """By the rows in any order; the fingerprint that depends on the order has the number of ranks in its name."""
    runs = [book(name) for name in ("one", "two", "four")]
    schemes = [run.header["fingerprint_scheme"] for run in runs]
    assert schemes == ["targets", "targets, 2 ranks", "targets, 4 ranks"]
    assert len({run.total.fingerprint for run in runs}) == 3
    assert book("loop").total.fingerprint == book("two").total.fingerprint
    targets = loader(1, 64, 12).dataset.tensors[1]
    by_hand = sum(
        int(target) * pow(BASE, rank * 2**40 + position, 2**64)
        for rank in range(2)
        for position, target in enumerate(targets[rank::2].flatten())
    )
    assert book("two").total.fingerprint == by_hand % 2**64
    assert "the same rows in another order" in " ".join(compare(runs).notes)
    assert [run.header["world_size"] for run in runs] == [1, 2, 4]
    assert book("model_parallel").header["fingerprint_scheme"] == "targets, 2 ranks"


def test_a_rank_that_dies_costs_the_sums_since_the_last_log_point(trained):
    """The other ends within the time it waits, with a readable book that says what is missing."""
    run = read_book(trained.folder / "dies/book/book.jsonl")
    assert trained.codes["dies"] == [[1, 3]]
    assert (run.status, run.end["complete"], run.total.coded_tokens) == ("failed", False, 3 * 96)
    assert any("since step 3 (missing: rank 1)" in warning for warning in said(run))


@pytest.mark.parametrize(("name", "tokens"), [("raises", 5 * 96 + 48), ("all_raise", 5 * 96)])
def test_ranks_that_raise_send_their_last_sums(trained, name, tokens):
    """One does, and the other fails for it; or all do: nothing of what was scored is missing."""
    run = read_book(trained.folder / name / "book/book.jsonl")
    assert trained.codes[name] == [[1, 1]]
    assert (run.status, run.end["complete"], run.total.coded_tokens) == ("failed", True, tokens)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("other_route", "expected the same measure on all ranks, got capture on rank 0 and outputs on rank 1"),
        ("unseen", "rank 1: expected a call of torch.nn.functional.cross_entropy"),
    ],
)
def test_ranks_that_differ_are_refused_on_all_of_them(trained, name, expected):
    """In one line, in the first micro-batch, and nobody waits for anybody."""
    assert trained.codes[name] == [[1, 1]]
    last = (trained.folder / name / "rank0.txt").read_text().splitlines()[-1]
    assert last.startswith(f"prequential.errors.MeasureError: {expected}")
    other = (trained.folder / name / "rank1.txt").read_text().splitlines()[-1]
    assert "MeasureError: expected" in other
    assert not (trained.folder / name / "book/book.jsonl").exists()


@pytest.mark.parametrize(("name", "tokens"), [("fails", 3 * 96), ("first_fails", 3 * 96)])
def test_an_instrument_that_fails_on_one_rank_stops_on_all(trained, name, tokens):
    """Training goes on to its end on both, and the book says on which rank and why."""
    run = read_book(trained.folder / name / "book/book.jsonl")
    assert trained.codes[name] == [[0, 0]]
    assert (run.status, run.end["complete"], run.total.coded_tokens) == ("completed", False, tokens)
    assert any("division by zero" in warning for warning in said(run))
    assert any("rank 1: " in warning for warning in said(run)) == (name == "fails")


def test_a_rank_without_a_recording_stops_it_and_not_the_training(trained):
    """Rank 0 gives up after the time it waits."""
    assert trained.codes["silent"] == [[0, 0]]
    assert not (trained.folder / "silent/book/book.jsonl").exists()


def test_a_resumed_run_of_two_ranks_has_the_book_of_the_unbroken_one(book, trained):
    """Stopped at step 6, resumed from step 4."""
    assert trained.codes["two_to_two"] == [[1, 1], [0, 0]]
    resumed, unbroken = book("two_to_two"), book("two")
    assert resumed.total.nats == pytest.approx(unbroken.total.nats, rel=1e-9)
    assert asdict(resumed.total) == {**asdict(unbroken.total), "nats": resumed.total.nats}


def test_a_run_may_be_resumed_with_another_number_of_ranks(trained, book):
    """It is noted; the rows are those of the unbroken run."""
    run = read_book(trained.folder / "two_to_one/book/book.jsonl")
    assert trained.codes["two_to_one"] == [[1, 1], [0]]
    assert same(run, book("two"))
    assert any("world_size 1 (was 2)" in warning for warning in said(run))


# -- letters and the post ----------------------------------------------------------------------------------------


def an_interval(step=7, batches=2, rows=3, *, sums=True, nats=1.5, replay=False):
    numbers = np.arange(rows)
    seen = [
        Seen(
            list(range(batch, batch + 9)),
            None if batch else 4,
            [-(2**63) + 5, 2**40],
            SeenRows(
                numbers.astype(np.uint64) + np.uint64(2**64 - 10),
                np.array([numbers, numbers * 300, numbers / 7]) if sums else None,
                True,
                np.ones((9, rows), np.int64) * (1 if sums else 0),
                ["a", "b", "a"] if sums else None,
                [2**33, 1, 2] if sums else None,
                12,
            ),
        )
        for batch in range(batches)
    ]
    tally = Tally(nats=nats, coded_tokens=3, masked_tokens=2, raw_bytes=2**40, fingerprint=2**64 - 1)
    return Interval(step, 0.25, replay, Reading(tally, 2, 20, 1), seen, [5, 6])


def equal(a, b):
    """Compare what holds arrays."""
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize("sums", [True, False])
def test_a_letter_comes_out_as_it_went_in(sums):
    """Every number, of every kind of row."""
    intervals = [an_interval(sums=sums), an_interval(8, batches=1, sums=sums, replay=True)]
    letter = Letter("step", 8, intervals, [("doubt", "why?")], {"share": {"lengths": [12]}})
    back = Letter.from_bytes(letter.to_bytes())
    assert equal(back.intervals, intervals)
    assert (back.kind, back.turn, list(back.notes), back.facts) == ("step", 8, list(letter.notes), letter.facts)
    assert Letter.from_bytes(Letter("end").to_bytes()) == Letter("end", intervals=[], notes=[])


def test_a_row_that_is_only_told_apart_takes_eight_bytes():
    """Beside a head that does not depend on the number of rows."""
    few, many = (len(Letter("step", 1, [an_interval(rows=n, sums=False)]).to_bytes()) for n in (1_000, 2_000))
    assert many - few == 2 * 1_000 * 8


def test_intervals_are_put_together_by_steps_and_micro_batches_in_turn():
    """One rank may lack an interval, or have one more."""
    first = [an_interval(1, nats=1.0), an_interval(2, nats=2.0)]
    second = [an_interval(1, nats=10.0, batches=3), an_interval(3, nats=30.0)]
    merged = together([first, second])
    assert [(i.step, i.reading.tally.nats, len(i.seen)) for i in merged] == [(1, 11.0, 5), (2, 2.0, 2), (3, 30.0, 2)]
    assert [one.padding for one in merged[0].seen] == [4, 4, None, None, None]
    assert merged[0].expected == [10, 12]
    assert merged[0].reading.tally.fingerprint == 2**64 - 2
    assert [i.replay for i in together([[an_interval(4), an_interval(4, replay=True)], []])] == [True, False]


def test_micro_batches_are_sent_as_one_where_rows_are_only_told_apart():
    """Their sums are the same; rows that are summed stay in their order."""
    interval = an_interval(batches=3, sums=False)
    (one,) = condensed(interval._replace(seen=[seen._replace(padding=1) for seen in interval.seen])).seen
    assert (one.padding, one.first_tokens) == (3, [sum(range(n, n + 3)) for n in range(9)])
    assert (len(one.samples), one.rows.hashes.tolist()) == (6, 3 * interval.seen[0].rows.hashes.tolist())
    assert len(condensed(an_interval(batches=3, sums=True)).seen) == 3


def post(size=3):
    """Ranks in one process, with a store of their own."""
    store = dist.HashStore()
    return [Several(store, place, size, processes=size, counts=True) for place in range(size)]


KIND = {"kind": {"measure": "capture", "vocab_size": 20}, "mask": None, "watch": {"first_tokens": None}}


def agreed(ranks):
    for rank in ranks[1:]:
        rank._send(Letter("route", facts={"facts": KIND}))
    ranks[0].agree(KIND)
    for rank in ranks[1:]:
        rank._read_board()
        rank.agreed = True
    return ranks


def test_a_rank_that_ended_its_pass_is_not_waited_for():
    """Until the end of the pass on rank 0; from then on it is."""
    first, second, third = agreed(post())
    second.exchange(Letter("epoch", 2))
    third.exchange(Letter("step", 3))
    got = first.exchange(Letter("step", 3))
    assert [[letter.kind for letter in letters] for letters in got] == [["step"], ["epoch"], ["step"]]
    third.exchange(Letter("epoch", 3))
    second.exchange(Letter("step", 1))
    got = first.exchange(Letter("epoch", 3))
    assert [[letter.kind for letter in letters] for letters in got] == [["epoch"], [], ["epoch"]]
    third.exchange(Letter("step", 1))
    assert [len(letters) for letters in first.exchange(Letter("step", 1))] == [1, 1, 1]


def test_a_letter_that_does_not_come_is_named(monkeypatch):
    """At a log point it ends the recording; at the end of a run that failed it is only missing."""
    monkeypatch.setattr(Several, "timeout_s", 0.05)
    monkeypatch.setattr(Several, "grace_s", 0.05)
    first, second, _ = agreed(post())
    second.exchange(Letter("step", 1))
    with pytest.raises(RanksError, match=r"expected the sums of all ranks within 0.05 s, got none of rank 2"):
        first.exchange(Letter("step", 1))
    first.exchange(Letter("end", 1), hurried=True)
    assert first.missing == [1, 2]
    first.stop("no more")
    with pytest.raises(RanksError, match="no more"):
        second.exchange(Letter("step", 2))


def test_nothing_is_left_in_the_store_and_nothing_new_is_not_sent():
    """Letters are deleted when they are read."""
    first, second = agreed(post(2))
    second.exchange(Letter("step", 1))
    second.exchange(Letter("step", 1))
    assert [len(letters) for letters in first.exchange(Letter("step", 1))] == [1, 1]
    assert second._store.num_keys() == 2  # the board, and that there is something on it


def test_what_all_rows_begin_with_is_known_if_all_ranks_see_it():
    """A rank with one row cannot tell a begin-of-text token; several together can."""
    layout = {"layout": [0, 1, False], "begin_id": None}

    def facts(token):
        return {**KIND, "watch": {"first_tokens": {**layout, "begun_with": [token, 1, True]}, "tokens": 0}}

    for tokens, begin in (((7, 7, 7), 7), ((7, 8, 7), None), ((7, None, 7), None)):
        ranks = post()
        for rank, token in zip(ranks[1:], tokens[1:], strict=True):
            rank._send(Letter("route", facts={"facts": facts(token)}))
        assert ranks[0].agree(facts(tokens[0]))["watch"]["first_tokens"]["begin_id"] == begin


# -- doors -------------------------------------------------------------------------------------------------------


def test_a_sampler_that_spreads_the_rows_draws_each_once_unless_it_pads():
    """What it drops, and what the loader drops on every rank, is known."""
    rows = list(range(30))

    def spread(count, batch, *, sampler_drops=False, **options):
        sampler = torch.utils.data.DistributedSampler(rows[:count], 4, 0, shuffle=False, drop_last=sampler_drops)
        return torch.utils.data.DataLoader(rows[:count], batch, sampler=sampler, **options)

    assert loader_draws_once(spread(28, 2))
    assert not loader_draws_once(spread(30, 2))
    assert loader_draws_once(spread(30, 2, sampler_drops=True))
    assert loader_drops(spread(28, 2)) == 0
    assert loader_drops(spread(28, 3, drop_last=True)) == 4
    assert loader_drops(spread(30, 2, sampler_drops=True)) == 2
    assert loader_drops(spread(30, 2, sampler_drops=True, drop_last=True)) == 6


def test_of_processes_that_hold_the_same_tokens_the_first_counts(monkeypatch):
    """And of those of the first rank it is the process that keeps the book."""
    store, counts = dist.HashStore(), []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    for process in range(4):
        monkeypatch.setattr(dist, "get_rank", lambda process=process: process)
        monkeypatch.setattr("prequential.integrations.places._RECORDINGS", iter([0]))
        found = place_of(process // 2, 2, 4)
        counts.append((found.counts, found.keeps_book, found.size, found.processes))
    assert counts == [(True, True, 2, 4), (False, False, 2, 4), (True, False, 2, 4), (False, False, 2, 4)]


def test_processes_without_a_process_group_are_refused():
    """They could not say anything to each other."""
    assert place_in_group().size == 1
    with pytest.raises(MeasureError, match=r"expected a process group .* for 2 processes, got none"):
        place_of(0, 2, 2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"audit": "full"}, "expected one process for audit='full', got 2"),
        ({}, "expected no callback to monitor prequential/compressed_bytes in 2 processes"),
    ],
)
def test_what_ranks_would_have_to_do_together_is_refused(options, expected):
    """Extra runs of a sharded model, and a decision by a number that only rank 0 knows."""
    stops = EarlyStopping(monitor="prequential/compressed_bytes")
    trainer = SimpleNamespace(world_size=2, is_global_zero=True, loggers=[], callbacks=[stops])
    with pytest.raises(MeasureError, match=expected):
        CompressionMonitor(**options).setup(trainer, L.LightningModule(), "fit")


def test_a_share_of_rescored_batches_is_refused_with_several_ranks():
    """The differences of all ranks would have to be summed, draw by draw, before they are squared."""
    with pytest.raises(MeasureError, match=r"expected one process for rescore=0.5, got several: give rescore='eval'"):
        Session(
            Options(rescore=0.5, bundle=None),
            path=Path("book.jsonl"),
            facts={},
            configuration=dict,
            device="cpu",
            every_n_steps=1,
            publish=lambda *ignored: None,
            reruns=True,
            ranks=post(2)[0],
        )


@pytest.mark.parametrize(("ranks", "charged"), [(1, 8), (2, 2)])
def test_each_rank_may_have_a_contiguous_stream_of_its_own(ranks, charged):
    """Rows that go on from the row before are charged once a stream: two ranks, two streams."""
    layout = Layout(0, 1, False)
    counts = np.zeros(9, int)
    for rank in range(2):
        tokens = torch.arange(17) + 100 * rank
        inputs, targets = tokens[:-1].view(1, 4, 4), tokens[1:].view(1, 4, 4)
        counts += FirstTokens(layout, None).look([inputs, targets]).sum((1, 2)).numpy()
    assert FirstTokens(layout, None, ranks=ranks).charge(counts.tolist()).tokens == charged


def test_the_exit_of_the_script_is_read(trained):
    """Every case was trained."""
    assert json.dumps(trained.codes).count("-9") == 0
