"""Forecasts: against made curves whose end is known in closed form, and against published runs where they are there."""

import contextlib
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from books import HEADER
from forecast_table import PAGE, page
from loss_curves import DATA, as_book, power_law, published

from prequential.codelength import NATS_PER_BIT, Tally
from prequential.errors import CurveError
from prequential.forecast import Assumptions, forecast, forecast_run
from prequential.forecast.law import power_mean
from prequential.run import Interval, Run

needs_curves = pytest.mark.skipif(not DATA.exists(), reason="the published loss curves are not here")


@pytest.fixture(scope="module")
def curves():
    """The published runs, read once."""
    return published()


def error(curve, share, **options):
    """Relative error of a forecast of a whole curve from its first part, and whether the interval holds the truth."""
    found = forecast(*curve.until(share), curve.tokens[-1], **options)
    truth = curve.nats.sum()
    return found.nats / truth - 1, found.low_nats <= truth <= found.high_nats


def run_of(nats, tokens, *, uncoded=0, name="run"):
    """A run of one interval an element, with ``uncoded`` first tokens in each."""
    charge = uncoded * math.log(256)
    tallies = [
        Tally(nats=float(n), coded_tokens=int(t), uncoded_tokens=uncoded, uncoded_nats=charge)
        for n, t in zip(nats, tokens, strict=True)
    ]
    return Run(name, name, HEADER, [Interval(step, 0.0, tally) for step, tally in enumerate(tallies, start=1)])


class TestTheSum:
    def test_a_finished_run_is_its_own_forecast(self):
        """With nothing left the forecast is the exact sum, with no interval, however few intervals there are."""
        found = forecast([10, 20], [0.1, 0.2], 20)
        assert (found.nats, found.low_nats, found.high_nats) == (math.fsum([0.1, 0.2]),) * 3

    def test_a_constant_loss_stays_constant(self):
        """Without noise, decay or misfit, and a prior that is sure of the floor, the rest costs what the start did."""
        sure = Assumptions(shares=(1.0, 0.0, 0.0), widths=(1.0,), misfit=1e-9, misfit_of_distance=0.0)
        found = forecast(np.arange(1, 101), np.full(100, 2.5), 1000, decay_share=0, assume=sure)
        assert found.nats == pytest.approx(2500, rel=1e-9)
        assert found.high_nats - found.low_nats < 1e-3
        assert found.law == pytest.approx((2.5, 0, 0), abs=1e-6)

    def test_a_curve_of_the_law_is_integrated_in_closed_form(self):
        """A curve of floor and both powers is found to rounding, where the prior is wide and there is no misfit."""
        ends = np.arange(1, 4001) / 4000
        begins = ends - 1 / 4000
        begins[0] = 1e-9

        def area(low, high):  # integral of 2.4 + 0.8 s^-1/3 + 0.01 s^-1 by its antiderivative
            return 2.4 * (high - low) + 1.2 * (high ** (2 / 3) - low ** (2 / 3)) + 0.01 * np.log(high / low)

        nats = area(begins, ends)
        open_minded = Assumptions(widths=(1000.0,), misfit=1e-7, misfit_of_distance=0.0)
        found = forecast(ends[:1200], nats[:1200], 1.0, decay_share=0, assume=open_minded)
        assert found.nats == pytest.approx(nats.sum(), rel=1e-5)
        assert found.law == pytest.approx((2.4, 0.8 * 0.3 ** (-1 / 3), 0.01 / 0.3), rel=2e-2)

    @pytest.mark.parametrize("exponent", [0.0, 1 / 3, 1.0, 2.0])
    def test_the_mean_of_a_power_is_its_integral(self, exponent):
        """Closed form against a fine midpoint sum."""
        middles = 0.5 + (np.arange(100_000) + 0.5) * 1.5 / 100_000
        assert power_mean(exponent, 0.5, 2.0) == pytest.approx(np.mean(middles**-exponent), rel=1e-9)


