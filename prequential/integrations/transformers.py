"""`CompressionCallback`: the same book, bundle and W&B keys for a Hugging Face `Trainer`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prequential.errors import Harmless, MeasureError
from prequential.integrations.audience import Audience, Publish, rows_of
from prequential.integrations.feeding import loader_draws_once, loader_drops
from prequential.integrations.places import place_in_group
from prequential.integrations.plan import planned_steps_of
from prequential.integrations.session import Options, Session, new_book
from prequential.integrations.statefile import load_state, save_state
from prequential.integrations.wandb import prefixed
from prequential.ledger import read_book
from prequential.run import Run

try:
    from transformers import PretrainedConfig, TrainerCallback
except ImportError as error:
    raise ImportError(
        "expected the package transformers for CompressionCallback, found none: pip install 'prequential[transformers]'"
    ) from error

# Arguments that say where a run lies and who is told, not what it computes.
_PLACES = {"output_dir", "logging_dir", "run_name", "report_to", "disable_tqdm", "hub_model_id", "hub_token"}
_TRUE = {torch.float32: "32-true", torch.bfloat16: "bf16-true", torch.float16: "16-true"}


class CompressionCallback(TrainerCallback):
    """Measures how well a run of the Hugging Face `Trainer` compresses its data, while it trains.

    Add it to the trainer's callbacks. The trainer tells its callbacks neither batches nor losses, so that hooks on the
    model find both: the first run of the model in each training step is scored. Live values go to W&B, if a run is
    active, and into ``trainer.state.log_history``, under ``prequential/``.

    An exception ends training without a word to callbacks: the book then stays readable, and without an end line.

    Args:
        ledger: Path of the book, or of a folder for it. Default: ``prequential/`` in the trainer's ``output_dir``.
        publish: Called at log points with quantities by name and the number of steps so far; or several such functions.
        options: The options of `CompressionMonitor` (``token_bytes``, ``measure``, ``name``, ...); a callable as
            ``measure`` gets the model, its inputs and its outputs.

    Example:
        >>> callback = CompressionCallback(token_bytes="bytes", name="rose")
    """

    def __init__(
        self,
        *,
        ledger: str | os.PathLike[str] | None = None,
        publish: Publish | Sequence[Publish] = (),
        **options: Any,
    ) -> None:
        self.options, self.ledger = Options(**options), ledger
        self.book: Path | None = None
        self._publish = [publish] if callable(publish) else list(publish)
        self._session: Session | None = None
        self._hooks, self._capture = ExitStack(), ExitStack()
        self._training = self._due = False  # inside a training step; its micro-batch is still to be scored
        self._batch: dict[str, Any] | None = None  # the one that is being scored
        self._shown: dict[str, float | int] = {}

    @property
    def run(self) -> Run:
        """The run as its book tells it so far."""
        if self.book is None:
            raise MeasureError("expected a run to read, got none: train first")
        return read_book(self.book)

    # -- hooks of the trainer -----------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """Find the training program and begin to record."""
        if args.n_gpu > 1:
            raise MeasureError(
                f"expected one device a process, got {args.n_gpu}: start a process for each device (torchrun), show "
                "one device (CUDA_VISIBLE_DEVICES=0) or leave the callback out"
            )
        if args.label_smoothing_factor and self.options.measure in ("auto", "capture"):
            raise MeasureError(
                f"expected label_smoothing_factor=0, got {args.label_smoothing_factor}: the trainer's smoother makes "
                "no loss call that could be seen, smooth in a compute_loss_func, by torch.nn.functional.cross_entropy"
            )
        self._finish(RuntimeError("training began again before it had ended"))
        recorded = load_state(_checkpoints(args, state)) if state.global_step else None
        self._shown = {}
        ranks = place_in_group()
        wandb_run = getattr(sys.modules.get("wandb"), "run", None)
        wandb_runs = [] if wandb_run is None or not ranks.keeps_book else [wandb_run]
        self._audience = Audience(wandb_runs, [*map(rows_of, wandb_runs), partial(self._show, state), *self._publish])
        self._session = Session(
            self.options,
            path=new_book(self.ledger, Path(args.output_dir) / "prequential", resumed=recorded is not None),
            facts={
                **_facts(args, state, model),
                "planned_steps": planned_steps_of(args, state, others.get("train_dataloader")),
                **self._audience.facts,
            },
            configuration=lambda: _configuration(args, model),
            device=args.device,
            every_n_steps=max(1, int(state.logging_steps)),
            publish=self._audience.publish,
            draws_once=loader_draws_once(others.get("train_dataloader")),
            module=model,
            state=recorded,
            learnt=f"training starts at step {state.global_step:,}" if state.global_step else None,
            ranks=ranks,
        )
        self.book = self._session.recorder.account.path
        if recorded is not None and args.ignore_data_skip:
            self._session.recorder.feed_again(_batches_of_epoch(args, state, others.get("train_dataloader")))
        self._session.recorder.replay = (state.epoch or 0) >= 1
        self._audience.begin()
        # A compiled model would trace its hooks too, and all that they call.
        untraced: Any = torch.compiler.disable
        before, after = untraced(self._before_forward), untraced(self._after_forward)
        self._hooks.callback(model.register_forward_pre_hook(before, with_kwargs=True).remove)
        self._hooks.callback(model.register_forward_hook(after, with_kwargs=True, always_call=True).remove)

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Expect the first micro-batch of an optimiser step."""
        self._training = self._due = True

    def on_substep_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """End a micro-batch, and expect the next."""
        self._micro_batch_done({})
        self._due = True

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """End the last micro-batch; what runs from here to the next step is evaluation and the like."""
        self._micro_batch_done({})
        self._training = False

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Count the optimiser step."""
        if self._session is not None:
            self._session.recorder.step_done(state.global_step)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Close the interval: what follows is replay."""
        self._training = False
        if self._session is not None:
            self._session.recorder.epoch_done()
            with Harmless("whether rows were dropped is not known"):
                rows = loader_drops(others.get("train_dataloader")) if state.epoch == 1 else 0
                if rows:
                    self._session.recorder.dropped(rows)
            self._session.recorder.replay = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
        """Add the headline to the line that the trainer prints."""
        if logs is not None and "loss" in logs:
            logs.update(self._shown)

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Make the book as durable as the checkpoint, and lay the state of the recording into it."""
        if self._session is not None:
            recorded = self._session.recorder.state()
            if self._session.ranks.keeps_book:
                save_state(_checkpoints(args, state)[-1], recorded)
            self._session.recorder.checkpoint()

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Write the end of the book, the summary and the artifacts."""
        self._finish(None)

    # -- hooks of the model -------------------------------------------------------------------------------------

    def _before_forward(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Begin to watch loss calls, if this run of the model belongs to a training step."""
        session = self._session
        if session is None or not self._training or self._batch is not None or not torch.is_grad_enabled():
            return
        if not self._due:
            session.recorder.note("missed", "a training step ran the model more than once: only the first is counted")
            return
        self._due = False
        named = {name: value for name, value in kwargs.items() if name != "num_items_in_batch"}
        self._batch = {**named, **{str(place): value for place, value in enumerate(args)}}
        self._module = module
        self._capture.enter_context(session.recorder.capturing(module, self._batch))

    def _after_forward(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        """End the micro-batch, unless its loss is still to be computed outside of the model."""
        if self._batch is None:
            return
        if outputs is None:  # the model raised
            self._capture.close()
            self._batch = None
            return
        named = dict(outputs) if isinstance(outputs, Mapping) else {}
        loss = named.get("loss") if named or not isinstance(outputs, (tuple, list)) else outputs[0]
        if isinstance(loss, Tensor) and loss.numel() == 1:
            # The trainer has the model divide the sum of the nats by the targets of all accumulated micro-batches.
            targets = kwargs.get("num_items_in_batch")
            self._micro_batch_done({**named, "loss": loss.detach() * (1 if targets is None else targets)})
        elif self.options.measure not in ("auto", "capture"):
            self._micro_batch_done(named)

    # -- inside -------------------------------------------------------------------------------------------------

    def _micro_batch_done(self, outputs: dict[str, Any]) -> None:
        """Take in the micro-batch that is being scored, if one is."""
        batch, self._batch = self._batch, None
        self._capture.close()
        if batch is not None and self._session is not None:
            self._session.recorder.observe(self._module, batch, outputs)

    def _show(self, state: Any, values: dict[str, float | int], steps: int) -> None:
        state.log_history.append({**prefixed(values), "epoch": state.epoch, "step": state.global_step})
        ratio = "compression_ratio" if "compression_ratio" in values else "uniform_ratio"
        self._shown = {"compressed_MB": values["compressed_bytes"] / 1e6}
        if ratio in values:
            self._shown["ratio" if ratio == "compression_ratio" else ratio] = values[ratio]

    def _finish(self, error: BaseException | None) -> None:
        self._hooks.close()
        self._capture.close()
        session, self._session, self._batch = self._session, None, None
        if session is not None:
            session.finish(error, self._audience.end)


def _facts(args: Any, state: Any, model: Any) -> dict[str, Any]:
    """Facts for the head of the book: how the run is made."""
    kind = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    mixed = "bf16-mixed" if args.bf16 else "16-mixed" if args.fp16 else None
    return {
        "world_size": args.world_size,
        "precision": mixed or _TRUE.get(kind, str(kind)),
        "seed": args.seed,
        "start_step": state.global_step,
    }


def _checkpoints(args: Any, state: Any) -> list[Path]:
    """Folders that may be the checkpoint of this step; the last one is where the trainer puts it."""
    given = getattr(args, "resume_from_checkpoint", None)
    own = Path(args.output_dir) / f"checkpoint-{state.global_step}"
    return [Path(given), own] if isinstance(given, str) and Path(given) != own else [own]


def _batches_of_epoch(args: Any, state: Any, loader: Any) -> int:
    """Micro-batches of the epoch before the checkpoint."""
    batches = int(state.global_step) * int(args.gradient_accumulation_steps)
    return batches % len(loader) if hasattr(loader, "__len__") else batches


def _configuration(args: Any, model: Any) -> dict[str, Any]:
    """The resolved configuration: what differs from the defaults of trainer and model."""
    config = getattr(model, "config", None)  # none, or something else, in models that are not of the library
    given = {field.name: (getattr(args, field.name), _default(field)) for field in fields(args) if field.init}
    return {
        "argv": sys.argv[1:],
        "trainer": {
            name: value for name, (value, default) in given.items() if value != default and name not in _PLACES
        },
        "model": config.to_diff_dict() if isinstance(config, PretrainedConfig) else {},
        "seed": args.seed,
    }


def _default(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
