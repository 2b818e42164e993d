"""A bitstream behind the Lightning door: the same script writes it, and reads it where it is started to decode."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor

from prequential.bitstream import Corpus, Encoder
from prequential.bitstream.corpus import as_bytes, encoded, placeholders, read, sha256_of
from prequential.bitstream.job import Job, circumstances
from prequential.capture import LossTap
from prequential.errors import MeasureError
from prequential.integrations.session import Options

BITSTREAM_NAME = "data.bits"
Rehearse = Callable[[Any], Any]
_numbers = itertools.count()


class Writing:
    """Writes the bitstream of a run.

    Args:
        options: Of the monitor.
    """

    def __init__(self, options: Options) -> None:
        if options.rescore is not None or options.measure not in ("auto", "capture"):
            raise MeasureError(
                "expected a run that is coded as it is trained, by its loss calls, for a bitstream, got "
                f"measure={options.measure!r}, rescore={options.rescore!r}: leave both out, or bitstream"
            )
        self._options, self._number = options, next(_numbers)
        self._corpus: Corpus | None = None
        self._facts: dict[str, Any] = {}
        self.encoder: Encoder | None = None

    def tokens(self, source: Any) -> Tensor:
        """Read the data, and give placeholders for its tokens."""
        if self._corpus is not None:
            raise MeasureError("expected one call of monitor.tokens, got a second: give it all data at once")
        data = read(source)
        self._corpus = Corpus(encoded(data, self._options.table))
        self._facts = {"tokens": len(self._corpus), "raw_bytes": len(data), "sha256": sha256_of(data)}
        return placeholders(len(self._corpus))

    def configuration(self) -> dict[str, Any]:
        """What a receiver must know to start the program: its main script, and which of its runs this is."""
        main = sys.modules.get("__main__")
        spec = getattr(main, "__spec__", None)
        name = spec.name if spec is not None else Path(getattr(main, "__file__", None) or "").name
        return {"bitstream": {"main": name, "run": self._number}}

    def facts(self, *, reruns: bool) -> dict[str, Any]:
        """What the head of the book says of the stream.

        Args:
            reruns: Whether a training step can be run again without learning from it.

        Raises:
            MeasureError: It cannot, or the data was not read by the monitor.
        """
        if self._corpus is None:
            raise MeasureError(
                "expected the script to read its data by monitor.tokens(data), for a bitstream, it did not: let it, or "
                "leave bitstream out"
            )
        if not reruns:
            raise MeasureError(
                "expected a training step that can be run again, for a bitstream: under manual optimisation it cannot, "
                "leave bitstream out"
            )
        return {"bitstream": {"file": BITSTREAM_NAME, **self._facts, "circumstances": circumstances()}}

    def begin(self, module: pl.LightningModule, book: Path, state: Mapping[str, Any] | None) -> None:
        """Make ready to write.

        Args:
            module: What is trained.
            book: Beside which the stream lies.
            state: `state` at the checkpoint from which the run is resumed; None for a new run.
        """
        assert self._corpus is not None
        self._corpus.known[:] = False
        book.parent.mkdir(parents=True, exist_ok=True)
        self.encoder = Encoder(book.with_name(BITSTREAM_NAME), self._corpus, module, state)

    def prepare(self, batch: Any, step: int, module: pl.LightningModule, rehearse: Rehearse) -> None:
        """Make ready to code a micro-batch.

        Args:
            batch: The micro-batch, with placeholders.
            step: Optimiser steps that were done before.
            module: What is trained.
            rehearse: Runs the training step on a batch, and leaves nothing behind.
        """
        if self.encoder is not None:
            self.encoder.prepare(batch, step, rehearse)

    def coding(self, step: Callable[..., Any], tap: LossTap | None) -> Callable[..., Any]:
        """A training step that writes what was prepared, as the tap has heard it."""
        encoder = self.encoder
        assert encoder is not None
        assert tap is not None
        tap.listener = encoder.take

        def training_step(*args: Any, **kwargs: Any) -> Any:
            outputs = step(*args, **kwargs)
            if torch.is_grad_enabled():
                encoder.write()
            return outputs

        return training_step

    def shown(self, batch: Any) -> Any:
        """The batch with the tokens in the place of placeholders."""
        return batch if self._corpus is None else self._corpus.shown(batch)

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint keeps of the stream."""
        return None if self.encoder is None else self.encoder.state()

    def flush(self) -> None:
        """Transfer and encode what waits; for log points."""
        if self.encoder is not None:
            self.encoder.flush()

    def close(self, *, whole: bool) -> dict[str, Any]:
        """End the stream; facts for the end of the book."""
        facts = None if self.encoder is None else self.encoder.close(whole=whole)
        return {} if facts is None else {"bitstream": facts}


class Reading:
    """Decodes the bitstream that the process was started for.

    Args:
        options: Of the monitor.
        job: What is to be decoded.
    """

    def __init__(self, options: Options, job: Job) -> None:
        self._options, self._job = options, job
        self._wanted = next(_numbers) == job.run if job.run is not None else True
        self._decoder = job.decoder()

    def tokens(self, source: Any) -> Tensor:
        """Give placeholders; the data need not be there."""
        return placeholders(len(self._decoder.corpus))

    def setup(self, trainer: pl.Trainer) -> None:
        """Write nothing; pass over a training that is not the one to be decoded."""
        trainer.loggers = [DummyLogger()] if trainer.loggers else []
        connector: Any = trainer._checkpoint_connector  # a checkpoint knows the data
        connector.resume_start = lambda *ignored, **options: None
        trainer.save_checkpoint = lambda *ignored, **options: None  # type: ignore[method-assign]
        self._job.set_up()
        if not self._wanted:
            trainer.limit_train_batches = 0

    def prepare(self, batch: Any, step: int, module: pl.LightningModule, rehearse: Rehearse) -> None:
        """Decode a micro-batch, before its training step."""
        decoder = self._decoder
        with self._job.watched():
            if self._job.is_done(decoder, step):
                self._job.done(decoder, self._bytes)
            decoder.decode(batch, step, module, rehearse)
            if decoder.exhausted and decoder.known == len(decoder.corpus):
                self._job.done(decoder, self._bytes)

    def shown(self, batch: Any) -> Any:
        """The batch with the tokens in the place of placeholders."""
        return self._decoder.shown(batch)

    def end(self) -> None:
        """Decode what the training never predicted."""
        if self._wanted:
            with self._job.watched():
                self._decoder.finish()
                self._job.done(self._decoder, self._bytes)

    def _bytes(self, tokens: Tensor) -> bytes:
        return as_bytes(tokens, self._options.table)


def streaming(options: Options) -> tuple[Writing | None, Reading | None]:
    """Write a bitstream, or read the one that this process was started for."""
    job = Job.of_process()
    return (Writing(options), None) if job is None else (None, Reading(options, job))
