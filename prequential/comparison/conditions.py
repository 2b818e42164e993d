"""May these runs be compared? Refusals name the field and both values; what is only worth knowing becomes a note.

Equal data is proved by equal fingerprints at equal token counts. Where rows were cut, ordered or tokenised
differently the fingerprints differ; then a declared ``data_name`` with equal raw bytes is accepted, and said. Who
forces a comparison gets every refusal as a mismatch instead, for views to show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from prequential.errors import ComparisonError
from prequential.run import Run

_OTHER_ORDER = "the same rows in another order: the fingerprint that depends on it differs, the one of the rows agrees"
_IDENTIFIED = "data fingerprint"


@dataclass(frozen=True)
class Mismatch:
    """A field in which runs differ that were compared all the same.

    Attributes:
        field: Its name.
        values: What the runs hold, as text, by their names.
    """

    field: str
    values: dict[str, str]


class Conditions(NamedTuple):
    """What runs have in common: whether the same tokens in the same order are proved, notes, and what was forced."""

    proved: bool
    notes: list[str]
    mismatches: tuple[Mismatch, ...]


def check(runs: Sequence[Run], *, prefix: bool = False, force: bool = False) -> Conditions:
    """Refuse what cannot be compared.

    Args:
        runs: At least two runs, with names that differ, cut to the same token count if ``prefix``.
        prefix: Whether they were cut; a declared name is then not enough, as it stands for the whole data.
        force: Whether to list what differs instead.

    Raises:
        ComparisonError: The data, its amount, masks or tokenizers, the weights they are given, the bundle's rule, or
            the kind of number differ.
    """
    judge = _Judge(runs, force)
    judge.must_agree("grade", _surrogate, "a surrogate is no code length, compare it with surrogates only")
    price = 'price the weights (weights="2 bytes a parameter") or start all runs from the same'
    judge.must_agree("given weights", lambda run: run.given_weights or "none", price)
    judge.must_agree("bundle rule", _rule, "bundles are counted by one rule or left out of all runs: record one again")
    proved, shuffled = _same_fingerprints(runs), _same_rows(runs)
    notes = [_OTHER_ORDER] if shuffled and not proved else []
    if proved or shuffled:
        judge.must_agree("masked_tokens", lambda run: run.total.masked_tokens, "mask the same positions in all runs")
        judge.must_agree("tokenizer", _tokenizer, "give all runs the same token_bytes", unknown_fits=True)
    else:
        notes += _declared_equal(judge, prefix=prefix)
    judge.must_agree("raw_bytes", _raw_bytes, "the same data has one size: check token_bytes", unknown_fits=True)
    notes += [note for run in runs for note in _doubts(run)] + _warnings(runs) + _differences(runs)
    return Conditions(proved, notes, tuple(judge.mismatches.values()))


class _Judge:
    """Refuses runs for the first field that differs, or lists all such fields."""

    def __init__(self, runs: Sequence[Run], force: bool) -> None:
        self.runs, self.force = runs, force
        self.mismatches: dict[str, Mismatch] = {}

    def must_agree(
        self, field: str, value_of: Callable[[Run], Any], advice: str, *, unknown_fits: bool = False
    ) -> None:
        values = [(run.name, value_of(run)) for run in self.runs]
        known = [(name, value) for name, value in values if value is not None or not unknown_fits]
        for name, value in known[1:]:
            if value != known[0][1]:
                first, expected = known[0][0], _written(known[0][1])
                both = f"got {expected} in {first} and {_written(value)} in {name}"
                self.refuse(field, dict(values), f"expected the same {field}, {both}: {advice}")

    def refuse(self, field: str, values: dict[str, Any], message: str) -> None:
        if not self.force:
            raise ComparisonError(message)
        texts = {name: "unknown" if value is None else _written(value) for name, value in values.items()}
        self.mismatches.setdefault(field, Mismatch(field, texts))


def _same_fingerprints(runs: Sequence[Run]) -> bool:
    """Tell whether all runs coded the same tokens in the same order; a fingerprint of 0 identifies nothing."""
    totals = [(run.header.get("fingerprint_scheme"), run.total.tokens, run.total.fingerprint) for run in runs]
    return len(set(totals)) == 1 and runs[0].total.fingerprint != 0


def _same_rows(runs: Sequence[Run]) -> bool:
    """Tell whether all runs coded the same rows, in whatever order."""
    sampled = any((run.end or {}).get("row_sampling") for run in runs)  # then not every row was looked up
    totals = [(run.total.tokens, run.total.rows, run.total.rows_fingerprint) for run in runs]
    return len(set(totals)) == 1 and runs[0].total.rows_fingerprint != 0 and not sampled


def _declared_equal(judge: _Judge, *, prefix: bool) -> list[str]:
    """Accept a declared name with equal raw bytes, and say so, or refuse for the first thing that differs."""
    runs = judge.runs
    named = runs[0].header.get("data_name")
    declared = bool(named) and all(run.header.get("data_name") == named and run.bytes_known for run in runs)
    if declared and not prefix:
        judge.must_agree("raw_bytes", _raw_bytes, f"all declare data_name {named!r}, but not all coded all of it")
        return [
            f"the fingerprints differ: that the data is the same rests on the declared data_name {named!r} "
            "and on equal raw bytes"
        ]
    advice = "give the runs the same data, or cut them to what they share: common_prefix=True, --common-prefix"
    judge.must_agree("tokens", lambda run: run.total.tokens, advice)
    declare = "code the same data in the same order" + ("" if prefix else ", or declare a data_name and token_bytes")
    judge.must_agree("fingerprint_scheme", lambda run: run.header.get("fingerprint_scheme"), declare)
    judge.must_agree(_IDENTIFIED, lambda run: f"{run.total.fingerprint:016x}", declare)
    if not judge.mismatches.keys() & {"tokens", "fingerprint_scheme", _IDENTIFIED}:
        nothing = f"expected runs that identify their data, got no fingerprint in any of them: {declare}"
        judge.refuse(_IDENTIFIED, {run.name: None for run in runs}, nothing)
    return []


def _written(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _surrogate(run: Run) -> str:
    return "surrogate" if run.grade == "surrogate" else "a code length"


def _rule(run: Run) -> str:
    return str(run.bundle.get("rule")) if run.bundle else "no bundle"


def _tokenizer(run: Run) -> str | None:
    table = run.header.get("token_bytes")
    return f"{table.get('name')} ({str(table.get('sha256'))[:12]})" if table else None


def _raw_bytes(run: Run) -> int | None:
    return run.total.raw_bytes if run.bytes_known else None


def _doubts(run: Run) -> list[str]:
    """Say what weakens one run's number."""
    doubts = []
    if run.grade in ("estimate", "surrogate"):
        doubts.append(f"{run.name} is an estimate: its total, and any difference from it, is not exact")
    if run.single_pass[0] == "no":
        doubts.append(f"{run.name} is not a single pass: {'; '.join(run.single_pass[1])}")
    if run.end is not None and run.end.get("complete") is False:
        doubts.append(f"{run.name} is incomplete: parts of its training were not recorded")
    if run.status not in ("completed", "imported"):
        doubts.append(f"{run.name} did not complete (status {run.status})")
    if run.total.nonfinite_tokens:
        doubts.append(f"{run.name} has {run.total.nonfinite_tokens:,} tokens without a finite code length")
    if run.total.uncoded_tokens and not run.total.uncoded_nats:
        doubts.append(f"{run.name} was not charged for its {run.total.uncoded_tokens:,} uncoded tokens")
    return doubts


def _warnings(runs: Sequence[Run]) -> list[str]:
    """What readers had to tolerate, each sentence once, with the names of all runs that it holds for."""
    names: dict[str, list[str]] = {}
    for run in runs:
        for warning in run.warnings:
            names.setdefault(warning, []).append(run.name)
    return [f"{', '.join(found)}: {warning}" for warning, found in names.items()]


def _differences(runs: Sequence[Run]) -> list[str]:
    """Fields that may differ between runs that are compared, but that a reader should see."""
    fields: dict[str, Callable[[Run], Any]] = {
        "grade": lambda run: run.grade,
        "measure": lambda run: run.header.get("measure"),
        "vocab_size": lambda run: run.header.get("vocab_size"),
        "tokenizer": _tokenizer,
        "rescore": lambda run: str(run.header.get("rescore")),
    }
    notes = []
    for field, value_of in fields.items():
        values = [value_of(run) for run in runs]
        if len(set(values)) > 1:
            listed = ", ".join(f"{run.name}: {value or 'unknown'}" for run, value in zip(runs, values, strict=True))
            notes.append(f"{field} differs ({listed})")
    if not any(run.bundle for run in runs):
        notes.append("no run has a bundle: the totals leave the training programs out")
    return notes
