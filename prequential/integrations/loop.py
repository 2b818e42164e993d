"""`Recording`: the same book, bundle and W&B keys for a training loop written by hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from prequential.errors import Harmless, MeasureError
from prequential.integrations import wandb as door_to_wandb
from prequential.integrations.program import Program
from prequential.integrations.versions import versions
from prequential.ledger import BOOK_NAME, read_book
from prequential.recorder import Recorder
from prequential.run import Run
from prequential.tokenbytes import token_bytes as resolve_token_bytes


class Recording:
    """Records a training loop: ``with Recording("runs/mine") as recording``.

    Inside, each micro-batch is scored in ``with recording.batch(batch):``, before it is learnt from, and each optimiser
    step is counted with ``recording.step()``. The loss calls in the block are found as `CompressionMonitor` finds them.

    Args:
        ledger: Folder for book and bundle, or path of the book if it ends in ``.jsonl``; must be new.
        token_bytes: Bytes per token id, see `token_bytes`; None if unknown.
        bundle: ``"auto"`` finds the training program; or a ready `Bundle`; or None to leave the program out.
        measure: ``"auto"``, ``"outputs"``, ``"capture"``, or a callable ``(None, batch, outputs)`` that returns
            ``{"nats", "tokens"}``.
        config: Resolved configuration of the run, for the bundle.
        device: Where the loss is computed.
        every_n_steps: Optimiser steps between log points.
        name: Name of the run in tables. Default: the folder's.
        data_name: Declared name of the data, so that runs that cut it differently can be compared.
        baselines: Sizes in bytes of the same data under other codes, by name.
        charges: Bits of choices made with sight of the data, by name.
        wandb_run: A W&B run, which gets the live values, a summary, and book and bundle as an artifact.
        publish: Called at log points with quantities by name and the number of steps so far.

    Example:
        >>> import torch
        >>> with Recording("doc/loop", bundle=None) as recording:
        ...     for targets in torch.arange(8).split(4):
        ...         with recording.batch(targets):
        ...             loss = torch.nn.functional.cross_entropy(torch.zeros(4, 8), targets)
        ...         recording.step()
        >>> recording.run.total.coded_tokens
        8
    """

    def __init__(
        self,
        ledger: str | os.PathLike[str],
        *,
        token_bytes: Any = None,
        bundle: Any = "auto",
        measure: str | Callable[..., Any] = "auto",
        config: Mapping[str, Any] | None = None,
        device: Any = "cpu",
        every_n_steps: int = 50,
        name: str | None = None,
        data_name: str | None = None,
        baselines: Mapping[str, int] | None = None,
        charges: Mapping[str, float] | None = None,
        wandb_run: Any = None,
        publish: Callable[[dict[str, float | int], int], None] | None = None,
    ) -> None:
        self.book = Path(ledger) if str(ledger).endswith(".jsonl") else Path(ledger) / BOOK_NAME
        if self.book.exists():
            raise MeasureError(f"expected a new path for the book, got the existing {self.book}: name another")
        table = None if token_bytes is None else resolve_token_bytes(token_bytes)
        self._program = Program(bundle, table, lambda: {"argv": sys.argv[1:], **(config or {})})
        self._wandb_run, self._publish = wandb_run, publish
        self._steps = 0
        self._recorder = Recorder(
            self.book,
            header={
                "name": name,
                "grade": "ideal",
                "bundle": self._program.manifest,
                "data_name": data_name,
                "baselines": dict(baselines) if baselines else None,
                "wandb": None if wandb_run is None else door_to_wandb.identity(wandb_run),
                **versions(),
            },
            device=device,
            measure=measure,
            token_bytes=table,
            bundle_bytes=self._program.bundle_bytes,
            charges=charges or {},
            every_n_steps=every_n_steps,
            publish=self._published,
        )

    def __enter__(self) -> Recording:
        if self._wandb_run is not None:
            with Harmless("W&B knows no x-axis"):
                door_to_wandb.declare_metrics(self._wandb_run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the book with how the loop ended; never swallows or raises an exception."""
        status = "completed" if error is None else "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        facts: dict[str, Any] = {}
        with Harmless("the training program was not looked for again"):
            facts = self._program.look_again(self._recorder)
        self._recorder.finish(status, **facts)
        if self.book.exists():
            with Harmless("the run has its book, but no summary"):
                self._summarize()

    @contextmanager
    def batch(self, batch: Any = None) -> Iterator[dict[str, Any]]:
        """Score one micro-batch: compute its loss inside, learn from it outside.

        Args:
            batch: The micro-batch, as tensors in lists, tuples or mappings; it identifies the data.

        Yields:
            A dict that may be filled: ``"loss"``, to be held against the code length; or ``"nats"`` and ``"tokens"``
            where the loop sums them itself.

        Raises:
            MeasureError: In the first micro-batch, where its code length cannot be found.
        """
        outputs: dict[str, Any] = {}
        with self._recorder.capturing():
            yield outputs
        self._recorder.observe(None, batch, outputs)

    def step(self) -> None:
        """Count an optimiser step."""
        self._steps += 1
        self._recorder.step_done(self._steps)

    def epoch(self) -> None:
        """End an epoch: what follows has been coded already, and is replay."""
        self._recorder.epoch_done()
        self._recorder.replay = True

    @property
    def run(self) -> Run:
        """The run as its book tells it so far."""
        return read_book(self.book)

    def _published(self, values: dict[str, float | int], steps: int) -> None:
        if self._wandb_run is not None:
            self._wandb_run.log({door_to_wandb.PREFIX + name: value for name, value in values.items()})
        if self._publish is not None:
            self._publish(values, steps)

    def _summarize(self) -> None:
        files = self._program.written(self.book)
        if self._wandb_run is not None:
            facts = door_to_wandb.headline(self.run)
            door_to_wandb.summarize(self._wandb_run, facts)
            door_to_wandb.attach(self._wandb_run, files, facts)
