"""Runs side by side at equal data: which describes the data in fewer bytes, and whether that is noise.

- `conditions`: what must be equal, what is only said, what was forced.
- `alignment`: runs told apart by name, and cut where their books have a boundary.
- `differences`: one run against another: by how much, since when, and what the difference is of.
- `noise`: the interval of a difference, from paired blocks.
- `groups`: runs by a setting.
- `shared`: what the code of one data set already says of another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from prequential.comparison.alignment import common_prefix_of, with_names
from prequential.comparison.conditions import Mismatch, check
from prequential.comparison.differences import Difference, difference
from prequential.comparison.groups import Group, grouped
from prequential.comparison.shared import Saving, Shared, shared
from prequential.errors import ComparisonError
from prequential.run import Run

__all__ = [
    "Comparison",
    "Difference",
    "Group",
    "Mismatch",
    "Row",
    "Saving",
    "Shared",
    "Verdict",
    "compare",
    "known_quantities",
    "shared",
]

Quantities = dict[str, float | int | None]


@dataclass(frozen=True)
class Row:
    """One run of a comparison: its name there, and its quantities by their names in the registry."""

    name: str
    run: Run
    quantities: Quantities


@dataclass(frozen=True)
class Verdict:
    """Which run describes the data in fewer bytes.

    Attributes:
        winner: Name of the run; None for a tie, a difference within noise.
        difference: The first in the ranking against its rival: the second, or in a tie the first of those it cannot be
            told from.
        choice_bits: What it costs to tell a receiver which of the N runs won, log2 N; 0 for a tie. Unless the best of N
            was asked for, the runs' own quantities leave it out, so that they are the same beside any other run.
        charged: Whether these bits stand in the quantities of the first run, and in the difference.
    """

    winner: str | None
    difference: Difference
    choice_bits: float
    charged: bool = False

    @property
    def rival(self) -> str:
        """Name of the run that the first in the ranking is held against."""
        return self.difference.rival

    @property
    def difference_bytes(self) -> float:
        """How many bytes the first in the ranking needs less than its rival."""
        return self.difference.difference_bytes

    @property
    def interval_bytes(self) -> tuple[float, float] | None:
        """95 % interval of that difference; None where it could not be estimated."""
        return self.difference.interval_bytes


@dataclass(frozen=True)
class Comparison:
    """Runs on the same data, shortest description first.

    Attributes:
        rows: The runs, ranked by ``compressed_bytes``.
        verdict: Which wins, and by how much.
        notes: What a reader must know beside the numbers, one sentence each.
        differences: The first run against each of the others, in their order.
        forced: Fields in which the runs differ and for which the comparison was refused, but forced.
        group_by: The setting that runs were grouped by, if they were.
        groups: The runs by that setting.
        baselines: Quantities of the same data under other codes, by name, smallest first; empty unless all runs carry
            the same ones. Their programs are public, so that nothing is charged for them.
    """

    rows: tuple[Row, ...]
    verdict: Verdict
    notes: tuple[str, ...]
    differences: tuple[Difference, ...] = ()
    forced: tuple[Mismatch, ...] = ()
    group_by: str | None = None
    groups: tuple[Group, ...] = ()
    baselines: dict[str, Quantities] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        """Show the comparison in a notebook: its page."""
        from prequential.views.page import fragment

        return fragment([row.run for row in self.rows], self)


def compare(
    runs: Sequence[Run],
    *,
    common_prefix: bool = False,
    force: bool = False,
    best_of: int | None = None,
    group_by: str | None = None,
) -> Comparison:
    """Compare runs by ``compressed_bytes = (data_bits + uncoded_bits + choice_bits) / 8 + bundle_bytes``.

    The difference of two totals is exact for these runs on this data; it is called a tie if the 95 % interval around
    it, from paired differences, does not lie above the log2 N bits which naming the best of N runs costs.

    Args:
        runs: Two runs or more, as `load_run` gives them, in any order.
        common_prefix: Cut all runs at the largest token count at which every book has an interval boundary.
        force: Compare runs that differ in what must be equal; what differs is listed in ``forced``.
        best_of: Charge the first in the ranking for having been chosen among so many runs, at least those given: log2 N
            bits in its own quantities. For a result that is reported as the best of N.
        group_by: Dotted path of a setting, in the head of the book or the configuration in its bundle.

    Returns:
        The ranking, the verdict and notes.

    Raises:
        ComparisonError: Fewer than two runs, runs that cannot be compared (the message names the field and both
            values), a best of fewer runs than are given, or a setting that a run does not have.
    """
    if len(runs) < 2:
        raise ComparisonError(f"expected two runs or more, got {len(runs)}: name at least two")
    if best_of is not None and best_of < len(runs):
        raise ComparisonError(f"expected the best of {len(runs)} runs or more, as so many are given, got {best_of}")
    named = with_names(runs)
    notes = []
    if common_prefix:
        named, note = common_prefix_of(named)
        notes.append(note)
    paired, more, forced = check(named, prefix=common_prefix, force=force)
    ranked = sorted(named, key=lambda run: (_compressed_bytes(run), run.name))
    if best_of is not None:
        ranked[0] = _chosen(ranked[0], best_of)
    comparison = _judged(ranked, paired, notes + more, best_of)
    groups = () if group_by is None else grouped(ranked, group_by)
    baselines = {} if common_prefix or forced else _baselines(ranked)
    return replace(comparison, forced=forced, group_by=group_by, groups=groups, baselines=baselines)


def known_quantities(run: Run) -> Quantities:
    """Quantities of a run as `Run.measured` gives them, with None for charges that nobody knows.

    Those are the size of a bundle that was left out, and of uncoded tokens where V is unknown; the totals then lack
    them.
    """
    values = run.measured()
    if "bundle_bytes" not in run.bundle:
        values["bundle_bytes"] = None
    if run.total.uncoded_tokens and not run.total.uncoded_nats:
        values["uncoded_bits"] = None
    return values


def _baselines(runs: Sequence[Run]) -> dict[str, Quantities]:
    """Quantities of raw bytes and of the baselines that all runs agree on."""
    sizes, raw_bytes = runs[0].header.get("baselines"), runs[0].measured()["raw_bytes"]
    if not sizes or not raw_bytes or any(run.header.get("baselines") != sizes for run in runs):
        return {}
    return {
        name: {
            "compressed_bytes": size,
            "compression_ratio": raw_bytes / size,
            "bits_per_byte": 8 * size / raw_bytes,
        }
        for name, size in sorted({"raw": raw_bytes, **sizes}.items(), key=lambda item: item[1])
        if size
    }


def _compressed_bytes(run: Run) -> float:
    value = run.measured()["compressed_bytes"]
    assert value is not None  # the one quantity that every run has
    return value


def _chosen(run: Run, number: int) -> Run:
    """Charge a run for having been chosen among ``number``."""
    name = f"best of {number} runs"
    if name in run.charges:
        raise ComparisonError(
            f"expected a run that does not pay for the choice yet, got {run.name}, whose book charges {name!r}: leave "
            "best_of out"
        )
    return replace(run, charges={**run.charges, name: math.log2(number)})


def _judged(ranked: Sequence[Run], paired: bool, notes: list[str], best_of: int | None) -> Comparison:
    best, *others = ranked
    choice_bits = math.log2(best_of or len(ranked))
    differences = tuple(difference(best, other) for other in others)
    least_bytes = 0.0 if best_of else choice_bits / 8
    ties = [found for found in differences if _lowest(found) <= least_bytes]
    charge = choice_bits if best_of or not ties else 0.0
    verdict = Verdict(None if ties else best.name, (ties or differences)[0], charge, best_of is not None)
    rows = tuple(Row(run.name, run, known_quantities(run)) for run in ranked)
    remarks = _remarks(rows, verdict, [found.rival for found in ties], paired)
    return Comparison(rows, verdict, tuple(notes + remarks), differences)


def _lowest(found: Difference) -> float:
    return found.interval_bytes[0] if found.interval_bytes else found.difference_bytes


def _remarks(rows: Sequence[Row], verdict: Verdict, ties: Sequence[str], paired: bool) -> list[str]:
    remarks = []
    if verdict.charged:
        number = round(2**verdict.choice_bits)
        bits = f"log2 {number:,} = {verdict.choice_bits:.3g} bits"
        remarks.append(f"{rows[0].name} is charged {bits} for having been chosen as the best of {number:,} runs")
    elif verdict.winner is not None:
        charge_bits = f"log2 {len(rows)} = {verdict.choice_bits:.3g} bit{'s' if len(rows) > 2 else ''}"
        remarks.append(
            f"reported as the best of {len(rows)} runs, {verdict.winner} costs {charge_bits} more, not in the table"
        )
    if ties and ties != [rows[1].name]:
        remarks.append(f"{rows[0].name} cannot be told from {', '.join(ties)}")
    if verdict.interval_bytes is None:
        remarks.append("too few boundaries are common to the books for an interval: whether it is noise is unknown")
    else:
        remarks.append(
            "the interval says how the difference would scatter on other data of this kind, not with another seed"
            + ("" if paired else "; the runs saw the data cut or ordered differently, which widens it")
        )
    losses = {row.name: loss for row in rows if (loss := row.quantities["final_nats_per_token"]) is not None}
    lowest = min(losses, key=lambda name: losses[name], default=None)
    if verdict.winner is not None and lowest not in (None, verdict.winner):
        remarks.append(f"{lowest} has the lowest final loss, but {verdict.winner} the shorter description")
    return remarks
