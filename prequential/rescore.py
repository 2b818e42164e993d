"""In which mode a micro-batch is scored: as it is trained, or once more in evaluation mode, all of them or a share.

A training step with dropout is a valid code, and a longer one. Scoring each micro-batch in evaluation mode before its
update gives the shorter code for about a third more compute; scoring a random share of them gives an estimate of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch

from prequential.capture import LossTap, declared
from prequential.errors import MeasureError
from prequential.meter import Meter, Sums
from prequential.recorder import Recorder

Step = Callable[[], Any]
Rehearsal = Callable[[], AbstractContextManager[None]]


class Rescored(NamedTuple):
    """An estimate of the code length in evaluation mode.

    Attributes:
        nats: The estimate.
        standard_error: Its standard error in nats, over the draw of the micro-batches.
        batches: Micro-batches that were drawn.
        share: Probability with which each was drawn.
    """

    nats: float
    standard_error: float
    batches: int
    share: float


class DifferenceEstimator:
    """Estimates a total from known values of all, and differences from them of a random share.

    Each is drawn with probability p, independently. With d the evaluation nats of a micro-batch less its training nats,

        estimate = training nats + (1/p) sum of d,    variance = (1 - p)/p**2 sum of d**2,

    both sums over those drawn: the Horvitz-Thompson estimator under Poisson sampling and its variance, both unbiased.

    Args:
        share: The probability p.
        device: Where differences come from; they are summed there.
        seed: Seed of its own generator.
    """

    def __init__(self, share: float, device: Any, *, seed: int = 0) -> None:
        self.share, self.batches = share, 0
        self._random = random.Random(seed)
        has_float64 = torch.device(device).type != "mps"
        # Of the differences: their sum, the sum of their squares, and how many tokens are in one but not the other.
        self._sums = torch.zeros(3, dtype=torch.float64 if has_float64 else torch.float32, device=device)

    def draw(self) -> bool:
        """Decide whether the next micro-batch is in the sample."""
        return self._random.random() < self.share

    def add(self, evaluated: Sums, trained: Sums) -> None:
        """Take in a micro-batch that was drawn, scored in both modes; does not wait for the device."""
        self.batches += 1
        difference = evaluated.nats.sum() - trained.nats.sum()
        other_tokens = (evaluated.coded - trained.coded).abs().to(difference.dtype)
        self._sums += torch.stack([difference, difference**2, other_tokens])

    def estimate(self, trained_nats: float) -> Rescored | None:
        """Estimate the total; waits for the device.

        Args:
            trained_nats: Training nats of all micro-batches, drawn or not.

        Returns:
            The estimate, or None where the two modes did not score the same number of tokens.
        """
        total, squares, other_tokens = self._sums.tolist()
        if other_tokens:
            return None
        deviation = ((1 - self.share) * squares) ** 0.5 / self.share
        return Rescored(trained_nats + total / self.share, deviation, self.batches, self.share)


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
        with self._recorder.capturing():
            outputs = step()
        self._recorder.observe(module, batch, outputs)
        return outputs

    def facts(self) -> dict[str, Any]:
        """What the end line of the book holds of it."""
        return {}


class InEvaluation(AsTrained):
    """Scores each micro-batch in evaluation mode, before the training step runs, which is not scored."""

    def run(self, step: Step, rehearsal: Rehearsal, module: Any, batch: Any) -> Any:
        """Run a training step on a micro-batch, after scoring it."""
        if self._recorder.failure is None:
            try:
                with rehearsal():
                    super().run(step, rehearsal, module, batch)
            except Exception as error:
                self._recorder.fail(_refusal(error))
        return step()


class Sampled(AsTrained):
    """Scores each micro-batch as it is trained, and a random share of the first exposures in evaluation mode as well.

    Args:
        recorder: The run being recorded.
        estimator: Draws the share and sums the differences.
        device: Where the loss is computed.
    """

    def __init__(self, recorder: Recorder, estimator: DifferenceEstimator, device: Any) -> None:
        super().__init__(recorder)
        self._estimator: DifferenceEstimator | None = estimator
        self._tap = LossTap(Meter(device=device))
        self._tap.listing = False

    def run(self, step: Step, rehearsal: Rehearsal, module: Any, batch: Any) -> Any:
        """Run a training step on a micro-batch and have it scored, perhaps twice."""
        recorder, estimator = self._recorder, self._estimator
        if estimator is None or recorder.replay or recorder.failure is not None or not estimator.draw():
            return super().run(step, rehearsal, module, batch)
        evaluated = self._evaluated(step, rehearsal, module, batch)
        before = recorder.so_far()
        outputs = super().run(step, rehearsal, module, batch)
        after = recorder.so_far()
        if isinstance(evaluated, Sums):
            estimator.add(evaluated, Sums(after.nats - before.nats, after.counts - before.counts))
        else:
            self._estimator = None
            recorder.note("not_rescored", str(evaluated))
        return outputs

    def facts(self) -> dict[str, Any]:
        """What the end line of the book holds of it: ``rescored``, if there is an estimate."""
        if self._estimator is None or self._recorder.failure is not None:
            return {}
        self._recorder.epoch_done()  # so that the total is that of the whole run
        found = self._estimator.estimate(self._recorder.total.nats) if self._estimator.batches else None
        if found is not None:
            return {"rescored": found._asdict()}
        why = "scored other tokens than in training mode" if self._estimator.batches else "drew no micro-batch"
        self._recorder.note("not_rescored", f"the code length in evaluation mode was not estimated: it {why}")
        return {}

    def _evaluated(self, step: Step, rehearsal: Rehearsal, module: Any, batch: Any) -> Sums | MeasureError:
        """Sums of one micro-batch in evaluation mode, or why there are none: nothing is raised into the training."""
        self._tap.meter.take()
        try:
            with rehearsal():
                with self._tap:
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


def scoring(rescore: float | str | None, recorder: Recorder, device: Any) -> AsTrained:
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
    return Sampled(recorder, DifferenceEstimator(rescore, device), device)


def check_rescore(rescore: Any) -> None:
    """Refuse what is no mode.

    Raises:
        MeasureError: It is neither None nor ``"eval"`` nor a share between 0 and 1.
    """
    if rescore is None or rescore == "eval" or (isinstance(rescore, float) and 0 < rescore < 1):
        return
    raise MeasureError(
        f"expected rescore to be 'eval', a share between 0 and 1, or None, got {rescore!r}: leave it out to score as "
        "it is trained"
    )


def _refusal(error: Exception) -> MeasureError:
    """Say why a micro-batch cannot be scored in evaluation mode."""
    if isinstance(error, MeasureError):
        return error
    got = f"{type(error).__name__}: {error}"
    return MeasureError(
        f"expected a training step that runs in evaluation mode without gradients, got {got}: leave rescore out"
    )
