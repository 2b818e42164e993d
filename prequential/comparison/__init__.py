"""Runs side by side at equal data: which describes the data in fewer bytes, and whether that is noise.

- `conditions`: what must be equal, what is only said.
- `noise`: the interval of a difference, from paired blocks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from prequential.codelength import NATS_PER_BIT
from prequential.comparison.conditions import check
from prequential.comparison.noise import boundaries, half_width_nats
from prequential.errors import ComparisonError
from prequential.run import Run

__all__ = ["Comparison", "Row", "Verdict", "compare", "known_quantities"]

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
        rival: Name of the run that the first in the ranking is held against: the second, or in a tie the first of
            those it cannot be told from.
        difference_bytes: How many bytes the first in the ranking needs less than the rival; never negative.
        interval_bytes: 95 % interval of that difference, see `noise`; None where it could not be estimated.
        choice_bits: What it costs to tell a receiver which of the N runs won, log2 N; 0 for a tie. The runs' own
            quantities leave it out, so that they are the same beside any other run.
    """

    winner: str | None
    rival: str
    difference_bytes: float
    interval_bytes: tuple[float, float] | None
    choice_bits: float


@dataclass(frozen=True)
class Comparison:
    """Runs on the same data, shortest description first.

    Attributes:
        rows: The runs, ranked by ``compressed_bytes``.
        verdict: Which wins, and by how much.
        notes: What a reader must know beside the numbers, one sentence each.
        baselines: Quantities of the same data under other codes, by name, smallest first; empty unless all runs carry
            the same ones. Their programs are public, so that nothing is charged for them.
    """

    rows: tuple[Row, ...]
    verdict: Verdict
    notes: tuple[str, ...]
    baselines: dict[str, Quantities] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        """Show the comparison in a notebook: its page."""
        from prequential.views.page import fragment

        return fragment([row.run for row in self.rows], self)


def compare(runs: Sequence[Run], *, common_prefix: bool = False) -> Comparison:
    """Compare runs by ``compressed_bytes = (data_bits + uncoded_bits + choice_bits) / 8 + bundle_bytes``.

    The difference of two totals is exact for these runs on this data; it is called a tie if the 95 % interval around
    it, from paired differences, does not lie above the log2 N bits which naming the best of N runs costs.

    Args:
        runs: Two runs or more, as `load_run` gives them, in any order.
        common_prefix: Cut all runs at the largest token count at which every book has an interval boundary.

    Returns:
        The ranking, the verdict and notes.

    Raises:
        ComparisonError: Fewer than two runs, or runs that cannot be compared; the message names the field and both
            values.
    """
    if len(runs) < 2:
        raise ComparisonError(f"expected two runs or more, got {len(runs)}: name at least two")
    named = _named(runs)
    notes = []
    if common_prefix:
        named, note = _cut(named)
        notes.append(note)
    paired, more = check(named, prefix=common_prefix)
    ranked = sorted(named, key=lambda run: (_compressed_bytes(run), run.name))
    comparison = _judged(ranked, paired, notes + more)
    return comparison if common_prefix else replace(comparison, baselines=_baselines(ranked))


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


def _named(runs: Sequence[Run]) -> list[Run]:
    """Give every run a name of its own: its folder is added where names repeat, then a number."""
    names = [run.name for run in runs]
    repeated = {name for name, times in Counter(names).items() if times > 1}
    names = [
        f"{n} ({Path(r.path).resolve().parent.name})" if n in repeated else n for n, r in zip(names, runs, strict=True)
    ]
    seen: Counter[str] = Counter()
    unique = []
    for run, name in zip(runs, names, strict=True):
        seen[name] += 1
        unique.append(replace(run, name=name if names.count(name) == 1 else f"{name} #{seen[name]}"))
    return unique


def _cut(runs: Sequence[Run]) -> tuple[list[Run], str]:
    """Keep of every run the largest prefix that ends at a boundary of all books."""
    ends = [boundaries(run) for run in runs]
    common = set(ends[0]).intersection(*ends[1:])
    if not common:
        raise ComparisonError(
            "expected a token count at which every book has an interval boundary, found none: train with the same "
            "batch size, or compare whole runs on the same data"
        )
    tokens = max(common)
    cut = [replace(run, intervals=run.intervals[: end[tokens]]) for run, end in zip(runs, ends, strict=True)]
    whole = ", ".join(f"{run.name} has {run.total.tokens:,}" for run in runs)
    return cut, f"compared at the first {tokens:,} tokens ({whole}); final losses are those at the cut"


def _judged(ranked: Sequence[Run], paired: bool, notes: list[str]) -> Comparison:
    best, *others = ranked
    choice_bits = math.log2(len(ranked))
    differences = [_difference(best, other) for other in others]
    lowest = [interval[0] if interval else difference for difference, interval in differences]
    ties = [other.name for other, low in zip(others, lowest, strict=True) if low <= choice_bits / 8]
    rival = next((other for other in others if other.name in ties), others[0])
    difference, interval = differences[others.index(rival)]
    verdict = Verdict(None if ties else best.name, rival.name, difference, interval, 0.0 if ties else choice_bits)
    rows = tuple(Row(run.name, run, known_quantities(run)) for run in ranked)
    return Comparison(rows, verdict, tuple(notes + _remarks(rows, verdict, ties, paired)))


def _difference(best: Run, other: Run) -> tuple[float, tuple[float, float] | None]:
    """Bytes that ``best`` needs less than ``other``, and their interval if it can be estimated."""
    difference = _compressed_bytes(other) - _compressed_bytes(best)
    half_width = half_width_nats(best, other)
    if half_width is None:
        return difference, None
    errors = [2 * (run.nats_standard_error or 0.0) for run in (best, other)]  # of runs that were imported from logs
    half_bytes = math.hypot(half_width, *errors) / NATS_PER_BIT / 8
    return difference, (difference - half_bytes, difference + half_bytes)


def _remarks(rows: Sequence[Row], verdict: Verdict, ties: Sequence[str], paired: bool) -> list[str]:
    remarks = []
    if verdict.winner is not None:
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
