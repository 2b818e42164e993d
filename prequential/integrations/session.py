"""What all doors share: their options, checked once, and one run from its first fact to its summary.

A door translates a framework's hooks; which book, which program, what stands in the header and how a run ends are the
same behind each of them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pydoc import locate
from typing import Any

from prequential.account import Account
from prequential.columns.replay import RowPlan
from prequential.continuation import numbered
from prequential.errors import Harmless, MeasureError, warn
from prequential.integrations.passes import passes
from prequential.integrations.program import Program
from prequential.integrations.start import Start, resumed, start_of
from prequential.integrations.versions import versions
from prequential.ledger import BOOK_NAME, read_book
from prequential.ranks import Alone, Away
from prequential.recorder import STATE_FORMAT, Recorder
from prequential.rescore import check_rescore
from prequential.run import Run
from prequential.tokenbytes import TokenBytes
from prequential.tokenbytes import token_bytes as resolve_token_bytes
from prequential.weights import check_rule

FromBatch = str | int | Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that every door takes; `CompressionMonitor` explains them.

    Raises:
        MeasureError: One of them makes no sense.
    """

    token_bytes: Any = None
    bundle: Any = "auto"
    measure: str | Callable[..., Any] = "auto"
    every_n_steps: int | None = None
    name: str | None = None
    data_name: str | None = None
    baselines: Mapping[str, int] | Callable[[], Mapping[str, int]] | None = None
    charges: Mapping[str, float] | None = None
    repeats: str = "auto"
    source: FromBatch | None = None
    positions: FromBatch | None = None
    corpus_tokens: int | None = None
    weights: str | None = None
    rescore: float | str | None = None
    planned_tokens: int | None = None
    table: TokenBytes | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.every_n_steps is not None and self.every_n_steps < 1:
            raise MeasureError(
                f"expected every_n_steps of at least 1, got {self.every_n_steps}: leave it out for the default"
            )
        if self.planned_tokens is not None and self.planned_tokens < 1:
            raise MeasureError(f"expected planned_tokens of at least 1, got {self.planned_tokens}: leave it out")
        if not all(math.isfinite(bits) and bits >= 0 for bits in (self.charges or {}).values()):
            raise MeasureError(f"expected bits of 0 or more as charges, got {self.charges}: log2 N for the best of N")
        if self.repeats not in ("auto", "replay", "data"):
            raise MeasureError(f"expected repeats to be 'auto', 'replay' or 'data', got {self.repeats!r}: see the docs")
        check_rule(self.weights)
        check_rescore(self.rescore)
        if isinstance(self.measure, str) and self.measure not in ("auto", "outputs", "capture"):
            object.__setattr__(self, "measure", _located(self.measure))
        if self.token_bytes is not None:
            object.__setattr__(self, "table", resolve_token_bytes(self.token_bytes))

    def header(self) -> dict[str, Any]:
        """What the book's first line says of the options."""
        sizes = self.baselines() if callable(self.baselines) else self.baselines
        return {
            "name": self.name,
            "grade": "ideal",
            "data_name": self.data_name,
            "baselines": dict(sizes) if sizes else None,
            "rescore": self.rescore,
            "planned_tokens": self.planned_tokens,
        }


