"""The monitor of `prequential audit`: it watches a script up to its first update, reports, and ends the process."""

from __future__ import annotations

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
    "loss_calls": [],
    "grade": None,
    "columns": {},
    "remarks": [],
}
_COLUMNS = ("coded_tokens", "uncoded_tokens", "replayed_tokens", "masked_tokens", "padding_tokens", "positions")


class AuditMonitor(CompressionMonitor):
    """Audits a fit; monitors that the script brings itself stand back behind it."""

    takes_over = True

    def __init__(self) -> None:
        self._folder = Path(os.environ[FOLDER])
        super().__init__(bundle=None, ledger=self._folder / BOOK_NAME, audit="full")
        self.from_environment = True

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
        finding = self.causality.finding if self.causality is not None else None
        causal = None if finding is None else finding.causal
        passed = PASSED if causal else UNKNOWN
        reasons = [finding.message] if finding is not None and finding.message else run.surrogate_reasons
        return {
            "verdict": FAILED if run.grade == "surrogate" else passed,
            "reason": reasons[0] if reasons else None,
            "causal": causal,
            "earlier_nats": None if finding is None else finding.earlier_nats,
            "later_nats": None if finding is None else finding.later_nats,
            "measure": run.header.get("measure"),
            "loss_calls": run.header.get("loss_calls") or [],
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
