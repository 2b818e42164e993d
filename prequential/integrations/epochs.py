"""The epoch of a Lightning fit in which rows come for the first time, however often the fit is resumed within it."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl

from prequential.errors import Harmless
from prequential.integrations.feeding import dropped_rows, missed_rows, starts_over
from prequential.recorder import Recorder


class FirstEpoch:
    """Tells the first epoch from later ones, which are replay, and charges what it left out when it comes to its end.

    Args:
        state: What `state` held at the checkpoint from which the fit is resumed; None for a new run.

    Attributes:
        resuming: Whether the fit is resumed, and has not come to its first micro-batch.
    """

    def __init__(self, state: Sequence[int | None] | None = None) -> None:
        self.resuming = state is not None
        self._number: int | None = None
        self._last_batch = self._fed_again = self._over = False
        if state is not None:
            self._number, *flags = state
            self._last_batch, self._fed_again, self._over = map(bool, flags)

    def state(self) -> list[int | None]:
        """Plain values for a checkpoint."""
        return [self._number, int(self._last_batch), int(self._fed_again), int(self._over)]

    def begin_batch(self, trainer: pl.Trainer, recorder: Recorder, batch_idx: int) -> None:
        """Tell first exposure from replay by the number of the epoch, and a loader that starts over."""
        if self._number is None:
            self._number = trainer.current_epoch
        recorder.replay = trainer.current_epoch > self._number
        if self.resuming and recorder.replay:
            # Where a checkpoint was taken behind the last batch of an epoch, Lightning does not call its end again.
            self.end(trainer, recorder)
        elif self.resuming and batch_idx and starts_over(trainer):
            recorder.feed_again(batch_idx)
            self._fed_again = True
        self.resuming = False

    def end_batch(self, trainer: pl.Trainer) -> None:
        """Note whether this was the last batch of its epoch."""
        self._last_batch = bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)

    def end(self, trainer: pl.Trainer, recorder: Recorder) -> None:
        """Charge what the first epoch left out, if it came to its end; later ones leave out nothing."""
        if self._over:
            return
        with Harmless("whether rows were dropped is not known"):
            rows = dropped_rows(trainer) if self._last_batch else 0
            if self._last_batch and self._fed_again:
                rows += missed_rows(trainer, recorder.account.total.rows)
            if rows:
                recorder.dropped(rows)
        self._over = True
