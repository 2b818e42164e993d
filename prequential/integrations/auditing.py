"""The monitor of `prequential audit`: it watches a script up to its first update, reports, and ends the process."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from prequential.audit import FAILED, FOLDER, PASSED, REPORT, UNKNOWN
from prequential.errors import MeasureError
from prequential.integrations.lightning import CompressionMonitor
from prequential.ledger import BOOK_NAME, read_book
from prequential.run import Run

_BLANK: dict[str, Any] = {
    "causal": None,
    "earlier_nats": None,
    "later_nats": None,
    "measure": None,
    "sum_to_one": None,
    "loss_calls": [],
    "grade": None,
    "columns": {},
    "remarks": [],
}
_UNKNOWN = "causality was not audited: no training step was run"
_COLUMNS = ("coded_tokens", "uncoded_tokens", "replayed_tokens", "masked_tokens", "padding_tokens", "positions")


class AuditMonitor(CompressionMonitor):
    """Audits a fit; monitors that the script brings itself stand back behind it."""

    takes_over = True

    def __init__(self) -> None:
        self._folder = Path(os.environ[FOLDER])
        super().__init__(bundle=None, ledger=self._folder / BOOK_NAME, audit="full")
        self.from_environment = True

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take over the options of the script's own monitor: how it measures, which mode it codes."""
        for callback in vars(trainer)["callbacks"]:
            if isinstance(callback, CompressionMonitor) and not callback.from_environment:
                self.options = dataclasses.replace(callback.options, bundle=None)
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End at the first update after which nothing more can be found out."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.recorder is not None and self.recorder.steps and not (self.causality and self.causality.open):
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report what was found."""
        super().on_train_end(trainer, pl_module)
        self._leave(self._found(read_book(self._folder / BOOK_NAME)))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Report a refusal; what else may go wrong is the script's own affair."""
        if isinstance(exception, MeasureError):
            self._leave({"verdict": FAILED, "reason": str(exception)})

    def _found(self, run: Run) -> dict[str, Any]:
        """Judge what was recorded; captured probabilities sum to one, else the script would have been refused."""
        finding = self.causality.finding if self.causality is not None else None
        causal = None if finding is None else finding.causal
        left_out = [event["message"] for event in run.events if event["event"] in ("missed", "not_understood")]
        failed = [*run.surrogate_reasons, *left_out]
        unknown = [] if causal else [_UNKNOWN if finding is None else finding.message]
        return {
            "verdict": FAILED if failed else UNKNOWN if unknown else PASSED,
            "reason": next(iter(failed + unknown), None),
            "causal": causal,
            "earlier_nats": None if finding is None else finding.earlier_nats,
            "later_nats": None if finding is None else finding.later_nats,
            "measure": run.header.get("measure"),
            "loss_calls": run.header.get("loss_calls") or [],
            "sum_to_one": True if run.header.get("measure") == "capture" else None,
            "grade": run.grade,
            "columns": {name: getattr(run.total, name) for name in _COLUMNS},
            "remarks": [
                event["message"] for event in run.events if event["event"] not in ("not_causal", "not_audited")
            ],
        }

    def _leave(self, report: dict[str, Any]) -> None:
        """Write the report and end the process at once, so that the script does nothing more."""
        report = {**_BLANK, **report}
        (self._folder / REPORT).write_text(json.dumps(report), encoding="utf-8")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
