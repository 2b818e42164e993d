"""One run being recorded: what every door calls, whatever the framework.

A door creates a `Recorder`, wraps each training step in `capturing`, hands what the step returned to `observe`, and
calls `step_done` after each optimiser step and `finish` at the end. Sums wait on the device; at log points they travel
to the host, into the book, and to whoever is given as ``publish``.

The first micro-batch settles how the nats are found and may raise `MeasureError`, before anything was learnt. After
that no method raises: a failure of the instrument warns, marks the book incomplete and stops the recording only.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from prequential.account import Account
from prequential.capture import LossTap, declared
from prequential.codelength import Tally
from prequential.columns.replay import RowPlan
from prequential.columns.watch import BatchWatch, Columns, Seen, facts_of
from prequential.errors import Harmless, MeasureError, warn
from prequential.meter import Meter, Reading, Sums, on_device, read_sums
from prequential.ranks import Alone, Away, Interval, Letter, condensed, together
from prequential.remarks import (
    NO_ROWS,
    SCORED_AFTER_UPDATE,
    fed_again,
    missing_ranks,
    not_likelihood,
    remarks_on,
    returned_loss,
    stopped_before,
    uncovered,
)
from prequential.rescore import DifferenceEstimator
from prequential.route import Route, settle_route
from prequential.tokenbytes import TokenBytes

# Intervals of the book grow to this share of what has been seen.
_INTERVAL_SHARE = 0.01


# Of what `Recorder.state` returns; a reader ignores a number that it does not know.
STATE_FORMAT = 1

# Positions of the fingerprint that each rank has for itself.
STRETCH = 2**40

_Method = TypeVar("_Method", bound=Callable[..., None])


class _Waiting(NamedTuple):
    """Sums of one interval on their way to the host."""

    step: int
    elapsed_s: float
    replay: bool
    sums: Sums
    batches: int
    returned_loss: Tensor | None
    first_batch: Sums | None
    expected: list[int]
    differences: Tensor | None


def _shielded(method: _Method) -> _Method:
    """Let no failure of the instrument into a healthy training run."""

    @functools.wraps(method)
    def shielded(self: Recorder, *args: Any, **kwargs: Any) -> None:
        if self.failure is not None:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            if self.route is None and isinstance(error, MeasureError) and not self.ranks.agreed:
                self.ranks.refuse(error)
                raise
            self._fail(error)

    return cast(_Method, shielded)


class Recorder:
    """Records one run into a book.

    Args:
        account: Where sums, events and the book of the run are kept.
        device: Where the loss is computed.
        measure: ``"auto"``, ``"outputs"``, ``"capture"``, or a callable ``(module, batch, outputs)`` that returns
            ``{"nats", "tokens"}``.
        token_bytes: Bytes per token; None if unknown, then no ratio against raw bytes is given.
        every_n_steps: Optimiser steps between log points; the first come at steps 1, 2, 4, 8, ...
        publish: Called at log points with quantities by name, and the number of optimiser steps so far.
        plan: What is to be found out about rows.
        state: What `state` returned at the checkpoint from which the run is resumed; None for a new run.
        ranks: This process among those that the data of the run is spread over.

    Raises:
        MeasureError: The options are not those of the run that is resumed.
    """

    def __init__(
        self,
        account: Account,
        *,
        device: Any,
        measure: str | Callable[..., Any],
        token_bytes: TokenBytes | None,
        every_n_steps: int,
        publish: Callable[[dict[str, float | int], int], None],
        plan: RowPlan | None = None,
        state: Mapping[str, Any] | None = None,
        ranks: Alone | None = None,
    ) -> None:
        self.ranks = ranks or Alone()
        self.measure, self.every_n_steps, self.publish = measure, every_n_steps, publish
        self.account = account
        self.route: Route | None = None
        self.failure: str | None = None
        self.replay = False
        self.rescoring: DifferenceEstimator | None = None
        self.steps = 0
        self._token_bytes, self._device = token_bytes, device
        self._plan = plan or RowPlan()
        self._before, self._fed_again = state, 0
        self._rows_of_batch: int | None = None
        self._meter = self._new_meter()
        self._watch: BatchWatch | None = None
        self._tap: LossTap | None = LossTap(self._meter, hold=True) if measure in ("auto", "capture") else None
        self._waiting: list[_Waiting] = []
        self._steps_in_interval = 0
        self._batches_in_interval = 0
        self._pass_began = 0  # after so many steps
        self._places: list[Any] = []  # of other ranks, at the last checkpoint
        self._check: tuple[Tensor, Sums] | None = None
        if state is not None:
            self._resume(state)

    # -- during training ----------------------------------------------------------------------------------------

    def capturing(self, module: Any, batch: Any) -> AbstractContextManager[Any]:
        """Context for one training step, in which loss calls are seen."""
        return self._tap.on(module, batch) if self._tap is not None and self.failure is None else nullcontext()

    @_shielded
    def observe(self, module: Any, batch: Any, outputs: Any) -> None:
        """Take in what one training step returned; its loss calls were seen while `capturing`.

        Raises:
            MeasureError: In the first micro-batch, where the code length of the step cannot be found.
        """
        if self.route is None:
            self._settle(module, batch, outputs)
            if self.route is None:
                return
        elif self.route.declares:
            self.route.add_declared(self._meter, module, batch, outputs)
        pieces, self._meter.pieces = self._meter.pieces or [], []
        if self._watch is not None:
            self._watch.observe(batch, pieces)
        if self.route is not None and self.route.coverage is not None:
            self.route.coverage.observe(batch)
        if self._tap is not None and self._tap.late:
            self.account.note("scored_after_update", SCORED_AFTER_UPDATE)
        loss = returned_loss(outputs)
        if self._batches_in_interval == 0 and loss is not None:
            self._check = (loss, self._meter.peek())
        self._batches_in_interval += 1
        if self._fed_again:
            if self._fed_again == 1:
                self._log_point()
            self._fed_again -= 1

    @property
    def tap(self) -> LossTap | None:
        """What watches the loss calls; None where the script states its sums."""
        return self._tap

    def so_far(self) -> Sums:
        """Sums of the open interval, on the device."""
        return on_device(self._meter.peek())

    @_shielded
    def fail(self, error: Exception) -> None:
        """Stop the recording: a step could not be observed.

        Raises:
            MeasureError: It is one, and nothing was learnt yet.
        """
        raise error

    @_shielded
    def step_done(self, step: int) -> None:
        """Close the interval or reach a log point, if it is time: after an optimiser step.

        Args:
            step: The framework's own number of the optimiser step, for the book.
        """
        self.steps += 1
        self.account.step = step
        self._steps_in_interval += 1
        early = self._turn < self.every_n_steps and self._turn & (self._turn - 1) == 0
        if early or self._turn % self.every_n_steps == 0:
            self._log_point()
        elif self._steps_in_interval >= min(max(1, int(_INTERVAL_SHARE * self.steps)), self.every_n_steps):
            self._close_interval()

    @_shielded
    def epoch_done(self) -> None:
        """Reach a log point, so that no interval spans two epochs: the later ones are replay."""
        self._log_point("epoch")
        self._fed_again = 0
        if self.ranks.size > 1:  # they may have fed other numbers of batches, and reach their next log points together
            self._pass_began = self.steps
        if self._watch is not None and self._watch.rows is not None:
            self._watch.rows.end_pass()

    @_shielded
    def feed_again(self, batches: int) -> None:
        """Say that the loader started over in the middle of an epoch, before the first micro-batch of a resumed run.

        Rows that come again are replay. Where rows cannot be told apart, as many micro-batches are.

        Args:
            batches: Micro-batches of this epoch before the resume.
        """
        self._fed_again = batches
        self._meter.by_target = True  # for this one; from then on `Rows` knows

    def state(self) -> dict[str, Any]:
        """All that a resumed run must know, as plain values and tensors, for a checkpoint; waits for the device.

        Reaches a log point, so that nothing waits. Empty as long as there is no book, and where the state cannot be
        had; never raises.
        """
        with Harmless("the checkpoint does not hold the state of the monitor"):
            self._state_log_point()
            account = self.account.state()
            if account is None or self._watch is None:
                return dict(self._before or {})
            return {
                "format": STATE_FORMAT,
                "steps": self.steps,
                "account": account,
                "position": self._meter.position,
                "tap": self._tap.state() if self._tap is not None else None,
                "watch": self._watch.state(),
                "rows_of_batch": self._rows_of_batch,
                "rescoring": self.rescoring.state() if self.rescoring is not None else None,
                "fed_again": self._fed_again,
                "failure": self.failure,
                "ranks": self._places,
            }
        return {}

    @_shielded
    def dropped(self, rows: int) -> None:
        """Charge rows of the data that were never fed, a remainder smaller than a batch, by the uniform code.

        Their tokens are known where all rows have as many; else the rows are no part of what is described, and it is
        said. Their bytes are not counted.
        """
        self._log_point()
        if not self.ranks.keeps_book:
            return
        length = self._watch.row_tokens(self.account.total) if self._watch is not None else None
        if length is None or not self.account.vocab_size:
            self.account.note(
                "dropped", f"{rows:,} rows of the data were never fed: they are no part of what is described"
            )
            return
        self.account.add_uncoded(rows * length)
        self.account.note(
            "dropped", f"{rows:,} rows ({rows * length:,} tokens) were never fed: charged by the uniform code"
        )

    @_shielded
    def note(self, event: str, message: str) -> None:
        """Put an event on the book, once a kind."""
        self.account.note(event, message)

    @_shielded
    def checkpoint(self) -> None:
        """Make the book durable up to here."""
        self._log_point()
        self.account.sync()

    @_shielded
    def last_sums(self, *, hurried: bool) -> None:
        """Reach the last log point, with what all ranks saw.

        Args:
            hurried: Whether the run failed, so that other ranks may be gone and are not waited for as long.
        """
        self._log_point("end", hurried=hurried)

    def finish(self, status: str, **facts: Any) -> None:
        """Write what is left and the end line; never raises.

        Args:
            status: ``completed``, ``interrupted`` or ``failed``.
            facts: More for the end line (a bundle that grew).
        """
        self._show_rest()
        if not self.account.is_open and (self._before is None or status != "completed"):
            self.account.release()
            return
        message = self._watch.verdict(self.account.total) if self._watch is not None else None
        if message is not None:
            self.note("not_single_pass", message)
        self.account.end(status, self.failure, **facts_of(self._watch), **self._rescored(), **facts)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _new_meter(self) -> Meter:
        table = None if self._token_bytes is None else self._token_bytes.table.tolist()
        meter = Meter(device=self._device, token_bytes=table)
        meter.pieces = []
        meter.by_target = self._plan.by_target or self._fed_again > 0
        meter.begin_at(self._position())
        return meter

    def _position(self) -> Tensor | int:
        """Where the targets of this rank begin in the fingerprint: each rank has a stretch of 2**40 positions."""
        if self._before is None:
            return self.ranks.place * STRETCH
        if not self.ranks.place:
            return cast(Tensor, self._before["position"])
        mine = self._own_place()
        return self.ranks.place * STRETCH if mine is None else torch.tensor(mine["position"])

    def _own_place(self) -> Mapping[str, Any] | None:
        """What the checkpoint holds of this rank, other than the first; None if there were not as many."""
        before: list[Any] = [] if self._before is None else self._before.get("ranks", [])
        same = len(before) + 1 == self.ranks.size
        return before[self.ranks.place - 1] if same and self.ranks.place else None

    def _resume(self, state: Mapping[str, Any]) -> None:
        self.steps, self._fed_again = int(state["steps"]), int(state["fed_again"])
        if state["tap"] is None:  # the script states its sums itself
            self._tap = None
        elif self._tap is not None:
            self._tap.known = state["tap"]
        self.account.resume(state["account"])
        if state["failure"] is not None:
            self.account.open_with("missed", stopped_before(state["failure"]))
        self._watch = BatchWatch.resumed(
            state["watch"],
            vocab_size=self.account.vocab_size,
            table=self._token_bytes.table if self._token_bytes is not None else None,
            meter=self._meter,
            plan=self._plan,
        )
        self._watch.among(self.ranks.size)
        if self.ranks.place:
            mine = self._own_place()
            self._watch.go_on_after(None if mine is None else mine["last"], self._meter.device)
            self._watch.take_share()  # rank 0 has it

    def _settle(self, module: Any, batch: Any, outputs: Any) -> None:
        if not self.ranks.counts:
            self.ranks.agree(None)
            self.failure = "another process counts these tokens"
            return
        reduced_by = "calls" if self._tap is None else self._tap.settle(batch, returned_loss(outputs))
        reading = read_sums([self._meter.peek()])[0]
        if self._tap is not None and self._shows_nothing(reading, outputs):
            self._tap.hold()
            step, elapsed_s, self._meter.pieces = self.account.step, self.account.elapsed_s, []
            self._waiting.append(_Waiting(step, elapsed_s, False, self._meter.take(), 0, None, None, [], None))
            agreed = self.ranks.agree(None)
            if agreed is not None:
                self._adopt(agreed)
            return
        calls = self._tap.calls if self._tap is not None else []
        route = settle_route(
            self.measure, reading, calls, module, batch, outputs, self._token_bytes, reduced_by=reduced_by
        )
        if route.declares:  # what the tap may have seen as well is not counted twice
            if self._tap is not None:
                self._tap, self._meter = None, self._new_meter()
            route.add_declared(self._meter, module, batch, outputs)
        if self._tap is not None:
            self._tap.calls = []
            self._meter.keeps_calls = self._tap.order_known
        self._watch = self._watch or BatchWatch(
            batch,
            reading.tally.positions,
            self._meter.pieces or [],
            vocab_size=route.vocab_size,
            table=self._token_bytes.table if self._token_bytes is not None else None,
            meter=self._meter,
            plan=self._plan,
            declared=route.declares,
        )
        if self._watch.rows is not None:
            self._watch.rows.check(batch)
        self._put_into_header(route.header())
        self._agree(route)
        self.route = route
        self._go_on(batch)
        if self._watch.rows is None and (self._plan.source or self._plan.positions):
            self.account.note("no_rows", NO_ROWS)
        for event, message in route.doubts.items():
            self.account.note(event, message)

    def _put_into_header(self, facts: Mapping[str, Any]) -> None:
        assert self._watch is not None
        scheme = self.ranks.scheme(facts["fingerprint_scheme"])
        repeats = "replay" if self._watch.tells_replay else "data"
        self.account.settle({**facts, "fingerprint_scheme": scheme, "repeats": repeats})

    def _agree(self, route: Route) -> None:
        """Go on with what the ranks agree on, if there are several."""
        assert self._watch is not None
        kind = {name: value for name, value in route.header().items() if name != "loss_calls"}
        mask = self._tap.state()["mask"] if self._tap is not None else None
        late = self.ranks.agreed
        agreed = self.ranks.agree({"kind": kind, "mask": mask, "watch": self._watch.facts()})
        if agreed is not None and not late:
            self._adopt(agreed)

    def _adopt(self, agreed: Mapping[str, Any]) -> None:
        """Read batches as all ranks do."""
        if self._tap is not None:
            self._tap.adopt(agreed["mask"])
        if self._before is None:
            table = self._token_bytes.table if self._token_bytes is not None else None
            size = agreed["kind"]["vocab_size"]
            self._watch = BatchWatch.agreed(
                agreed["watch"], vocab_size=size, table=table, meter=self._meter, plan=self._plan
            )
            self._put_into_header(agreed["kind"])
        if self._watch is not None:
            self._watch.among(self.ranks.size)

    def _shows_nothing(self, reading: Reading, outputs: Any) -> bool:
        """Whether a micro-batch has no target by which anything could be settled: it is empty, or masked throughout."""
        states = callable(self.measure) or declared(outputs) is not None
        return bool(reading.calls) and not reading.tally.coded_tokens and not states and not reading.not_understood

    def _go_on(self, batch: Any) -> None:
        """Say in the first micro-batch of a resumed run what is not as it was."""
        rows = self._watch.rows if self._watch is not None else None
        self._rows_of_batch = rows.layout.count(batch) if rows is not None else None
        before = self._before["rows_of_batch"] if self._before is not None else None
        if before != self._rows_of_batch and before is not None:
            message = (
                f"resumed at step {self.account.step:,} with batches of {self._rows_of_batch} rows (were {before})"
            )
            self.account.note(f"batch_size at {self.account.step}", message)
        if self._fed_again:
            self.account.note("not_single_pass", fed_again(self.account.step, self._fed_again))
            if rows is not None and rows.feed_again():
                self._fed_again = 0

    def _close_interval(self) -> None:
        if self._batches_in_interval and self.route is not None:
            loss, first_batch = self._check or (None, None)
            elapsed_s = self.account.elapsed_s
            batches = self._watch.take() if self._watch is not None else 0
            coverage = self.route.coverage if self.route is not None else None
            expected = coverage.take() if coverage is not None else []
            sums = self._meter.take()
            differences = self.rescoring.take() if self.rescoring is not None else None
            self._waiting.append(
                _Waiting(
                    self.account.step,
                    elapsed_s,
                    self.replay or self._fed_again > 0,
                    sums,
                    batches,
                    loss,
                    first_batch,
                    expected,
                    differences,
                )
            )
        self._steps_in_interval = self._batches_in_interval = 0
        self._check = None

    def _log_point(self, kind: str = "step", *, hurried: bool = False) -> None:
        """The only place where the host waits for the device, and on rank 0 for what the other ranks saw."""
        if self.route is None and self.ranks.size == 1:  # no micro-batch with a target came so far
            return
        self._close_interval()
        waiting, self._waiting = self._waiting, []
        own = self._on_host(waiting)
        if not self.ranks.keeps_book:
            self._write(kind, own, self._loss_remarks(waiting))
            return
        intervals, notes = self._gathered(kind, own, hurried) if self.ranks.size > 1 else (own, [])
        for interval in intervals:
            self._account_for(interval, last=interval is intervals[-1])
        for event, message in [*self._loss_remarks(waiting), *notes]:
            self.account.note(event, message)
        if intervals:
            self.publish(self.account.live(), self.steps)

    @property
    def _turn(self) -> int:
        """Optimiser steps of this pass: of the run, where one rank is alone."""
        return self.steps - self._pass_began

    def _on_host(self, waiting: list[_Waiting]) -> list[Interval]:
        """Read what waits; waits for the device."""
        seen = iter(self._watch.read() if self._watch is not None and waiting else [])
        return [
            Interval(
                *(one.step, one.elapsed_s, one.replay, reading),
                *(list(islice(seen, one.batches)), one.expected, one.differences),
            )
            for one, reading in zip(waiting, read_sums([one.sums for one in waiting]), strict=True)
        ]

    def _write(self, kind: str, own: list[Interval], notes: list[tuple[str, str]]) -> None:
        """Send what this rank saw to the one that keeps the book."""
        assert isinstance(self.account, Away)
        for event, message in notes:
            self.account.note(event, message)
        facts: dict[str, Any] = {}
        if self._watch is not None:
            facts["share"] = self._watch.take_share()
            below = self.ranks.sampled_below
            own = [condensed(one._replace(seen=self._watch.thinned(one.seen, below))) for one in own]
            if kind == "state":
                facts["place"] = {"position": int(self._meter.position), "last": self._watch.last_targets}
        self.ranks.exchange(Letter(kind, self._turn, own, self.account.take_notes(), facts))

    def _gathered(self, kind: str, own: list[Interval], hurried: bool) -> tuple[list[Interval], list[tuple[str, str]]]:
        """Put what all ranks saw together, and what there is to be said of it."""
        if self._watch is not None:
            self.ranks.sample_below(self._watch.sampled_below)
        by_rank = self.ranks.exchange(Letter(kind, self._turn, own), hurried=hurried)
        letters = list(chain(*by_rank))
        if self._watch is not None:
            for letter in letters:
                if "share" in letter.facts:
                    self._watch.add_share(letter.facts["share"])
        if kind == "state":
            self._places = [next((letter.facts.get("place") for letter in some[::-1]), None) for some in by_rank[1:]]
        intervals = together([[interval for letter in some for interval in letter.intervals] for some in by_rank])
        notes = [note for letter in letters for note in letter.notes]
        if self.ranks.missing and intervals:
            return [], [*notes, ("missed", missing_ranks(self.ranks.missing, self.account.added_to))]
        return intervals, notes

    def _account_for(self, interval: Interval, *, last: bool) -> None:
        reading = interval.reading
        tally, sources, estimates = self._in_columns(interval, reading.tally, interval.seen)
        self.account.add(interval.step, interval.elapsed_s, tally, sources, log_point=last)
        if self.rescoring is not None and interval.differences is not None:
            self.rescoring.count(interval.differences, tally)
        remarks = [*estimates.items(), *remarks_on(reading, interval.step, self.account.vocab_size)]
        missing = uncovered(reading.tally.positions, interval.expected, interval.step)
        if missing is not None:
            remarks.append(("uncovered", missing))
        for event, message in remarks:
            self.account.note(event, message)

    def _in_columns(self, interval: Interval, tally: Tally, seen: list[Seen]) -> Columns:
        if self._watch is not None:
            return self._watch.in_columns(tally, seen, replay=interval.replay)
        return Columns(tally.as_replay() if interval.replay else tally, {}, {})

    @_shielded
    def _state_log_point(self) -> None:
        self._log_point("state")

    @_shielded
    def _show_rest(self) -> None:
        """Reach a log point, and show what was added outside of one: dropped rows, a program that grew."""
        self._log_point()
        if self.account.is_open and not self.account.shown:
            self.publish(self.account.live(), self.steps)

    def _rescored(self) -> dict[str, Any]:
        if self.rescoring is None or self.failure is not None:
            return {}
        found = self.rescoring.estimate(self.account.total.nats)
        if isinstance(found, str):
            self.note("not_rescored", found)
            return {}
        return {"rescored": found._asdict()}

    def _loss_remarks(self, waiting: list[_Waiting]) -> list[tuple[str, str]]:
        """Hold the loss that the step returned against the captured nats of the same micro-batch."""
        checked = [(i.step, i.returned_loss, i.first_batch) for i in waiting if i.first_batch is not None]
        readings = read_sums([sums for _, _, sums in checked if sums is not None])
        event = self.route.disagreement if self.route is not None else "not_likelihood"
        messages = [
            not_likelihood(loss, reading.tally, step, masks=event == "disagree")
            for (step, loss, _), reading in zip(checked, readings, strict=True)
            if loss is not None
        ]
        return [(event, message) for message in messages if message is not None]

    def _fail(self, error: Exception) -> None:
        self.failure = f"{type(error).__name__}: {error}"
        self._waiting = []
        with contextlib.suppress(Exception):  # the store may be gone with rank 0
            self.ranks.stop(self.failure)
        if self.ranks.keeps_book:  # else it hears of it
            warn(f"the recording stopped, training goes on, the book is incomplete: {self.failure}")
