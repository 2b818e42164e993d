"""Rebuilding the data: each token is decoded under the model that has been trained on those before it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from prequential.bitstream.calls import all_calls
from prequential.bitstream.corpus import Corpus, Positions
from prequential.bitstream.layout import Layout, find_layout
from prequential.bitstream.order import Batch
from prequential.bitstream.stream import beginning, due, sampled
from prequential.coder import BitstreamReader, check_value
from prequential.errors import CoderError


class Decoder:
    """Reads the tokens of one run, micro-batch by micro-batch.

    Args:
        path: The bitstream.
        unended: Whether to take what a killed run left.
        progress: Called after each micro-batch that gave tokens, with their number so far.

    Attributes:
        corpus: The tokens; 0 where one is not known yet.
        passes: Forward passes made so far, beside those of the training.
        held: The last optimiser step at which the parameters were those of the run; None before the first.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, unended: bool = False, progress: Callable[[Decoder], None] | None = None
    ) -> None:
        self._reader = BitstreamReader(path, unended=unended)
        count, self._largest = beginning(self._reader)
        self.corpus = Corpus(torch.zeros(count, dtype=torch.int64))
        self.passes = 0
        self.held: int | None = None
        self._layout: Layout | None = None
        self._progress = progress

    @property
    def known(self) -> int:
        """How many tokens are known."""
        return int(self.corpus.known.sum())

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to be decoded: all tokens are known, or a run was killed here."""
        return self._reader.steps_left == 0

    def shown(self, batch: Any) -> Any:
        """The batch with the tokens in the place of placeholders."""
        return self.corpus.shown(batch)

    def decode(self, batch: Any, step: int, module: nn.Module, rehearse: Callable[[Any], Any]) -> None:
        """Decode the tokens of a micro-batch, before its training step.

        Args:
            batch: The micro-batch, with placeholders.
            step: Optimiser steps that were done before.
            module: What is trained.
            rehearse: Runs the training step on a batch, and leaves nothing behind.

        Raises:
            CoderError: The training is not that of the run.
        """
        if due(step) and self.held != step:
            self._reader.hold(step, check_value(sampled(module)))
            self.held = step if step in self._reader.checks else self.held
        if self._layout is None:
            self._layout = find_layout(self.corpus, batch, rehearse, self._largest + 1)
        planned = Batch(self._layout, batch, self.corpus.known)
        self._fill_uniform(planned.plan.uniform)
        for number in range(len(planned.plan.ends)):
            places = planned.due(number)
            shown = self.shown(batch)
            calls = all_calls(lambda: rehearse(shown))  # noqa: B023  called at once
            self.passes += 1
            self.corpus.fill(planned.positions[places], self._reader.read(planned.logits(calls, places)))
        if self._progress is not None:
            self._progress(self)

    def finish(self) -> None:
        """Decode what the training never predicted.

        Raises:
            CoderError: The stream holds more.
        """
        if not self._reader.ended:
            return
        self._fill_uniform(np.flatnonzero(~self.corpus.known))
        if self._reader.steps_left:
            raise CoderError(
                f"expected the stream to end with the data, got {self._reader.steps_left:,} steps more: decode with "
                "the bundle of the run"
            )

    def _fill_uniform(self, positions: Positions) -> None:
        if len(positions):
            self.corpus.fill(positions, self._reader.read_uniform(len(positions)))
