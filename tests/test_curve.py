"""The split of the area, catch-up points and surplus description length: against sums by hand and closed forms."""

import math
from dataclasses import replace

import numpy as np
import pytest
from books import HEADER, tallies
from loss_curves import DATA, published

from prequential.codelength import NATS_PER_BIT, Tally
from prequential.curve import CatchUp, Point, catch_up, running_model_bits, split, surplus
from prequential.errors import CurveError
from prequential.run import Interval, Run

FALLING = [5.0, 4.0, 3.0, 2.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]


def run_of(losses, *, tokens=1000, header=None, **columns):
    """A run of one interval a loss, each token one byte."""
    parts = tallies(losses, tokens=tokens, **columns)
    intervals = [Interval(step, 0.0, tally) for step, tally in enumerate(parts, start=1)]
    return Run("run", "run", {**HEADER, **(header or {})}, intervals)


class TestSplit:
    def test_the_area_above_the_final_loss(self):
        """(3 + 2 + 1 + 0.5) x 1000 nats above 2 nats a token."""
        found = split(run_of(FALLING), "in_sample")
        assert found.floor_nats_per_token == 2.0
        assert found.model_bits == pytest.approx(6500 / math.log(2), rel=1e-12)
        assert found.rest_bits == pytest.approx(20_000 / math.log(2), rel=1e-12)

    def test_the_area_above_a_held_out_loss(self):
        """The same area less 1000 nats for each tenth by which the held-out loss is higher; it may be negative."""
        run = run_of(FALLING)
        assert split(run, "held_out", held_out_nats_per_token=2.1).model_bits == pytest.approx(5500 / math.log(2))
        assert split(run, "held_out", held_out_nats_per_token=3.0).model_bits == pytest.approx(-3500 / math.log(2))

    def test_the_running_floor_is_the_lowest_loss_so_far(self):
        """A loss that rises at the end lowers what is above the final loss, not what is above the running floor."""
        run = run_of([*FALLING, 4.0])
        assert split(run, "running").floor_nats_per_token == 2.0
        assert split(run, "running").model_bits == pytest.approx(8500 / math.log(2), rel=1e-12)
        assert split(run, "in_sample").model_bits == pytest.approx((30.5 - 44) * 1000 / math.log(2), rel=1e-12)

    @pytest.mark.parametrize(("floor", "held_out"), [("running", None), ("held_out", 1.7), ("in_sample", None)])
    def test_the_parts_add_up_to_the_data(self, floor, held_out):
        run = run_of(np.random.default_rng(0).uniform(1, 5, 200))
        found = split(run, floor, held_out_nats_per_token=held_out)
        assert found.model_bits + found.rest_bits == pytest.approx(run.measured()["data_bits"], rel=1e-12)

    def test_a_power_law_has_its_closed_form(self):
        """The area of 2 + s^-1/2 over shares s of N tokens above its floor of 2 is 2 N nats."""
        steps = 20_000
        edges = np.arange(steps + 1) / steps
        losses = 2 + 2 * np.diff(np.sqrt(edges)) * steps
        found = split(run_of(losses, tokens=10), "held_out", held_out_nats_per_token=2.0)
        assert found.model_bits == pytest.approx(2 * 10 * steps / math.log(2), rel=1e-9)

    def test_memorising_shows_as_the_difference_of_two_floors(self):
        """In-sample minus held-out is (held-out - in-sample loss) x tokens."""
        run = run_of(FALLING)
        extra = split(run, "in_sample").model_bits - split(run, "held_out", held_out_nats_per_token=2.6).model_bits
        assert extra == pytest.approx(0.6 * 10_000 / math.log(2), rel=1e-12)

    @pytest.mark.parametrize(
        ("floor", "held_out", "message"),
        [
            ("held_out", None, "held_out_nats_per_token with the floor 'held_out' and no other, got none"),
            ("running", 2.0, "got 2.0 with floor 'running'"),
            ("final", None, "floor 'running', 'held_out' or 'in_sample', got 'final'"),
        ],
    )
    def test_floors_are_named(self, floor, held_out, message):
        with pytest.raises(CurveError, match=message):
            split(run_of(FALLING), floor, held_out_nats_per_token=held_out)

    def test_an_empty_run_has_no_area(self):
        with pytest.raises(CurveError, match="expected coded tokens, got none"):
            split(run_of([]), "running")