class TestMadeCurves:
    @pytest.mark.parametrize("floor", [2.0, 2.5, 3.0])
    @pytest.mark.parametrize("rest", [0.2, 0.4, 0.8])
    def test_power_laws_are_found(self, floor, rest):
        """Floor plus power with noise: within 1 % from 30 %, and nearly always inside."""
        results = [error(power_law(floor=floor, rest=rest, seed=seed), 0.3) for seed in range(20)]
        assert np.median([abs(miss) for miss, _ in results]) < 0.01
        assert np.mean([inside for _, inside in results]) >= 0.85

    @pytest.mark.parametrize(
        ("floor", "rest", "exponent"), [(0.0, 1.0, 1.0), (1.0, 1.0, 0.7), (0.0, 2.0, 0.5), (0.0, 0.05, 0.7)]
    )
    def test_curves_unlike_those_of_language_models_are_not_bent_to_them(self, floor, rest, exponent):
        """A loss that goes to zero is held up less by wider priors than by the narrow one alone, and to 5 %."""
        noise, narrow = 0.03 * (floor + rest), Assumptions(widths=(1.0,))
        for seed in range(5):
            curve = power_law(floor=floor, rest=rest, exponent=exponent, noise=noise, seed=seed)
            curve = curve._replace(nats=np.maximum(curve.nats, 0))
            mixed, alone = error(curve, 0.3)[0], error(curve, 0.3, assume=narrow)[0]
            assert abs(mixed) < min(0.05, abs(alone))

    @pytest.mark.parametrize("decay_share", [0.0, 0.2, 0.4])
    def test_either_schedule_lies_in_the_interval_when_it_is_not_told(self, decay_share):
        """Constant rate or cooldown: the default covers both."""
        results = [error(power_law(rest=0.5, seed=seed, decay_share=decay_share), 0.3) for seed in range(20)]
        assert np.mean([inside for _, inside in results]) >= 0.85

    def test_a_schedule_that_is_told_moves_the_forecast_as_the_decay_does(self):
        """The drop is the closed form 2.5 % x half x the share of the rest; unknown lies between none and told."""
        curve = power_law(decay_share=0.28)
        part = curve.until(0.3)
        none, unknown, told = (
            forecast(*part, curve.tokens[-1], decay_share=share) for share in (0, None, Assumptions().decay_share)
        )
        rest = none.nats - none.seen_nats
        assert none.nats - told.nats == pytest.approx(rest * 0.025 / 2 * 0.25 / 0.7, rel=1e-9)
        assert unknown.nats == pytest.approx((none.nats + told.nats) / 2, rel=1e-12)
        assert unknown.low_nats < told.nats

    def test_what_the_decay_took_off_already_is_not_taken_off_again(self):
        """Half way through a decay of the last half, a quarter of the tokens and half of the drop are left."""
        curve = power_law()
        none, told = (forecast(*curve.until(0.75), curve.tokens[-1], decay_share=share) for share in (0, 0.5))
        rest = none.nats - none.seen_nats
        assert none.nats - told.nats == pytest.approx(rest * 0.025 * 0.5 / 2, rel=1e-9)

    def test_data_whose_difficulty_changes_is_less_sure(self):
        """Files of 1 to 2 % of the run, harder or easier by 10 %: a wider misfit covers what the usual does not."""
        usual = Assumptions(misfit_times=(1.0,))
        inside = {"mixed": [], "usual": []}
        for seed in range(20):
            rng, curve = np.random.default_rng(seed), power_law(rest=0.4, seed=seed)
            files = np.repeat(rng.lognormal(0.0, 0.1, 100), rng.integers(40, 80, 100))[: len(curve.nats)]
            curve = curve._replace(nats=curve.nats * files)
            inside["mixed"].append(error(curve, 0.3)[1])
            inside["usual"].append(error(curve, 0.3, assume=usual)[1])
        assert np.mean(inside["mixed"]) >= 0.85
        assert np.mean(inside["usual"]) < np.mean(inside["mixed"])

    def test_a_steep_start_does_not_run_on(self):
        """A fast power that is nearly used up leaves the forecast within 2 %."""
        assert max(abs(error(power_law(rest=0.5, fast=0.02, seed=seed), 0.2)[0]) for seed in range(10)) < 0.02

    def test_a_diverging_run_is_forecast_flat_not_down(self):
        """No coefficient is negative: a rising loss goes on at about where it is."""
        ends = np.arange(1, 501)
        loss = 3 + 0.2 * ends / 500
        found = forecast(ends, loss, 1000, decay_share=0)
        assert 3.0 * 500 < found.nats - loss.sum() < 3.2 * 500 * 1.01

    def test_a_loss_of_zero_is_forecast_as_zero(self):
        """No division by the level."""
        assert forecast(np.arange(1, 51), np.zeros(50), 100).nats == pytest.approx(0, abs=1e-9)