class Session:
    """One run behind one door.

    Args:
        options: What the user asked for.
        path: Path of the book; of a run that is resumed where a new one would have its book, see `continuation`.
        facts: What the door knows for the head of the book, beside options, bundle and versions.
        configuration: Called for the resolved configuration, for the bundle.
        device: Where the loss is computed.
        every_n_steps: Optimiser steps between log points, where the options leave it open.
        publish: Called at log points with quantities by name, and the number of optimiser steps so far.
        draws_once: Whether each epoch is known to draw every row of the data once.
        module: What is trained, before its first update; None if the door does not know it.
        reruns: Whether the door can run a training step again without learning from it.
        state: `Recorder.state` at the checkpoint from which the run is resumed; None for a new run.
        learnt: Why the weights of a new run are known to be learnt before, in a sentence; None if that is not known.
        ranks: This process among those that the data of the run is spread over.

    Raises:
        MeasureError: Weights are to be priced, and there is no module; or ``rescore`` is asked for, and a step cannot
            be run again; or the options are not those of the run that is resumed.
    """

    def __init__(
        self,
        options: Options,
        *,
        path: Path,
        facts: Mapping[str, Any],
        configuration: Callable[[], Mapping[str, Any]],
        device: Any,
        every_n_steps: int,
        publish: Callable[[dict[str, float | int], int], None],
        draws_once: bool = False,
        module: Any = None,
        reruns: bool = False,
        state: Mapping[str, Any] | None = None,
        learnt: str | None = None,
        ranks: Alone | None = None,
    ) -> None:
        self.ranks = ranks or Alone()
        if self.ranks.spread and isinstance(options.rescore, float):
            raise MeasureError(
                f"expected one process for rescore={options.rescore}, got several: give rescore='eval', which scores "
                "every micro-batch on each of them, or leave it out"
            )
        if options.rescore is not None and not reruns:
            raise MeasureError(
                f"expected a training step that can be run again, for rescore={options.rescore!r}: a loop written by "
                "hand and a step that learns by itself (manual optimisation) cannot, leave rescore out"
            )
        self.program = Program(options.bundle, options.table, configuration) if self.ranks.keeps_book else None
        account: Account = Away(path, {**options.header(), **facts})
        if self.program is not None:
            account = _account(path, self.program, options, facts, _start(options, module, state, learnt))
        self.recorder = Recorder(
            account,
            device=device,
            measure=options.measure,
            token_bytes=options.table,
            every_n_steps=options.every_n_steps or every_n_steps,
            publish=publish,
            plan=RowPlan(
                replay_by_rows=options.repeats == "replay" or (options.repeats == "auto" and not draws_once),
                source=_taken(options.source),
                positions=_taken(options.positions),
                corpus_tokens=options.corpus_tokens,
            ),
            state=state,
            ranks=self.ranks,
        )
        if self.program is not None and self.program.bundle is None:  # that before a resume, if there was one
            account.bundle_bytes = account.bundle.get("bundle_bytes")
        self.passes = passes(options.rescore, self.recorder, device)
        if state is not None and self.recorder.rescoring is not None:
            if state["rescoring"] is None:  # it had been given up
                self.recorder.rescoring = None
            else:
                self.recorder.rescoring.load(state["rescoring"])

    def finish(self, error: BaseException | None, summarize: Callable[[Run, list[Path]], None], **more: Any) -> None:
        """End the book, write the bundle beside it, and hand both to ``summarize``; never raises.

        Args:
            error: What ended the training, or None.
            summarize: Called with the run as its book tells it, and the files written.
            more: Facts for the end of the book.
        """
        facts: dict[str, Any] = {}
        self.recorder.last_sums(hurried=error is not None)  # loggers get them with the program that the head names
        if self.program is None:
            self.recorder.finish(_status(error))
            return
        with Harmless("the training program was not looked for again"):
            facts = self.program.look_again(self.recorder.account)
        if error is not None:
            facts["error"] = f"{type(error).__name__}: {error}".removesuffix(": ")
        self.recorder.finish(_status(error), **facts, **more)
        book = self.recorder.account.path
        if book.exists():
            with Harmless("the run has its book, but no summary"):
                files = self.program.written(book)
                summarize(read_book(book), files)


def _start(options: Options, module: Any, state: Mapping[str, Any] | None, learnt: str | None) -> Start:
    """What the run starts from."""
    if state is not None:
        return resumed(state["account"])
    return start_of(module, options.weights, scored_as_trained=options.rescore != "eval", learnt=learnt)


def _account(path: Path, program: Program, options: Options, facts: Mapping[str, Any], start: Start) -> Account:
    """The account of the rank that keeps the book."""
    return Account(
        path,
        header={**options.header(), "bundle": program.manifest, **start.facts, **versions(), **facts},
        charges={**(options.charges or {}), **start.charges},
        remarks=start.remarks,
        bundle_bytes=program.bundle_bytes,
    )


def book_in(ledger: str | os.PathLike[str]) -> Path:
    """Path of the book that ``ledger`` means: a file name that ends in ``.jsonl``, or a folder for it."""
    given = Path(ledger)
    return given if given.suffix == ".jsonl" else given / BOOK_NAME


def known_state(state: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A state from a checkpoint, if it is one that this version can read; None, with a warning, if it is not."""
    if not state or state.get("format") == STATE_FORMAT:
        return state or None
    warn(
        f"expected a state of the monitor in format {STATE_FORMAT}, got {state.get('format')!r}: it is left out, and "
        "the run is recorded as one that begins with the weights of the checkpoint"
    )
    return None


def new_book(
    ledger: str | os.PathLike[str] | None, default: Path = Path("prequential"), *, resumed: bool = False
) -> Path:
    """Path of the book of a new run; no run writes into the book of another.

    Args:
        ledger: A file name that ends in ``.jsonl``, or a folder; or None for a folder that is numbered if it is taken.
        default: That folder.
        resumed: Whether the run is resumed: what is there already is then for `continuation` to judge.

    Raises:
        MeasureError: The book that ``ledger`` means exists.
    """
    if ledger is not None:
        book = book_in(ledger)
        if book.exists() and not resumed:
            raise MeasureError(f"expected a new path for the book, got the existing {book}: name another")
        return book
    if resumed:
        return default / BOOK_NAME
    return next(book for book in numbered(default / BOOK_NAME) if not book.exists())


def _taken(given: FromBatch | None) -> Callable[[Any], Any] | None:
    """Turn a key under which a batch holds something into a function of the batch."""
    if given is None or callable(given):
        return given
    return lambda batch: batch[given]


def _status(error: BaseException | None) -> str:
    if error is None:
        return "completed"
    # Ctrl-C, and SIGTERM, which Lightning turns into a kind of SystemExit.
    return "interrupted" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "failed"


def _located(path: str) -> Callable[..., Any]:
    found = locate(path)
    if not callable(found):
        raise MeasureError(
            f"expected measure to be 'auto', 'outputs', 'capture', a callable or a dotted path to one, got {path!r}"
        )
    return found