class TestRunning:
    def test_it_is_what_a_reader_would_have_said(self):
        """Each value is the split of the run cut there."""
        rng = np.random.default_rng(1)
        run = run_of(2 + 3 / np.sqrt(np.arange(1, 301)) + 0.1 * rng.standard_normal(300), uncoded_tokens=1)
        for count, point in enumerate(running_model_bits(run), start=1):
            cut = replace(run, intervals=run.intervals[:count])
            assert point.tokens == cut.total.tokens
            assert point.model_bits == pytest.approx(split(cut, "running").model_bits, rel=1e-9, abs=1e-6)

    def test_its_smoothing_is_that_of_the_final_loss(self):
        """While the loss falls the running floor is the final loss of the run cut there."""
        run = run_of(2 + 3 / np.sqrt(np.arange(1, 301)))
        for count in (2, 19, 20, 21, 60, 300):
            cut = replace(run, intervals=run.intervals[:count])
            assert split(cut, "running").floor_nats_per_token == pytest.approx(cut.final_nats_per_token, rel=1e-12)

    def test_intervals_without_coded_tokens_change_nothing(self):
        """Replay at the start, in between and at the end."""
        run = run_of(FALLING)
        empty = Interval(0, 0.0, Tally(replayed_tokens=100, replayed_nats=1.0))
        mixed = replace(run, intervals=[empty, *[x for i in run.intervals for x in (i, empty)]])
        assert split(mixed, "running") == split(run, "running")
        assert max(running_model_bits(mixed)) == max(running_model_bits(run))

    def test_by_hand(self):
        """At every boundary: nats so far less the last loss times the tokens so far."""
        found = running_model_bits(run_of([3.0, 2.0, 1.0], tokens=10))
        assert [point.tokens for point in found] == [10, 20, 30]
        assert [point.model_bits * NATS_PER_BIT for point in found] == pytest.approx([0, 10, 30])
        assert isinstance(found[0], Point)


class TestCatchUp:
    def test_against_the_uniform_code(self):
        """5.5452 nats a token: 2.3026 below it from the second thousand on; the bundle of 700 bytes delays it.

        Losses 6, 4, 4, ... lead by -0.455, 1.09, 2.64, 4.18 thousand nats; the bundle costs 3.88 thousand.
        """
        found = catch_up(run_of([6.0] + [4.0] * 9), {})
        assert found == [CatchUp("uniform", tokens=4000, tokens_without_bundle=2000, estimate=False)]

    def test_other_codes_are_scaled_to_the_prefix(self):
        """Losses of 6, 5, 4, 3.5, 2, 1, 1, ... bits against 4 bits a byte: shorter after 6 intervals."""
        run = run_of([bits * NATS_PER_BIT for bits in (6, 5, 4, 3.5, 2, 1, 1, 1, 1, 1)])
        sizes = {"uniform": 10_000, "xz -9e": 5000, "best": 100}
        by_name = {one.name: one for one in catch_up(run, sizes)}
        assert list(by_name) == ["uniform", "raw", "xz -9e", "best"]
        assert by_name["xz -9e"].tokens_without_bundle == 6000  # 21,500 bits against 24,000
        assert (
            by_name["xz -9e"].tokens == 8000
        )  # with 5,600 for the bundle: 28,100 against 28,000, 29,100 against 32,000
        assert by_name["xz -9e"].estimate
        assert (by_name["best"].tokens, by_name["best"].tokens_without_bundle) == (None, None)
        assert not by_name["raw"].estimate
        assert (
            by_name["raw"].tokens == by_name["uniform"].tokens == 3000
        )  # 16,600 against 16,000, 20,600 against 24,000

    def test_a_lead_that_is_lost_again_does_not_count(self):
        """From which on the code is shorter: a spike moves it behind the spike, or to never."""
        ahead, lost = [1.0] * 3, [20.0]
        assert catch_up(run_of([*ahead, *lost, *[1.0] * 5]), {})[0].tokens_without_bundle == 5000
        assert catch_up(run_of([*ahead, *lost]), {})[0].tokens_without_bundle is None

    def test_sizes_come_from_the_book(self):
        run = run_of([1.0] * 10, header={"baselines": {"gzip -9": 4000}})
        assert [one.name for one in catch_up(run)] == ["uniform", "gzip -9"]
        # 4000 bytes for 20,000 are 1.6 bits a byte, for 10,000 they are 3.2: the run has 1.44
        run = run_of([2.0] + [1.0] * 9, header={"baselines": {"gzip -9": 4000}})  # 2.89 bits at first
        assert catch_up(run)[1].tokens_without_bundle == 1000
        assert catch_up(run, raw_bytes=20_000)[1].tokens_without_bundle == 10_000  # 15,870 bits against 16,000

    def test_uncoded_tokens_and_choices_are_charged(self):
        """Uncoded tokens cost what the uniform code costs; a choice of 2900 bits takes three intervals to make up."""
        losses = [math.log(256) - 1.0] * 10  # a lead of 1000 nats = 1442.7 bits an interval
        plain = run_of(losses, uncoded_tokens=5, uncoded_nats=5 * math.log(256))
        assert catch_up(plain, {})[0].tokens_without_bundle == 1005
        chosen = replace(plain, charges={"best of many": 2900.0})
        assert catch_up(chosen, {})[0].tokens_without_bundle == 3 * 1005

    def test_what_is_unknown_is_left_out(self):
        """No V, no uniform code; no bytes, no other codes; no bundle, no token count with it."""
        run = run_of([1.0] * 10, header={"vocab_size": None, "bytes_known": False})
        assert catch_up(run, {"xz -9e": 5000}) == []
        assert catch_up(run_of([1.0] * 10, header={"bundle": None}), {})[0].tokens is None