class TestTheInterval:
    def test_it_narrows_as_the_run_goes_on(self):
        """Less left, less unknown; it always lies around the forecast, and never below what was already paid."""
        curve = power_law()
        found = [forecast(*curve.until(share), curve.tokens[-1]) for share in (0.1, 0.2, 0.4, 0.8, 0.99)]
        widths = [one.high_nats - one.low_nats for one in found]
        assert widths == sorted(widths, reverse=True)
        assert all(one.seen_nats <= one.low_nats <= one.nats <= one.high_nats for one in found)

    def test_it_does_not_take_back_what_was_paid(self):
        """One more interval of very noisy loss: its interval reaches below 0, that of the sum not below the sum."""
        ends, nats = np.arange(1, 201), np.random.default_rng(0).exponential(size=200)
        found = forecast(ends, nats, 201)
        assert found.high_nats - found.nats > found.nats - found.seen_nats
        assert found.low_nats == found.seen_nats == pytest.approx(nats.sum())

    def test_more_confidence_is_wider_by_the_normal_quantile(self):
        curve = power_law()
        half, most = (forecast(*curve.until(0.3), curve.tokens[-1], confidence=c) for c in (0.5, 0.9))
        ratio = (most.high_nats - most.nats) / (half.high_nats - half.nats)
        assert ratio == pytest.approx(1.6448536 / 0.6744898, rel=1e-6)

    def test_a_subsampled_log_is_less_sure_of_the_past(self):
        """At the end of the run what is left is the sampling error: sd of a mean over n rows, once 1 - share is unseen.

        Rows with noise 0.1 make the total uncertain by 0.1 sqrt(rows) rows x sqrt(1 - share) (finite population).
        """
        curve = power_law(noise=0.1, steps=20_000)
        halves = []
        for seed in range(10):
            curve = power_law(noise=0.1, steps=20_000, seed=seed)
            found = forecast(curve.tokens, curve.nats, curve.tokens[-1], sampled_share=0.125)
            assert found.nats == pytest.approx(curve.nats.sum(), rel=1e-12)
            halves.append((found.high_nats - found.nats) / 1.6448536)
        expected = 0.1 * math.sqrt(20_000) * 1000 * math.sqrt(1 - 0.125)
        assert math.sqrt(np.mean(np.square(halves))) == pytest.approx(expected, rel=0.15)

    def test_its_noise_is_that_of_whole_cells(self):
        """Noise that is the same for 20 steps running widens the interval as fewer, independent steps would."""
        rng = np.random.default_rng(0)
        ends, trend = np.arange(1, 4001), 3.0
        sd = {}
        for kind, noise in (
            ("white", 0.1 * rng.standard_normal(4000)),
            ("runs of 20", np.repeat(0.1 * rng.standard_normal(200), 20)),
        ):
            found = forecast(ends, trend + noise, 4000, sampled_share=1e-9)
            sd[kind] = found.high_nats - found.nats
        assert 2.5 < sd["runs of 20"] / sd["white"] < 7.5  # sqrt(20) = 4.5


class TestIntervals:
    def test_a_book_is_forecast_as_its_steps_are(self):
        """Single steps at first and then 1 % of the run: the same within a tenth of the interval."""
        curve = power_law()
        part = curve.until(0.3)
        steps, book = forecast(*part, curve.tokens[-1]), forecast(*as_book(*part), curve.tokens[-1])
        assert len(as_book(*part)[0]) < 500
        assert abs(book.nats - steps.nats) < 0.1 * (steps.high_nats - steps.nats)

    def test_units_do_not_matter(self):
        """Tokens counted in other units, or losses in others, scale the result and nothing else."""
        curve = power_law()
        ends, nats = curve.until(0.3)
        plain, scaled = forecast(ends, nats, 4e6), forecast(ends / 1e6, nats * 7, 4.0)
        assert scaled.nats == pytest.approx(7 * plain.nats, rel=1e-9)
        assert scaled.low_nats == pytest.approx(7 * plain.low_nats, rel=1e-9)

    def test_intervals_without_tokens_are_left_out(self):
        """Replay adds lines to a book but neither tokens nor nats."""
        curve = power_law()
        ends, nats = curve.until(0.3)
        found = forecast(np.repeat(ends, 2), np.stack([nats, 0 * nats], axis=1).ravel(), 4e6)
        assert found == forecast(ends, nats, 4e6)

    @pytest.mark.parametrize(
        ("tokens", "nats", "total", "options", "message"),
        [
            ([1, 2], [1.0], 5, {}, r"one shape \(n,\), got \(2,\) and \(1,\)"),
            ([], [], 5, {}, "nothing was seen yet"),
            ([1, 2], [1.0, math.nan], 5, {}, "finite"),
            ([2, 1], [1.0, 1.0], 5, {}, "cumulative tokens"),
            ([0, 0], [0.0, 0.0], 5, {}, "nothing was seen yet"),
            ([1, 2], [1.0, -1.0], 5, {}, "nats of 0 or more, got -1"),
            ([0, 1], [1.0, 1.0], 5, {}, "no nats in intervals without tokens"),
            ([1, 2], [1.0, 1.0], 1, {}, "at least the 2 seen, got 1"),
            ([1, 2], [1.0, 1.0], math.inf, {}, "at least the 2 seen, got inf"),
            ([1, 2], [1.0, 1.0], math.nan, {}, "at least the 2 seen, got nan"),
            ([1, 2], [1.0, 1.0], 10**400, {}, "at least the 2 seen, got 2,000"),
            ([1, 2], [1.0, 1.0], 5, {}, "at least 6 intervals after the first 30% of what was seen, got 1"),
            ([1, 2], [1.0, 1.0], 5, {"confidence": 1.0}, "confidence above 0 and below 1, got 1.0"),
            ([1, 2], [1.0, 1.0], 5, {"sampled_share": 0.0}, "sampled_share above 0 and at most 1, got 0.0"),
            (range(1, 51), [1.0] * 50, 99, {"decay_share": 1.5}, "decay_share above 0 and at most 1, got 1.5"),
        ],
    )
    def test_what_is_no_curve_is_refused(self, tokens, nats, total, options, message):
        with pytest.raises(CurveError, match=message):
            forecast(list(tokens), nats, total, **options)


