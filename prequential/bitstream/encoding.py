"""Writing the bitstream in the training pass as it is, and trying on the way whether it could be decoded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prequential.bitstream.calls import all_calls, scores_of
from prequential.bitstream.corpus import Corpus, Positions
from prequential.bitstream.layout import Layout, find_layout
from prequential.bitstream.order import Batch
from prequential.bitstream.stream import begin, due, sampled
from prequential.coder import BitstreamWriter, check_value, checks_path, frequencies, uniform_frequencies
from prequential.errors import MeasureError, PrequentialError, warn

# Passes of the first micro-batch that are tried, spread over it; of later ones, one at the 2nd, 4th, 8th, ...
_TRIED = 4


class Encoder:
    """Writes the tokens of one run.

    Args:
        path: The bitstream.
        corpus: Its tokens.
        module: What is trained.
        state: What `state` gave at the checkpoint from which the run is resumed; None for a new run.

    Attributes:
        failure: Why the stream stopped before the training did, or None.
        uniform_tokens: Tokens sent by the uniform code so far.
    """

    def __init__(
        self, path: str | os.PathLike[str], corpus: Corpus, module: nn.Module, state: Mapping[str, Any] | None = None
    ) -> None:
        self.path, self.corpus = Path(path), corpus
        self.failure: str | None = None
        self.uniform_tokens = 0
        self._module = module
        self._layout: Layout | None = None
        self._writer: BitstreamWriter | None = None
        self._batches, self._checked, self._coded = 0, -1, False
        self._wrong: list[Tensor] = []
        self._prepared: Batch | None = None
        self._taken: list[tuple[Tensor, Tensor]] = []
        if state is not None:
            self._batches, self._coded = int(state["batches"]), True
            try:
                self._resume(state)
            except Exception as error:
                self._fail(error)

    def shown(self, batch: Any) -> Any:
        """The batch with the tokens in the place of placeholders."""
        return self.corpus.shown(batch)

    def prepare(self, batch: Any, step: int, rehearse: Callable[[Any], Any]) -> None:
        """Plan a micro-batch before its training step, and try to decode a part of it if it is time.

        Args:
            batch: The micro-batch, with placeholders.
            step: Optimiser steps that were done before.
            rehearse: Runs the training step on a batch, and leaves nothing behind.

        Raises:
            MeasureError: In the first micro-batch, where the run cannot be decoded.
        """
        self._prepared, self._taken = None, []
        if self.failure is not None:
            return
        try:
            self._prepared = self._planned(batch, step, rehearse)
        except Exception as error:
            self._fail(error)

    def take(self, name: str, call: Mapping[str, Any]) -> None:
        """Take in a loss call of the training step, as `LossTap` hears it; does not wait for the device."""
        prepared = self._prepared
        if prepared is None or not torch.is_grad_enabled():  # another pass, not the training's
            return
        if not len(prepared.plan.order):  # all of it came before
            return
        try:
            scores = scores_of(name, call)
            if scores is not None:
                with torch._C.DisableTorchFunction():
                    self._taken.append((frequencies(scores.logits, scores.targets), scores.targets))
        except Exception as error:
            self._fail(error)

    def write(self) -> None:
        """Write what the training step of the prepared micro-batch has shown.

        Raises:
            MeasureError: In the first micro-batch, where the run cannot be decoded.
        """
        prepared, taken = self._prepared, self._taken
        self._prepared, self._taken = None, []
        if prepared is None or self.failure is not None:
            return
        try:
            self._write(prepared, [pairs for pairs, _ in taken], [targets for _, targets in taken])
            self._coded = True
        except Exception as error:
            self._fail(error)

    def flush(self) -> None:
        """Transfer and encode what waits; for log points."""
        if self._writer is None or self.failure is not None:
            return
        try:
            self._check_targets()
            self._writer.flush()
        except Exception as error:
            self._fail(error)

    def state(self) -> dict[str, Any] | None:
        """Seal the stream, and give what a run that resumes from here must know; None where nothing was written."""
        self.flush()
        if self._writer is None or self._layout is None or self.failure is not None:
            return None
        try:
            return {
                "path": str(self.path.resolve()),
                "writer": self._writer.state_dict(),
                "known": torch.from_numpy(np.packbits(self.corpus.known)),
                "layout": list(self._layout),
                "uniform_tokens": self.uniform_tokens,
                "batches": self._batches,
            }
        except Exception as error:
            self._fail(error)
            return None

    def close(self, *, whole: bool) -> dict[str, Any] | None:
        """Write what was never predicted, by the uniform code, and the end of the stream; facts for the book.

        Args:
            whole: Whether the training came to its end; else the stream ends with what was coded, and has no end.
        """
        self._coded = True  # nothing is raised any more
        try:
            self._close(whole=whole)
        except Exception as error:
            self._fail(error)
        writer = self._writer
        if writer is None:
            return None if self.failure is None else {"whole": False, "failure": self.failure}
        facts = {
            "bytes": writer.bytes_written,
            "frequency_bits": writer.frequency_bits,
            "uniform_tokens": self.uniform_tokens,
            "symbols": writer.symbols,
            "whole": whole and self.failure is None,
        }
        return facts if self.failure is None else {**facts, "failure": self.failure}

    # -- inside -------------------------------------------------------------------------------------------------

    def _close(self, *, whole: bool) -> None:
        if self._writer is None or self.failure is not None:
            return
        self._check_targets()
        if whole:
            self._send(np.flatnonzero(~self.corpus.known))
            self._writer.close()
        else:
            self._writer.seal()

    def _resume(self, state: Mapping[str, Any]) -> None:
        """Cut the stream back to the checkpoint; where the run has another folder by now, go on in a copy."""
        before = Path(state["path"])
        if before != self.path.resolve():
            for old, new in ((before, self.path), (checks_path(before), checks_path(self.path))):
                shutil.copyfile(old, new)
        self._writer = BitstreamWriter.resume(self.path, dict(state["writer"]))
        self.corpus.known[:] = np.unpackbits(state["known"].numpy(), count=len(self.corpus)).astype(np.bool_)
        self._layout = Layout(*state["layout"])
        self.uniform_tokens = int(state["uniform_tokens"])

    def _planned(self, batch: Any, step: int, rehearse: Callable[[Any], Any]) -> Batch:
        first = self._writer is None
        if first:
            self._settle(batch, rehearse)
        assert self._layout is not None
        assert self._writer is not None
        if due(step) and step != self._checked:
            self._checked = step
            self._writer.check(step, check_value(sampled(self._module)))
        prepared = Batch(self._layout, batch, self.corpus.known)
        self._batches += 1
        if self._batches & (self._batches - 1) == 0:
            self._try(prepared, batch, rehearse, _TRIED if first else 1)
        return prepared

    def _settle(self, batch: Any, rehearse: Callable[[Any], Any]) -> None:
        largest = int(self.corpus.tokens.max())
        shown = self.shown(batch)
        symbols = all_calls(lambda: rehearse(shown))[0].logits.shape[1]
        self._layout = find_layout(self.corpus, batch, rehearse, largest + 1)
        self._writer = begin(self.path, symbols, len(self.corpus), largest)

    def _try(self, prepared: Batch, batch: Any, rehearse: Callable[[Any], Any], count: int) -> None:
        """Run the step as a decoder would, with what is not known yet left blank, for some of the passes."""
        passes = len(prepared.plan.ends)
        some = sorted({(2 * i + 1) * passes // (2 * count) for i in range(min(count, passes))}) if passes else []
        for number in some:
            places, blank = prepared.due(number), prepared.positions[prepared.plan.order[prepared.begin(number) :]]
            restore = self.corpus.blanked(blank)
            try:
                shown = self.shown(batch)
            finally:
                restore()
            calls = all_calls(lambda: rehearse(shown))  # noqa: B023  called at once
            logits = prepared.logits(calls, places)
            prepared.tried.append((places, frequencies(logits, self._tokens_at(prepared.positions[places]))))

    def _write(self, prepared: Batch, pairs: list[Tensor], targets: list[Tensor]) -> None:
        assert self._writer is not None
        sizes = [len(part) for part in targets]
        self._hold(prepared, pairs, sizes)
        self._send(prepared.plan.uniform)
        order = prepared.plan.order
        if not len(order):
            return
        chosen = torch.from_numpy(prepared.flat(sizes)[order]).to(pairs[0].device)
        expected = self._tokens_at(prepared.positions[order])
        self._wrong.append((_joined(targets)[chosen] != expected).sum())
        self._writer.write(_joined(pairs)[chosen])

    def _hold(self, prepared: Batch, pairs: list[Tensor], sizes: list[int]) -> None:
        """Hold what was tried against the training pass."""
        for places, tried in prepared.tried:
            chosen = torch.from_numpy(prepared.flat(sizes)[places]).to(tried.device)
            if not torch.equal(_joined(pairs)[chosen], tried):
                raise MeasureError(
                    "expected the same logits when the tokens that a decoder does not know yet are blank, for a "
                    "bitstream, got others: the model sees what it codes (no causal mask), mixes rows (batch "
                    "normalisation), or does not compute alike twice; mend it, or leave bitstream out"
                )

    def _send(self, positions: Positions) -> None:
        """Send tokens by the uniform code."""
        if self._writer is None or not len(positions):
            return
        self._writer.write(uniform_frequencies(self._tokens_at(positions), self._writer.symbols))
        self.corpus.known[positions] = True
        self.uniform_tokens += len(positions)

    def _tokens_at(self, positions: Positions) -> Tensor:
        return self.corpus.tokens[torch.from_numpy(positions).to(self.corpus.tokens.device)]

    def _check_targets(self) -> None:
        wrong, self._wrong = self._wrong, []
        count = int(torch.stack(wrong).sum()) if wrong else 0
        if count:
            raise MeasureError(f"the step scored {count:,} targets that its batch does not show where it did before")

    def _fail(self, error: Exception) -> None:
        if not self._coded:  # nothing was learnt yet
            if isinstance(error, PrequentialError):
                raise error
            got = f"{type(error).__name__}: {error}"
            raise MeasureError(f"expected a run that can be written as a bitstream, got {got}; leave bitstream out")
        self.failure = f"{type(error).__name__}: {error}"
        warn(f"the bitstream stopped, training goes on, it cannot be decoded: {self.failure}")


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
