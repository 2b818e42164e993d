"""`CompressionMonitor`: the callback that turns a Lightning training run into a code length."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from prequential.errors import MeasureError
from prequential.integrations.audience import Audience, rows_for
from prequential.integrations.circumstances import (
    book_path,
    circumstances,
    configuration,
)
from prequential.integrations.epochs import FirstEpoch
from prequential.integrations.feeding import draws_once
from prequential.integrations.passes import CausalityAudit
from prequential.integrations.places import place_of
from prequential.integrations.session import Options, Session, known_state
from prequential.integrations.wandb import prefixed
from prequential.recorder import Recorder
from prequential.rehearsal import rehearsal
from prequential.run import Run

if TYPE_CHECKING:
    from prequential.integrations.bitstreams import Reading, Writing


class CompressionMonitor(pl.Callback):
    """Measures how well a run compresses its data, while it trains.

    ``compressed_bytes = (sum of -log2 p(token), each scored before it is learnt from) / 8 + bundle_bytes``.

    Add it to the trainer's callbacks; the module stays as it is. The running estimate appears in the progress bar and
    in every logger of the trainer under ``prequential/``; the book and the bundle lie in the trainer's log directory.

    Args:
        token_bytes: Bytes per token id: ``"bytes"``, a tokenizer, a character vocabulary, a table, or a dotted path to
            one of these. Without it bits per token are reported, and a ratio against the uniform code.
        bundle: ``"auto"`` finds the training program; or a ready `Bundle`; or None to leave the program out, said so.
        measure: ``"auto"``; ``"outputs"`` takes ``{"loss", "nats", "tokens"}`` from ``training_step``; ``"capture"``
            watches its cross-entropy calls; or a callable ``(module, batch, outputs) -> {"nats", "tokens"}``, or a
            dotted path to one.
        ledger: Path of the book, or of a folder for it. Default: ``prequential/`` in the trainer's log directory.
        every_n_steps: Optimiser steps between log points. Default: the trainer's ``log_every_n_steps``.
        name: Name of the run in tables. Default: the logger's, else the folder's.
        data_name: Declared name of the data, so that runs that cut it differently can be compared.
        baselines: Sizes in bytes of the same data under other codes, by name, to be shown beside the run; or a function
            that returns them, called when training starts.
        charges: Bits of choices made with sight of the data, by name: ``{"best of 8 runs": 3.0}``.
        repeats: What rows that came before are: ``"replay"``, fed again by the program and free; ``"data"``, which
            repeats itself and is charged again; ``"auto"``, data where the loader draws each row once, else replay.
        source: Key under which a batch holds the source of each row (a name or a number), or a function of the batch;
            the book then keeps sums by source.
        positions: Key under which a batch holds the token of the corpus at which each row begins, or a function of the
            batch: whether rows overlap is then counted exactly.
        corpus_tokens: Length of the corpus in tokens, for those that were never coded.
        weights: How to price weights learnt before the run: ``"2 bytes a parameter"``, ``"bytes"``, ``"xz"``, or the
            path of a weight file. None looks for signs of them; if there are any, the result is K(D | θ0) and says so.
            ``"fresh"`` states that there are none.
        rescore: ``"eval"`` scores each micro-batch in evaluation mode, before its update, by an extra pass, and these
            nats are the code; a share such as 0.05 does it for so many of them, at random, and gives an estimate beside
            the code; None scores the training step itself.
        planned_tokens: Tokens of the data that the run is to code, for the forecast of its size. Default: by the
            trainer's limits and the tokens a step so far.
        audit: ``"full"`` runs the first training step twice more, without gradients, to see whether the model sees
            what it codes (and later ones, while it looks at no token yet); None does not.
        bitstream: Whether to write the data as a bitstream beside the book while the run trains, from which
            ``prequential decode`` gets it back. The script then reads its data by `tokens`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[CompressionMonitor(token_bytes="bytes")], logger=False)
    """

    takes_over = False

    def __init__(
        self,
        *,
        token_bytes: Any = None,
        bundle: Any = "auto",
        measure: str | Callable[..., Any] = "auto",
        ledger: str | os.PathLike[str] | None = None,
        every_n_steps: int | None = None,
        name: str | None = None,
        data_name: str | None = None,
        baselines: Mapping[str, int] | Callable[[], Mapping[str, int]] | None = None,
        charges: Mapping[str, float] | None = None,
        repeats: str = "auto",
        source: str | int | Callable[[Any], Any] | None = None,
        positions: str | int | Callable[[Any], Any] | None = None,
        corpus_tokens: int | None = None,
        weights: str | None = None,
        rescore: float | str | None = None,
        planned_tokens: int | None = None,
        audit: str | None = None,
        bitstream: bool = False,
    ) -> None:
        self.options = Options(
            token_bytes=token_bytes,
            bundle=bundle,
            measure=measure,
            every_n_steps=every_n_steps,
            name=name,
            data_name=data_name,
            baselines=baselines,
            charges=charges,
            repeats=repeats,
            source=source,
            positions=positions,
            corpus_tokens=corpus_tokens,
            weights=weights,
            rescore=rescore,
            planned_tokens=planned_tokens,
        )
        if audit not in (None, "full"):
            raise MeasureError(f"expected audit to be 'full' or None, got {audit!r}: leave it out for none")
        self.ledger, self.audit = ledger, audit
        self.causality: CausalityAudit | None = None
        self.from_environment = False
        self._writing: Writing | None = None
        self._reading: Reading | None = None
        if bitstream:
            from prequential.integrations.bitstreams import streaming

            self._writing, self._reading = streaming(self.options)
        self._session: Session | None = None
        self._path: Path | None = None
        self._first_call = True
        self._last_global_step = 0
        self._audience: Audience | None = None
        self._loaded: Mapping[str, Any] | None = None  # from the checkpoint that this fit resumes
        self._kept: dict[str, Any] = {}  # for checkpoints after the end of the recording
        self._scratch: TemporaryDirectory[str] | None = None  # of a fast_dev_run, which leaves nothing behind
        self._epoch = FirstEpoch()

    @property
    def state_key(self) -> str:
        """Under which name checkpoints keep the state; Lightning wants no two callbacks of one name in a trainer."""
        return type(self).__qualname__ + (" from the environment" if self.from_environment else "")

    @property
    def recorder(self) -> Recorder | None:
        """The run being recorded; None outside of ``fit``."""
        return self._session.recorder if self._session is not None else None

    @property
    def book(self) -> Path | None:
        """Path of the book of this fit, or of the last one; None before the first."""
        return self._path

    def tokens(self, source: Any) -> Tensor:
        """Read the data of the run: token ids, int64, shape (N,).

        With ``bitstream=True`` what is returned are placeholders: large numbers, one a token, that the script may cut,
        pad, shuffle, stack and shift, but not compute with. The monitor puts the tokens in their place just before each
        training step. Where the run is decoded, ``source`` is not looked at.

        Args:
            source: Bytes, the path of a file, or a function that returns bytes. They are encoded by ``token_bytes``,
                or are tokens themselves.

        Raises:
            MeasureError: There is no data, or the tokenizer does not give it back byte for byte.
        """
        stream = self._writing or self._reading
        if stream is not None:
            return stream.tokens(source)
        from prequential.bitstream.corpus import encoded, read

        return encoded(read(source), self.options.table)

    # -- hooks --------------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Declare the metrics of every W&B run, before the first row."""
        if stage != "fit" or self._stands_back(trainer):
            return
        self._loaded, self._kept = None, {}
        others = [other for other in _callbacks(trainer) if isinstance(other, CompressionMonitor) and other is not self]
        if any(not (other.from_environment or other._stands_back(trainer)) for other in others):
            raise MeasureError(
                "expected one CompressionMonitor in a trainer, got several, which would measure it twice: leave one in"
            )
        if self._reading is not None:
            self._reading.setup(trainer)
            return
        if trainer.world_size > 1:
            self._refuse_in_step(trainer)
        if not trainer.is_global_zero:
            return
        wandb_runs = [logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        self._audience = Audience(wandb_runs, [rows_for(logger) for logger in trainer.loggers], self._note_failure)
        self._audience.begin()

    def state_dict(self) -> dict[str, Any]:
        """All that a run which resumes from this checkpoint must know: plain values and tensors."""
        if self._session is None:
            return dict(self._loaded or self._kept)
        state = self._session.recorder.state()
        stream = None if self._writing is None else self._writing.state()
        return state and {**state, "first_epoch": self._epoch.state(), "bitstream": stream}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint, when training starts."""
        self._loaded = known_state(state_dict)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Find the state under the other name: with the environment variable once, and once in the script."""
        states = checkpoint.get("callbacks") or {}
        names = [name for name in states if str(name).startswith(CompressionMonitor.__qualname__)]
        if names and self.state_key not in states and not self.takes_over:
            self.load_state_dict(states[names[0]])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the training program and begin to record."""
        if self._stands_back(trainer):
            return
        if self._reading is not None:
            self._wrap_decoding(trainer, self._reading)
            return
        of_stream = {} if self._writing is None else self._writing.facts(reruns=_reruns(pl_module))
        state, self._loaded = self._loaded, None
        if vars(trainer)["fast_dev_run"]:
            self._scratch = TemporaryDirectory()
        ledger = self._scratch.name if self._scratch is not None else self.ledger
        self._path = book_path(trainer, ledger, resumed=state is not None)
        self._last_global_step = trainer.global_step
        self._epoch = FirstEpoch(None if state is None else state["first_epoch"])
        spread: Any = getattr(trainer.strategy, "distributed_sampler_kwargs", None)
        place, size = (spread["rank"], spread["num_replicas"]) if spread else (0, 1)
        self._session = Session(
            self.options,
            path=self._path,
            facts=circumstances(trainer) | of_stream,
            configuration=lambda: (
                configuration(trainer, pl_module) | ({} if self._writing is None else self._writing.configuration())
            ),
            device=pl_module.device,
            every_n_steps=max(1, vars(trainer)["log_every_n_steps"]),
            publish=lambda values, steps: self._publish(trainer, values, steps),
            draws_once=draws_once(trainer),
            module=pl_module,
            reruns=_reruns(pl_module),
            state=state,
            learnt=_learnt(trainer),
            ranks=place_of(place, size, trainer.world_size),
        )
        self._path = self._session.recorder.account.path
        if self._writing is not None:
            self._writing.begin(pl_module, self._path, None if state is None else state.get("bitstream"))
        self._wrap_training_step(trainer, self._session.recorder)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Tell first exposure from replay."""
        self._first_call = True
        if self.recorder is not None:
            self._epoch.begin_batch(trainer, self.recorder, batch_idx)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the optimiser step, if this batch ended with one."""
        self._epoch.end_batch(trainer)
        if self.recorder is not None and trainer.global_step != self._last_global_step:
            self._last_global_step = trainer.global_step
            self.recorder.step_done(trainer.global_step)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the interval: what follows is replay."""
        if self.recorder is not None:
            self.recorder.epoch_done()
            self._epoch.end(trainer, self.recorder)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make the book as durable as the checkpoint."""
        if self.recorder is not None:
            self.recorder.checkpoint()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the end of the book, the summary and the artifacts."""
        if self._reading is not None:
            self._reading.end()
        self._finish(trainer, None)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the book of a run that was killed behind its last checkpoint: nothing was left to train."""
        if self._loaded is not None and self._session is None:
            self.on_train_start(trainer, pl_module)
            self._finish(trainer, None)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """End the book with how the run ended; no later hook is called."""
        self._finish(trainer, exception)

    # -- inside -------------------------------------------------------------------------------------------------

    def _refuse_in_step(self, trainer: pl.Trainer) -> None:
        """Refuse what all ranks would have to do at the same time."""
        if self._writing is not None:
            raise MeasureError(
                f"expected one process for bitstream=True, got {trainer.world_size}: train with devices=1"
            )
        if self.audit is not None:
            raise MeasureError(f"expected one process for audit='full', got {trainer.world_size}: audit with devices=1")
        monitored = [str(getattr(callback, "monitor", "")) for callback in _callbacks(trainer)]
        ours = next((name for name in monitored if name.startswith(prefixed({"": 0}).popitem()[0])), None)
        if ours is not None:
            raise MeasureError(
                f"expected no callback to monitor {ours} in {trainer.world_size} processes, got one: only rank 0 knows "
                "it, monitor a metric of the module"
            )

    def _stands_back(self, trainer: pl.Trainer) -> bool:
        """Whether this monitor came from the environment and the script brings its own, or another takes over."""
        monitors = [callback for callback in _callbacks(trainer) if isinstance(callback, CompressionMonitor)]
        if any(monitor.takes_over for monitor in monitors):
            return not self.takes_over
        return self.from_environment and any(not monitor.from_environment for monitor in monitors)

    def _wrap_training_step(self, trainer: pl.Trainer, recorder: Recorder) -> None:
        """See every training step from the inside: its loss calls, and what it returns before anything divides it.

        The strategy's method is wrapped, not the module's, so that the user's module stays untouched. Optimisers that
        call the step again (LBFGS) are scored at the first call, which is before the update.
        """
        strategy: Any = trainer.strategy
        plain = strategy.training_step
        original = plain if self._writing is None else self._writing.coding(plain, recorder.tap)
        module = trainer.lightning_module
        self.causality = CausalityAudit() if self.audit is not None else None

        def training_step(*args: Any, **kwargs: Any) -> Any:
            if not self._first_call or self._session is None:
                return original(*args, **kwargs)
            self._first_call = False
            batch = args[0] if args else kwargs.get("batch")
            if self.causality is not None and self.causality.open:
                self.causality.look(self._auditable(trainer, original, args, kwargs), batch)
            outputs = self._session.passes.run(
                lambda: original(*args, **kwargs), lambda: _rehearsed(trainer, evaluating=True), module, batch
            )
            if self.causality is not None and not self.causality.open:
                self.causality.tell(recorder)
            return outputs

        strategy.training_step = (
            training_step if self._writing is None else self._placing(trainer, self._writing, plain, training_step)
        )

    def _wrap_decoding(self, trainer: pl.Trainer, reading: Reading) -> None:
        """Decode every micro-batch before it is trained on; nothing is recorded."""
        strategy: Any = trainer.strategy
        plain = strategy.training_step

        def training_step(*args: Any) -> Any:
            self._first_call = False
            return plain(*args)

        strategy.training_step = self._placing(trainer, reading, plain, training_step)

    def _placing(
        self, trainer: pl.Trainer, stream: Writing | Reading, plain: Callable[..., Any], step: Callable[..., Any]
    ) -> Callable[..., Any]:
        """A training step that is given placeholders, and runs another on the tokens."""

        def rehearse(*args: Any) -> None:
            with _rehearsed(trainer, evaluating=False):
                plain(*args)

        def training_step(batch: Any, *args: Any) -> Any:
            if self._first_call:
                stream.prepare(
                    batch, trainer.global_step, trainer.lightning_module, lambda other: rehearse(other, *args)
                )
            return step(stream.shown(batch), *args)

        return training_step

    def _auditable(
        self, trainer: pl.Trainer, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[Any], Any] | None:
        """The training step, to be run on other batches; None where it cannot be run an extra time."""
        if not args or not _reruns(trainer.lightning_module):
            return None

        def step(batch: Any) -> None:
            with _rehearsed(trainer, evaluating=self.options.rescore == "eval"):  # the mode that is coded
                original(batch, *args[1:], **kwargs)

        return step

    def _finish(self, trainer: pl.Trainer, error: BaseException | None) -> None:
        session = self._session
        if session is None:
            return
        vars(trainer.strategy).pop("training_step", None)
        if self.causality is not None:
            self.causality.tell(session.recorder)
        if self._epoch.resuming and error is None:  # nothing was left to train
            self._epoch.end(trainer, session.recorder)
        self._kept = self.state_dict() if error is None or not session.ranks.spread else {}
        facts = {} if self._writing is None else self._writing.close(whole=error is None)
        session.finish(error, self._summarize, **facts)
        self._session = None
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = self._path = None

    def _publish(self, trainer: pl.Trainer, values: dict[str, float | int], steps: int) -> None:
        if self._writing is not None:
            self._writing.flush()
        if self._audience is not None:
            self._audience.publish(values, steps)
        shown = {"compressed_MB": values["compressed_bytes"] / 1e6}
        ratio = values.get("compression_ratio", values.get("uniform_ratio"))
        if ratio is not None:
            shown["ratio" if "compression_ratio" in values else "uniform_ratio"] = ratio
        # Straight into the trainer's tables: `self.log` rounds to float32 and takes a millisecond a name.
        trainer.progress_bar_metrics.update(shown)
        trainer.callback_metrics.update(
            {name: torch.tensor(value, dtype=torch.float64) for name, value in prefixed(values).items()}
        )

    def _note_failure(self, message: str) -> None:
        if self.recorder is not None:
            self.recorder.note("logger_failed", message)

    def _summarize(self, run: Run, files: list[Path]) -> None:
        lines = run.summary()
        if self._scratch is not None:
            lines[-1] = "no book is kept of a fast_dev_run"
        if self._audience is not None:
            self._audience.end(run, files)
            lines += self._audience.farewell(run)
        for line in lines:
            rank_zero_info(f"prequential: {line}")


@contextmanager
def _rehearsed(trainer: pl.Trainer, *, evaluating: bool) -> Iterator[None]:
    """Run the training step an extra time inside; loggers get nothing of it."""
    loggers = trainer.loggers
    trainer.loggers = [DummyLogger() for _ in loggers]
    try:
        with rehearsal(trainer.lightning_module, evaluating=evaluating):
            yield
    finally:
        trainer.loggers = loggers


def _reruns(module: pl.LightningModule) -> bool:
    """Whether a training step can be run twice: it does not learn by itself, and does not fetch its own batches."""
    names = inspect.signature(module.training_step).parameters
    return bool(module.automatic_optimization) and "dataloader_iter" not in names


def _learnt(trainer: pl.Trainer) -> str | None:
    """Why weights are known to be learnt before a fit without a state of the monitor; None if that is not known."""
    if not trainer.global_step:
        return None
    return f"the fit starts at step {trainer.global_step:,}, with what was learnt up to there"


def _callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    callbacks: list[pl.Callback] = vars(trainer)["callbacks"]
    return callbacks