class TestARun:
    def test_its_quantities_include_bundle_and_uncoded_tokens(self):
        """Bundle and choices stay, uncoded tokens grow in proportion, and the coded part is `forecast`'s."""
        curve = power_law(steps=400)
        run = replace(run_of(curve.nats, np.full(400, 1000), uncoded=1), charges={"best of 8": 3.0})
        found = forecast_run(run, 2 * run.total.tokens)
        coded = forecast(curve.tokens, curve.nats, 2 * curve.tokens[-1])
        assert found["forecast_data_bits"] == pytest.approx(coded.nats / NATS_PER_BIT, rel=1e-12)
        expected = (found["forecast_data_bits"] + 2 * 400 * 8 + 3) / 8 + 700
        assert found["forecast_compressed_bytes"] == pytest.approx(expected, rel=1e-12)
        low, high = found["forecast_compressed_bytes_interval"]
        assert low < found["forecast_compressed_bytes"] < high
        assert high - low == pytest.approx(np.diff(found["forecast_data_bits_interval"])[0] / 8, rel=1e-9)

    def test_at_its_own_end_it_is_the_run(self):
        curve = power_law(steps=50)
        run = run_of(curve.nats, np.full(50, 1000), uncoded=1)
        found = forecast_run(run, run.total.tokens)
        assert found["forecast_compressed_bytes"] == pytest.approx(run.measured()["compressed_bytes"], rel=1e-12)

    def test_fewer_tokens_than_it_has_are_refused(self):
        run = run_of(np.ones(50), np.full(50, 10))
        with pytest.raises(CurveError, match="at least the 500 seen, got 499"):
            forecast_run(run, 499)


@needs_curves
class TestPublishedRuns:
    @pytest.mark.parametrize(("share", "median", "worst"), [(0.1, 0.015, 0.06), (0.2, 0.015, 0.04), (0.3, 0.005, 0.02)])
    def test_errors_and_coverage(self, curves, share, median, worst):
        """Median and worst error of the total; at least 85 % of the intervals hold it."""
        results = [error(curve, share) for curve in curves]
        assert np.median([abs(miss) for miss, _ in results]) <= median
        assert max(abs(miss) for miss, _ in results) <= worst
        assert np.mean([inside for _, inside in results]) >= 0.85

    @pytest.mark.parametrize(("share", "holds"), [(0.01, 0), (0.05, 11), (0.1, 15)])
    def test_before_a_tenth_the_interval_does_not_hold(self, curves, share, holds):
        """Why nothing is shown so early; runs of which too little is left for a forecast are not counted."""
        found = []
        for curve in curves:
            with contextlib.suppress(CurveError):
                one = forecast(*as_book(*curve.until(share)), curve.tokens[-1])
                found.append(one.low_nats <= curve.nats.sum() <= one.high_nats)
        assert sum(found) == holds

    def test_intervals_from_30_percent_are_narrow(self, curves):
        found = [forecast(*curve.until(0.3), curve.tokens[-1]) for curve in curves]
        widths = [(one.high_nats - one.low_nats) / curve.nats.sum() for one, curve in zip(found, curves, strict=True)]
        assert np.median(widths) <= 0.03

    def test_a_book_of_them_does_as_well(self, curves):
        """The bounds hold for a book's intervals too."""
        errors = []
        for curve in curves:
            found = forecast(*as_book(*curve.until(0.3)), curve.tokens[-1])
            errors.append(abs(found.nats / curve.nats.sum() - 1))
        assert np.median(errors) <= 0.005
        assert max(errors) <= 0.02

    def test_the_table_of_the_docs_is_what_the_code_gives(self, curves):
        """The same words, and the same numbers up to the last digit shown, which other builds of numpy may round."""
        number = re.compile(r"[-+]?\d[\d,]*\.\d+")
        stored, given = PAGE.read_text(encoding="utf-8"), page(curves)
        assert number.sub("#", stored) == number.sub("#", given), "run: python tests/forecast_table.py"
        values = [[float(n.replace(",", "")) for n in number.findall(text)] for text in (stored, given)]
        assert values[0] == pytest.approx(values[1], abs=0.11), "run: python tests/forecast_table.py"
