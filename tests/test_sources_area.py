"""The area under a thinned loss curve, against sums that are known: closed forms, power laws, real runs."""

import json
from pathlib import Path

import numpy as np
import pytest

from prequential.sources.area import area_under

CURVES = Path(__file__).parents[2] / "shared" / "data" / "loss-curves"
DISTANCES = (2, 5, 10, 20, 50, 100, 200, 500)
# Phases of the thinning: the first step logged, or only the last of each stretch, and some between.
PHASES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def thinned(losses: np.ndarray, every: int, first: int, measured_share: float = 1.0):
    """Area of every n-th loss of one-token steps, and how far it is from the sum of all up to the last logged."""
    steps = np.arange(1.0, len(losses) + 1)[first::every]
    area = area_under(losses[first::every], steps, np.ones(len(steps)), measured_share)
    return area, float(area.nats.sum()) - float(losses[: int(steps[-1])].sum())


def power_law(steps: int, exponent: float = 0.35) -> np.ndarray:
    return 2.8 + 6 * np.arange(1.0, steps + 1) ** -exponent


def test_a_log_of_every_step_is_summed_exactly():
    losses = power_law(1000) + np.random.default_rng(0).normal(0, 0.3, 1000)
    area, error = thinned(losses, 1, 0)
    np.testing.assert_array_equal(area.nats, losses)
    assert error == 0
    assert area.standard_error == 0


def test_three_rows_by_hand():
    """Steps 1, 3 and 5 of two tokens; the two gaps lie at tokens 2 to 4 and 6 to 8 on lines over log tokens."""
    tokens, losses, places = np.array([2.0, 6.0, 10.0]), np.array([5.0, 3.0, 2.5]), np.array([1.0, 5.0, 9.0])
    grid = np.linspace(0, 2, 200_001)

    def mean(begin: float, row: int) -> float:
        line = np.interp(np.log(begin + grid), np.log(places[row : row + 2]), losses[row : row + 2])
        return float(np.trapezoid(line, grid) / 2) if hasattr(np, "trapezoid") else float(np.trapz(line, grid) / 2)

    area = area_under(losses, tokens, np.full(3, 2.0))
    expected = [10.0, 6.0 + 2 * mean(2.0, 0), 5.0 + 2 * mean(6.0, 1)]
    np.testing.assert_allclose(area.nats, expected, rtol=1e-9)


def test_a_straight_line_over_log_tokens_has_its_integral():
    """``9 - 0.3 ln t``: each gap and the head, whose mean is that of the line from 0 on, in closed form."""
    tokens = np.array([100.0, 250.0, 900.0, 5000.0])
    own = np.full(4, 0.01)
    losses = 9 - 0.3 * np.log(tokens - own / 2)
    area = area_under(losses, tokens, own)
    assert area.nats.sum() == pytest.approx(5000 * (9 - 0.3 * np.log(5000) + 0.3), rel=1e-9)


@pytest.mark.parametrize(("every", "lost"), [(50, 0.004), (500, 0.031)])
def test_the_plain_trapezoid_loses_what_was_published_and_the_area_does_not(every, lost):
    """2.8 + 6 t^-0.35 over 20,000 steps, logged at every n-th: 0.4 % and 3.1 % are gone, most of it before row one."""
    losses = power_law(20_000)
    rows = losses[every - 1 :: every]
    trapezoid = every * float((rows[1:] + rows[:-1]).sum() / 2)
    assert 1 - trapezoid / losses.sum() == pytest.approx(lost, abs=5e-4)
    area, error = thinned(losses, every, every - 1)
    assert abs(error) < area.standard_error < lost * losses.sum()


@pytest.mark.parametrize("exponent", [0.1, 0.35, 0.6])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("every", DISTANCES)
def test_power_laws_lie_within_the_stated_error(exponent, phase, every):
    area, error = thinned(power_law(20_000, exponent), every, round(phase * (every - 1)))
    assert abs(error) <= 2 * area.standard_error


def scores(curves: list[np.ndarray], distances=DISTANCES) -> np.ndarray:
    """Errors of all curves, thinned in all ways, in standard errors."""
    found = []
    for losses in curves:
        for every in distances:
            for first in sorted({round(phase * (every - 1)) for phase in PHASES}):
                area, error = thinned(losses, every, first)
                found.append(error / area.standard_error)
    return np.array(found)


def test_noisy_power_laws_lie_within_the_stated_error_at_the_rate_claimed():
    rng = np.random.default_rng(1)
    found = np.abs(scores([power_law(5000) + rng.normal(0, 0.1, 5000) for _ in range(20)]))
    assert (found < 1).mean() > 0.68
    assert (found < 2).mean() > 0.95


def test_the_error_is_not_stated_too_large():
    """White noise on a flat curve: errors scatter as the standard error says."""
    rng = np.random.default_rng(2)
    found = scores([3 + rng.normal(0, 0.1, 20_000) for _ in range(40)], (10,))
    inside = found[::6]  # the first phase has no head to extrapolate
    assert 0.6 < inside.std() < 1.2


def real_curves() -> list[np.ndarray]:
    runs = json.loads((CURVES / "runs.json").read_text())
    every_step = [run for run in runs if run["rows"] > 1000]
    return [np.loadtxt(CURVES / run["file"], delimiter=",", skiprows=1, usecols=2) for run in every_step]


@pytest.mark.skipif(not CURVES.exists(), reason="the loss curves of real runs are not here")
def test_real_runs_lie_within_the_stated_error_at_the_rate_claimed():
    """Twelve language models, thinned to every 2nd to 500th row in six phases each."""
    found = np.abs(scores(real_curves()))
    assert (found < 1).mean() > 0.68
    assert (found < 2).mean() > 0.95
    assert found.max() < 4


@pytest.mark.skipif(not CURVES.exists(), reason="the loss curves of real runs are not here")
def test_the_stated_error_of_real_runs_is_of_use():
    """A tenth of the rows give the sum to within a percent, and every 500th row to within ten."""
    for losses in real_curves():
        for every, bound in ((10, 0.01), (50, 0.02), (500, 0.1)):
            for first in (0, every - 1):
                area, _ = thinned(losses, every, first)
                assert area.standard_error < bound * losses.sum()


@pytest.mark.parametrize("every", [1, 10])
def test_a_loss_measured_on_a_share_of_its_step_widens_the_error(every):
    """Steps of eight micro-batches, one of them logged: errors scatter as stated, and without the share they do not."""
    rng = np.random.default_rng(3)
    found, told_nothing = [], []
    for _ in range(200):
        micro_batches = power_law(2000)[:, None] + rng.normal(0, 0.3, (2000, 8))
        steps = np.arange(1.0, 2001)[::every]
        truth = micro_batches.mean(1)[: int(steps[-1])].sum()
        rows = micro_batches[::every, 0]
        area = area_under(rows, steps, np.ones(len(steps)), 1 / 8)
        found.append((area.nats.sum() - truth) / area.standard_error)
        told_nothing.append(area_under(rows, steps, np.ones(len(steps))).standard_error < area.standard_error)
    assert 0.8 < np.std(found) < 1.2
    assert (np.abs(found) < 2).mean() > 0.9
    if every == 1:
        assert all(told_nothing)