class TestSurplus:
    def test_a_falling_loss_gives_the_papers_sum(self):
        """Sum of positive parts, term by term."""
        for tolerance in (2.0, 2.2, 3.3, 6.0):
            found = surplus(run_of(FALLING), tolerance)
            expected = sum(max(0.0, loss - tolerance) * 1000 for loss in FALLING)
            assert found.bits == pytest.approx(expected / math.log(2), rel=1e-12)
            assert found.reached

    def test_a_tolerance_that_is_not_reached_bounds_from_below(self):
        """All of the run, and said so."""
        found = surplus(run_of(FALLING), 1.0)
        assert found.bits == pytest.approx((26.5 - 10) * 1000 / math.log(2), rel=1e-12)
        assert (found.tokens, found.reached) == (10_000, False)

    def test_it_stops_where_the_loss_reaches_the_tolerance(self):
        assert surplus(run_of(FALLING), 2.6).tokens == 3000
        assert surplus(run_of(FALLING), 6.0).tokens == 0

    def test_noise_below_the_tolerance_does_not_add_up(self):
        """The positive parts of noise would give 0.04 x 100,000 tokens more, and grow with the run."""
        noise = 0.1 * np.random.default_rng(0).standard_normal(1000)
        losses = np.concatenate([[5.0, 4.0, 3.0], 2.0 + noise])
        found = surplus(run_of(losses, tokens=100), 2.1)
        exact = (2.9 + 1.9 + 0.9) * 100
        assert found.bits * NATS_PER_BIT == pytest.approx(exact, abs=10)
        assert sum(np.maximum(0, losses - 2.1)) * 100 > exact + 500

    @pytest.mark.parametrize("tolerance", [-0.1, math.inf, math.nan])
    def test_a_tolerance_is_a_loss(self, tolerance):
        with pytest.raises(CurveError, match="expected a tolerance of 0 nats per token or more"):
            surplus(run_of(FALLING), tolerance)


@pytest.mark.skipif(not DATA.exists(), reason="the published loss curves are not here")
def test_published_runs_rank_differently_by_area_and_by_what_lies_above_the_floor():
    """Of four optimisers on the same tokens Muon has the least area, and the least of it above its final loss.

    SOAP ends at about Muon's loss, so that its larger area is model bits by the in-sample floor.
    """
    curves = {c.name: c for c in published() if c.group == "gpt124m-optimizers"}
    found = {}
    for name, curve in curves.items():
        tokens = np.diff(curve.tokens, prepend=0)
        tallies_ = [Tally(nats=n, coded_tokens=int(t)) for n, t in zip(curve.nats, tokens, strict=True)]
        run = Run(name, name, {}, [Interval(k, 0.0, tally) for k, tally in enumerate(tallies_)])
        found[name.rsplit("-")[-1]] = (run.total.nats, split(run, "in_sample"))
    areas = {name: nats for name, (nats, _) in found.items()}
    assert min(areas, key=areas.get) == "muon"
    extra = found["soap"][1].model_bits - found["muon"][1].model_bits
    assert extra / 8e6 == pytest.approx(42, abs=3)  # the README of the data: 42 MB
