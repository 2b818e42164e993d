"""By which passes a door has a micro-batch scored: as it is trained, or once more in evaluation mode, all or a share.

A training step with dropout is a valid code, and a longer one. Scoring each micro-batch in evaluation mode before its
update gives the shorter code for about a third more compute; scoring a random share of them gives an estimate of it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from prequential.capture import LossTap, declared
from prequential.causality import Finding, audited
from prequential.errors import MeasureError
from prequential.meter import Meter, Sums
from prequential.recorder import Recorder
from prequential.rescore import DifferenceEstimator

Step = Callable[[], Any]
Rehearsal = Callable[[], AbstractContextManager[None]]

_LEARNS = "causality was not audited: under manual optimisation the training step learns"
# An audit that sees nothing is given up after this many micro-batches.
_AUDITED = 64


class AsTrained:
    """Scores each micro-batch by the training step itself: in training mode, dropout and all.

    Args:
        recorder: The run being recorded.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def run(self, step: Step, rehearsal: Rehearsal, module: Any, batch: Any) -> Any:
        """Run a training step on a micro-batch and have it scored.

        Args:
            step: Runs the training step.
            rehearsal: Makes a context in which it can be run without leaving anything behind.
            module: The module, for a callable ``measure``.
            batch: The micro-batch.

        Returns:
            What the training step returned.

        Raises:
            MeasureError: In the first micro-batch, where its code length cannot be found.
        """
        with self._recorder.capturing(module, batch):
            outputs = step()
        self._recorder.observe(module, batch, outputs)
        return outputs


class InEvaluation(AsTrained):
    """Scores each micro-batch in evaluation mode, before the training step runs, which is not scored."""

    def run(self, step: Step, rehearsal: Rehearsal, module: Any, batch: Any) -> Any:
        """Run a training step on a micro-batch, after scoring it."""
        if self._recorder.failure is None or self._recorder.ranks.spread:
            try:
                with rehearsal():
                    super().run(step, rehearsal, module, batch)
            except Exception as error:
                self._recorder.fail(_refusal(error))
        return step()


class Sampled(AsTrained):
    """Scores each micro-batch as it is trained, and a random share of them in evaluation mode as well.

    Args:
        recorder: The run being recorded.
        device: Where the loss is computed.
    """

    def __init__(self, recorder: Recorder, device: Any) -> None:
        super().__init__(recorder)
        self._tap = LossTap(Meter(device=device))
        self._tap.listing = False

    def run(self, step: Step, rehearsal: Rehearsal, module: Any, batch: Any) -> Any:
        """Run a training step on a micro-batch and have it scored, perhaps twice."""
        recorder, estimator = self._recorder, self._recorder.rescoring
        if estimator is None or recorder.failure is not None or not estimator.draw():
            return super().run(step, rehearsal, module, batch)
        evaluated = self._evaluated(step, rehearsal, module, batch)
        before = recorder.so_far()
        outputs = super().run(step, rehearsal, module, batch)
        after = recorder.so_far()
        if isinstance(evaluated, Sums):
            estimator.add(evaluated, Sums(after.nats - before.nats, after.counts - before.counts))
        else:
            recorder.rescoring = None
            recorder.note("not_rescored", str(evaluated))
        return outputs

    def _evaluated(self, step: Step, rehearsal: Rehearsal, module: Any, batch: Any) -> Sums | MeasureError:
        """Sums of one micro-batch in evaluation mode, or why there are none: nothing is raised into the training."""
        self._tap.meter.take()
        try:
            with rehearsal():
                with self._tap.on(module, batch):
                    outputs = step()
                self._add_declared(module, batch, outputs)
        except Exception as error:
            return _refusal(error)
        return self._tap.meter.take()

    def _add_declared(self, module: Any, batch: Any, outputs: Any) -> None:
        """Take the sums that the script states itself in place of those of its loss calls, as the route does."""
        measure = self._recorder.measure
        if measure == "capture":
            return
        sums = declared(measure(module, batch, outputs) if callable(measure) else outputs)
        if sums is not None:
            self._tap.meter.take()
            self._tap.meter.add_declared(sums.nats, sums.tokens, vocab_size=None)


class CausalityAudit:
    """Audits the first micro-batch; while the model looks at no token yet, the 2nd, 4th, ... 64th as well.

    Attributes:
        finding: What was found, None before the first micro-batch.
        open: Whether it may be run again.
    """

    def __init__(self) -> None:
        self.finding: Finding | None = None
        self.open = True
        self._seen = 0

    def look(self, step: Callable[[Any], Any] | None, batch: Any) -> None:
        """Run the audit on a micro-batch, before its training step, if it is time; never raises.

        Args:
            step: Runs the training step on a batch without leaving anything behind; None where it cannot be run again.
            batch: The micro-batch.
        """
        self._seen += 1
        if not self.open or self._seen & (self._seen - 1):
            return
        try:
            self.finding = audited(step, batch) if step is not None else Finding(None, _LEARNS)
        except Exception as error:
            self.finding = Finding(None, f"causality was not audited: {type(error).__name__}: {error}")
        self.open = self.finding.blind and self._seen < _AUDITED

    def tell(self, recorder: Recorder) -> None:
        """Put what was found on the book, once it is known; nothing is said of a causal model."""
        if self.finding is not None and self.finding.message is not None:
            recorder.note("not_audited" if self.finding.causal is None else "not_causal", self.finding.message)


def passes(rescore: float | str | None, recorder: Recorder, device: Any) -> AsTrained:
    """Choose how micro-batches are scored.

    Args:
        rescore: None, ``"eval"`` for all of them in evaluation mode, or the share of them for an estimate.
        recorder: The run being recorded.
        device: Where the loss is computed.
    """
    if rescore is None:
        return AsTrained(recorder)
    if isinstance(rescore, str):
        return InEvaluation(recorder)
    recorder.rescoring = DifferenceEstimator(rescore, device)
    return Sampled(recorder, device)


def _refusal(error: Exception) -> MeasureError:
    """Say why a micro-batch cannot be scored in evaluation mode."""
    if isinstance(error, MeasureError):
        return error
    got = f"{type(error).__name__}: {error}"
    return MeasureError(
        f"expected a training step that runs in evaluation mode without gradients, got {got}: leave rescore out"
    )
