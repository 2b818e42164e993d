"""How good forecasts of published runs are: every run from 10 % and 30 %, as a page of the documentation.

Run ``python tests/forecast_table.py`` to write docs/reference/forecast-table.md again. With
``--cross-check`` it prints instead how the constants of the interval fare on runs they were not chosen on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from loss_curves import Curve, published

from prequential.codelength import nats_to_bits
from prequential.forecast import Assumptions, forecast

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "forecast-table.md"
SHARES = (0.1, 0.3)
CHECKED_SHARES = (0.1, 0.15, 0.2, 0.3, 0.4, 0.6)
CANDIDATES = [(misfit, distance) for misfit in (0.002, 0.003, 0.004, 0.006, 0.01) for distance in (0.05, 0.1, 0.2)]


class Case(NamedTuple):
    """One forecast held against the truth; all but the names in nats."""

    name: str
    group: str
    truth: float
    nats: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """Relative error."""
        return self.nats / self.truth - 1

    @property
    def width(self) -> float:
        """Width of the interval as a share of the truth."""
        return (self.high - self.low) / self.truth

    @property
    def inside(self) -> bool:
        """Whether the interval holds the truth."""
        return self.low <= self.truth <= self.high

    @property
    def log_score(self) -> float:
        """Minus the log density of the truth: the smaller, the better were error and interval together."""
        spread = self.width / 2 / 1.6449
        return float(np.log(spread) + (self.error / spread) ** 2 / 2)


def cases(curves: list[Curve], share: float, assume: Assumptions | None = None) -> list[Case]:
    """Forecast every curve from its first part."""
    found = []
    for curve in curves:
        guess = forecast(*curve.until(share), curve.tokens[-1], assume=assume)
        truth = float(curve.nats.sum())
        found.append(Case(curve.name, curve.group, truth, guess.nats, guess.low_nats, guess.high_nats))
    return found


def summary(found: list[Case]) -> dict[str, float]:
    """Median and worst absolute error, coverage, and median width."""
    errors = np.abs([case.error for case in found])
    return {
        "median": float(np.median(errors)),
        "worst": float(errors.max()),
        "coverage": float(np.mean([case.inside for case in found])),
        "width": float(np.median([case.width for case in found])),
    }


def page(curves: list[Curve]) -> str:
    """The result table."""
    parts = [
        "# Forecasts of published runs\n",
        "Written by `python tests/forecast_table.py`. How the forecast works, and how its constants were "
        "checked, is in [how a run is forecast](../explanation/forecast.md).\n",
        "The truth is the sum of loss times tokens over all rows of the log, in megabytes of code length; the schedule "
        "of the learning rate is not told. The interval is the one for 90 %.\n",
    ]
    for share in SHARES:
        found = cases(curves, share)
        parts += [f"## From the first {share:.0%}\n", *_table(found), _sentence(summary(found))]
    return "\n".join(parts)


def _table(found: list[Case]) -> list[str]:
    lines = [
        "| run | truth, MB | forecast, MB | error | interval, MB | width | inside |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for case in found:
        truth, nats, low, high = (
            f"{nats_to_bits(value) / 8e6:,.1f}" for value in (case.truth, case.nats, case.low, case.high)
        )
        row = [case.name, truth, nats, f"{case.error:+.2%}", f"{low} to {high}", f"{case.width:.1%}"]
        lines.append("| " + " | ".join([*row, "yes" if case.inside else "no"]) + " |")
    return lines


def _sentence(numbers: dict[str, float]) -> str:
    return (
        f"\nMedian absolute error {numbers['median']:.2%}, worst {numbers['worst']:.2%}; "
        f"the interval holds the truth in {numbers['coverage']:.0%} of the runs, its median width is "
        f"{numbers['width']:.1%}.\n"
    )


def cross_check(curves: list[Curve]) -> None:
    """Choose the constants of the misfit without one group of runs by the log score, and judge them on that group."""
    tried = {}
    for misfit, distance in CANDIDATES:
        assume = Assumptions(misfit=misfit, misfit_of_distance=distance)
        tried[misfit, distance] = [case for share in CHECKED_SHARES for case in cases(curves, share, assume)]
    held = []
    for group in sorted({curve.group for curve in curves}):
        others = {key: [case.log_score for case in found if case.group != group] for key, found in tried.items()}
        best = min(others, key=lambda key: float(np.mean(others[key])))
        own = [case for case in tried[best] if case.group == group]
        held += own
        print(f"{group}: chosen without it {best}, coverage {summary(own)['coverage']:.0%} of {len(own)} forecasts")
    print(f"all held-out groups: coverage {summary(held)['coverage']:.0%} of {len(held)} forecasts")
    for share in CHECKED_SHARES:
        numbers = summary(cases(curves, share))
        print(f"as shipped, from {share:.0%}: " + ", ".join(f"{key} {value:.2%}" for key, value in numbers.items()))


if __name__ == "__main__":
    if "--cross-check" in sys.argv:
        cross_check(published())
    else:
        PAGE.write_text(page(published()), encoding="utf-8")
