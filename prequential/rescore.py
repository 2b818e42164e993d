"""The code length in evaluation mode, estimated from a random share of micro-batches that are scored in both modes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prequential.codelength import Tally
from prequential.errors import MeasureError
from prequential.meter import Sums

_NOT_ESTIMATED = "the code length in evaluation mode was not estimated"


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

    Each micro-batch is drawn with probability p, independently. With d its evaluation nats less its training nats,

        estimate = training nats + (1/p) sum of d,    variance = (1 - p)/p**2 sum of d**2,

    both sums over those drawn: the Horvitz-Thompson estimator under Poisson sampling and its variance, both unbiased.
    Replay counts for nothing: d is weighted by the share of first exposures in its interval of the book, which is 0 or
    1 but where rows came before in the middle of an epoch.

    Args:
        share: The probability p.
        device: Where differences come from; they are summed there.
        seed: Seed of its own generator.

    Attributes:
        batches: Micro-batches that were drawn and hold first exposures.
    """

    def __init__(self, share: float, device: Any, *, seed: int = 0) -> None:
        self.share, self.batches = share, 0
        self._random = random.Random(seed)
        has_float64 = torch.device(device).type != "mps"
        # Of an interval's differences: how many, their sum, that of their squares, and how many tokens one mode scored
        # and the other did not.
        self._sums = torch.zeros(4, dtype=torch.float64 if has_float64 else torch.float32, device=device)
        self._total, self._squares, self._other_tokens = 0.0, 0.0, 0.0

    def draw(self) -> bool:
        """Decide whether the next micro-batch is in the sample."""
        return self._random.random() < self.share

    def add(self, evaluated: Sums, trained: Sums) -> None:
        """Take in a micro-batch that was drawn, scored in both modes; does not wait for the device."""
        difference = evaluated.nats.sum() - trained.nats.sum()
        other_tokens = (evaluated.coded - trained.coded).abs().to(difference.dtype)
        self._sums += torch.stack([torch.ones_like(difference), difference, difference**2, other_tokens])

    def take(self) -> Tensor:
        """Hand over the sums of an interval, still on the device, and start again."""
        sums = self._sums.clone()
        self._sums.zero_()
        return sums

    def count(self, sums: Tensor, tally: Tally) -> None:
        """Count the sums of an interval; waits for the device.

        Args:
            sums: What `take` gave.
            tally: The columns of that interval.
        """
        scored = tally.coded_tokens + tally.replayed_tokens
        weight = tally.coded_tokens / scored if scored else 0.0
        batches, total, squares, other_tokens = sums.tolist()
        self.batches += int(batches) if weight else 0
        self._total += weight * total
        self._squares += weight**2 * squares
        self._other_tokens += other_tokens

    def state(self) -> dict[str, Any]:
        """What it knows between two intervals, its random state among it, for a checkpoint."""
        version, words, gauss = self._random.getstate()
        return {
            "share": self.share,
            "batches": self.batches,
            "sums": [self._total, self._squares, self._other_tokens],
            "random": [version, list(words), gauss],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.batches = int(state["batches"])
        self._total, self._squares, self._other_tokens = map(float, state["sums"])
        version, words, gauss = state["random"]
        self._random.setstate((version, tuple(words), gauss))

    def estimate(self, trained_nats: float) -> Rescored | str:
        """Estimate the total.

        Args:
            trained_nats: Training nats of all first exposures, drawn or not.

        Returns:
            The estimate, or in a sentence why there is none.
        """
        if self._other_tokens:
            return (
                "the code length in evaluation mode was not estimated: other tokens are scored there than in training"
            )
        if not self.batches:
            return (
                f"the code length in evaluation mode was not estimated: a share of {self.share:g} drew no micro-batch"
            )
        deviation = ((1 - self.share) * self._squares) ** 0.5 / self.share
        return Rescored(trained_nats + self._total / self.share, deviation, self.batches, self.share)


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
