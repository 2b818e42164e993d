"""`Recording`: the same book, bundle and W&B keys for a training loop written by hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from prequential.integrations.audience import Audience, Publish, rows_of
from prequential.integrations.places import place_in_group
from prequential.integrations.session import Options, Session, known_state, new_book
from prequential.ledger import read_book
from prequential.run import Run


class Recording:
    """Records a training loop: ``with Recording("runs/mine") as recording``.

    Inside, each micro-batch is scored in ``with recording.batch(batch):``, before it is learnt from, and each optimiser
    step is counted with ``recording.step()``. The loss calls in the block are found as `CompressionMonitor` finds them.

    Args:
        ledger: Folder for book and bundle, or path of the book if it ends in ``.jsonl``; must be new.
        config: Resolved configuration of the run, for the bundle.
        device: Where the loss is computed.
        module: What is trained, to tell whether its weights were learnt before, and to price them.
        wandb_run: A W&B run, which gets the live values, a summary, and book and bundle as an artifact.
        publish: Called at log points with quantities by name and the number of steps so far; or several such functions.
        facts: More that the head of the book shall say of the run.
        data_parallel: Rank of this process among those that the data is spread over, and their number; None for those
            of the process group of torch, if there is one. Open the recording on every rank: the first keeps the book.
        state: What `state_dict` returned at the checkpoint from which the loop resumes, or None.
        options: The options of `CompressionMonitor` (``token_bytes``, ``measure``, ``name``, ...); a callable as
            ``measure`` gets None for the module.

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
        config: Mapping[str, Any] | None = None,
        device: Any = "cpu",
        module: Any = None,
        wandb_run: Any = None,
        publish: Publish | Sequence[Publish] = (),
        facts: Mapping[str, Any] | None = None,
        data_parallel: tuple[int, int] | None = None,
        state: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        state = known_state(state)
        ranks = place_in_group(data_parallel)
        functions = ([publish] if callable(publish) else list(publish)) if ranks.keeps_book else []
        wandb_runs = [] if wandb_run is None or not ranks.keeps_book else [wandb_run]
        self._audience = Audience(wandb_runs, [*map(rows_of, wandb_runs), *functions])
        self._steps = 0 if state is None else int(state["account"]["step"])
        self._session = Session(
            Options(**options),
            path=new_book(ledger, resumed=state is not None),
            facts={**self._audience.facts, "world_size": ranks.processes, **(facts or {})},
            configuration=lambda: {"argv": sys.argv[1:], **(config or {})},
            device=device,
            every_n_steps=50,
            publish=self._audience.publish,
            module=module,
            state=state,
            ranks=ranks,
        )
        self._recorder = self._session.recorder
        self._recorder.replay = state is not None and bool(state["later_epoch"])
        self.book = self._recorder.account.path

    def __enter__(self) -> Recording:
        self._audience.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the book with how the loop ended; never swallows or raises an exception."""
        self._session.finish(error, self._audience.end)

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
        with self._recorder.capturing(None, batch):
            yield outputs
        self._recorder.observe(None, batch, outputs)

    def step(self) -> None:
        """Count an optimiser step."""
        self._steps += 1
        self._recorder.step_done(self._steps)

    def epoch(self) -> None:
        """End an epoch: rows that come again are replay; where rows do not tell, all that follows is."""
        self._recorder.epoch_done()
        self._recorder.replay = True

    def state_dict(self) -> dict[str, Any]:
        """All that a loop which resumes here must know: plain values and tensors, for its checkpoint.

        Waits for the device, and forces the book to the disk. Give it back as ``state``. With several ranks, call it on
        each, and save what the first one returns.
        """
        state = self._recorder.state()
        self._recorder.checkpoint()
        return state and {**state, "later_epoch": self._recorder.replay}

    @property
    def run(self) -> Run:
        """The run as its book tells it so far; on the first rank."""
        return read_book(self.book)
