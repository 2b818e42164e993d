"""Reading a bitstream: logits in, the tokens that were written out, one after the other."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prequential.coder import checks, stream
from prequential.coder.frequencies import Tables
from prequential.coder.ranges import Decoder, strayed
from prequential.errors import CoderError

_AT_ONCE = 2**20  # edges handed over at a time


class BitstreamReader:
    """Decode the tokens of a file, given the probabilities that they were written with, in the same order.

    Attributes:
        symbols: The vocabulary.
        ended: Whether the stream was closed; if not, a run was killed after what is here.
        steps_left: Steps of the code that were not decoded yet: one a token for up to 1024 symbols, else two.
    """

    def __init__(self, path: str | os.PathLike[str], *, unended: bool = False) -> None:
        """Read a file once and hold its checksums.

        Args:
            path: The bitstream; its check values are read from beside it, where there are any.
            unended: Whether to take what a killed run left.

        Raises:
            CoderError: If it is no bitstream, damaged or cut off, or the package constriction is not installed.
        """
        layout = stream.read_layout(path, unended=unended)
        self.path, self.symbols, self.ended, self.steps_left = Path(path), layout.symbols, layout.ended, layout.steps
        self._segments = iter(layout.segments)
        self._decoder = Decoder(b"", 0)
        aside = checks.checks_path(path)
        self.checks = checks.read_checks(aside)[0] if aside.exists() else {}

    def read(self, logits: Tensor) -> Tensor:
        """Decode one token for each row of logits.

        Args:
            logits: Shape (leading..., V), the very ones that the tokens were written with.

        Returns:
            Token ids, shape (leading...), int64, on the device of the logits.

        Raises:
            CoderError: If the stream has no more, or the logits are others.
        """
        rows = logits.detach().reshape(-1, logits.shape[-1])
        return self._tokens(Tables(rows), len(rows)).reshape(logits.shape[:-1]).to(logits.device)

    def read_uniform(self, count: int, symbols: int | None = None) -> Tensor:
        """Decode tokens under the uniform code over the vocabulary, or over other numbers; shape (count,), int64."""
        nothing = torch.full((1, symbols or self.symbols), float("nan"))
        return self._tokens(Tables(nothing), count)

    def hold(self, step: int, value: int | Tensor) -> None:
        """Hold a check value against the one that was written for this step, if any was.

        Raises:
            CoderError: If they differ, because then nothing that follows can be decoded.
        """
        expected, found = self.checks.get(step), int(value) % 2**64
        if expected not in (None, found):
            raise CoderError(
                f"decoding strays before step {step}: expected parameters {expected:016x}, got {found:016x}; decode "
                "with the seeds, on the device, thread count and build of the run"
            )

    def _tokens(self, tables: Tables, count: int) -> Tensor:
        """Decode ``count`` tokens, one a row of the tables; a single row stands for all."""
        first = tables.first().edges().cpu().numpy()
        if tables.groups == 1:
            return torch.from_numpy(self._steps(np.broadcast_to(first, (count, first.shape[1]))))
        tokens = torch.empty(count, dtype=torch.int64)
        for i in range(count):
            row = i % len(first)
            group = torch.from_numpy(self._steps(first[row : row + 1])).to(tables.weights.device)
            edges = tables.second(group.new_full((1,), row), group).edges().cpu().numpy()
            tokens[i] = int(group) * tables.size + int(self._steps(edges)[0])
        if count and int(tokens.max()) >= tables.symbols:
            raise strayed()
        return tokens

    def _steps(self, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Decode one step a row of edges, from as many segments as it takes."""
        left, many = self.steps_left, max(1, _AT_ONCE // edges.shape[1])
        if len(edges) > left:
            raise CoderError(f"{self.path} has {left:,} steps of its code left, and {len(edges):,} were asked for")
        found = np.empty(len(edges), dtype=np.int64)
        while self.steps_left > left - len(edges):
            while not self._decoder.steps:
                self._decoder = Decoder(*stream.read_segment(self.path, next(self._segments)))
            done = left - self.steps_left
            part = edges[done : done + min(many, self._decoder.steps)]
            found[done : done + len(part)] = self._decoder.decode(part)
            self.steps_left -= len(part)
        return found
