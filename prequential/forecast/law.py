"""The law of the rest of a curve: floor, slow and fast power, with a random misfit, and what is assumed about them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from prequential.forecast.cells import Array, Cells

_QUADRATURE = 64  # cells in log tokens for the misfit, which is a small part of the sum


class Assumptions(NamedTuple):
    """What is assumed about loss curves.

    Attributes:
        exponents: Of the slow and the fast power. Scaling laws of language models have 0.28 to 0.37 for data
            (Hoffmann et al. 2022, Besiroglu et al. 2024); 1 stands for what is learnt once and for all.
        shares: Prior means of floor, slow and fast power, as shares of the loss where the forecast begins.
        spreads: Their standard deviations.
        widths: Factors on the spreads that are tried and weighted by evidence.
        window: The fit begins at this share of what was seen.
        cells: Cells in the window.
        misfit: Standard deviation of the misfit where the forecast begins, as a share of the loss.
        misfit_of_distance: What is added to it where the loss is higher or lower than there, as a share of the
            difference. These two set the width of the interval.
        misfit_times: Factors on the misfit that are tried and weighted by evidence, for data whose difficulty changes.
        memory: Correlation length of the misfit in log tokens: 1 is a factor of e.
        decay_drop: What a decay of the learning rate to zero takes off the loss, as a share of it, with half of it as
            standard deviation.
        decay_share: The last share of a run over which it decays, where that is not said.
    """

    exponents: tuple[float, float] = (1 / 3, 1.0)
    shares: tuple[float, float, float] = (0.8, 0.2, 0.0)
    spreads: tuple[float, float, float] = (0.1, 0.1, 0.2)
    widths: tuple[float, ...] = (1.0, 2.0, 4.0)
    window: float = 0.3
    cells: int = 24
    misfit: float = 0.004
    misfit_of_distance: float = 0.1
    misfit_times: tuple[float, ...] = (1.0, 4.0, 16.0)
    memory: float = 1.0
    decay_drop: float = 0.025
    decay_share: float = 0.25


class Rest(NamedTuple):
    """Mean nats per token over the rest, its variance, and the law where the forecast begins."""

    rate: float
    variance: float
    law: tuple[float, float, float]


def rest(cells: Cells, noise: float, growth: float, sampled_share: float, assume: Assumptions) -> Rest:
    """Forecast the rest of a curve: a mixture over widths of the prior and sizes of the misfit.

    Args:
        cells: What was seen.
        noise: Variance of the mean rate over the tokens seen.
        growth: Tokens at the end over tokens seen, above 1.
        sampled_share: Share of the tokens whose loss was logged.
        assume: What is assumed about loss curves.
    """
    late = cells.high > (1 + assume.window) / 2
    level = float(np.average(cells.rate[late], weights=(cells.high - cells.low)[late]))
    if level == 0:  # nothing is left to learn, and nothing to scale by
        return Rest(0.0, 0.0, (0.0, 0.0, 0.0))
    scaled = _Scaled(cells, cells.rate / level, noise / level**2, growth, sampled_share)
    members = [_member(scaled, width, times, assume) for times in assume.misfit_times for width in assume.widths]
    evidence = np.array([member.evidence for member in members])
    share = np.exp(evidence - evidence.max())
    share /= share.sum()
    means = np.array([member.mean for member in members])
    mean = float(share @ means)
    variance = float(share @ (np.array([member.variance for member in members]) + (means - mean) ** 2))
    floor, slow, fast = (level * float(part) for part in share @ np.array([member.law for member in members]))
    return Rest(level * mean, level**2 * variance, (floor, slow, fast))


class _Scaled(NamedTuple):
    """What was seen, in units of the loss where the forecast begins, and what is asked."""

    cells: Cells
    rate: Array
    noise: float
    growth: float
    sampled_share: float


class _Member(NamedTuple):
    """The rest under one prior: mean and variance of its rate, the law, and how well the cells were predicted (log)."""

    mean: float
    variance: float
    law: Array
    evidence: float


def _member(seen: _Scaled, width: float, times: float, assume: Assumptions) -> _Member:
    """Fit the law with the prior's spreads ``width`` and the misfit ``times`` as large.

    Covariance and evidence leave aside that no coefficient is negative.
    """
    from scipy.optimize import nnls

    low, high = seen.cells.low, seen.cells.high
    here = _Places(seen.cells.place, times * _misfit(seen.rate, assume))
    ahead = _ahead(seen.growth, times, assume)
    covariance = _covariance(here, here, assume) + np.diag(seen.noise / (high - low))
    root = np.linalg.cholesky(covariance)
    shapes, spreads = _shapes(low, high, assume), width * np.array(assume.spreads)
    rows = np.concatenate([np.linalg.solve(root, shapes), np.diag(1 / spreads)])
    data = np.concatenate([np.linalg.solve(root, seen.rate), np.array(assume.shares) / spreads])
    law, distance = nnls(rows, data)
    precision = rows.T @ rows
    evidence = -0.5 * distance**2 - 0.5 * np.linalg.slogdet(precision)[1] - np.log(spreads).sum()
    evidence -= np.log(np.diag(root)).sum()
    to_ahead = _covariance(here, ahead, assume).sum(axis=1)
    known = np.linalg.solve(covariance, to_ahead)
    ahead_shapes = _shapes(1.0, seen.growth, assume)
    mean = ahead_shapes @ law + known @ (seen.rate - shapes @ law)
    toward = ahead_shapes - shapes.T @ known
    variance = toward @ np.linalg.solve(precision, toward) + seen.sampled_share * seen.noise / (seen.growth - 1)
    variance += _covariance(ahead, ahead, assume).sum() - to_ahead @ known
    return _Member(float(mean), float(variance), law, float(evidence))


def _shapes(low: Array | float, high: Array | float, assume: Assumptions) -> Array:
    """Means of floor, slow and fast power from ``low`` to ``high``: one column each."""
    return np.stack([power_mean(exponent, low, high) for exponent in (0.0, *assume.exponents)], axis=-1)


def _misfit(relative: Array, assume: Assumptions) -> Array:
    """Standard deviation of the misfit where the loss is ``relative`` to that where the forecast begins."""
    return assume.misfit + assume.misfit_of_distance * np.abs(relative - 1)


class _Places(NamedTuple):
    """Places in log tokens, and how much the misfit at each counts: its standard deviation times a weight."""

    place: Array
    scale: Array


def _covariance(first: _Places, second: _Places, assume: Assumptions) -> Array:
    """Covariance of the misfit between places, weights included."""
    correlation = np.exp(-np.abs(first.place[:, None] - second.place) / assume.memory)
    return np.asarray(first.scale[:, None] * correlation * second.scale)


def _ahead(growth: float, times: float, assume: Assumptions) -> _Places:
    """Places from the tokens seen to ``growth`` times as many, weighted by the share of the rest that lies there.

    How far the loss will have fallen there is taken from the prior.
    """
    edges = np.linspace(0.0, math.log(growth), _QUADRATURE + 1)
    weights = np.diff(np.exp(edges)) / (growth - 1)
    expected = _shapes(np.exp(edges[:-1]), np.exp(edges[1:]), assume) @ np.array(assume.shares)
    return _Places((edges[1:] + edges[:-1]) / 2, times * weights * _misfit(expected, assume))


def power_mean(exponent: float, low: Array | float, high: Array | float) -> Array:
    """Mean of ``t^-exponent`` for t from ``low`` to ``high``, in closed form."""
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    if exponent == 1.0:
        return np.asarray(np.log(high / low) / (high - low))
    power = 1 - exponent
    return np.asarray((high**power - low**power) / (power * (high - low)))
