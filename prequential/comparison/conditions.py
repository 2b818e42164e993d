"""May these runs be compared? Refusals name the field and both values; what is only worth knowing becomes a note.

Equal data is proved by equal fingerprints at equal token counts. Where rows were cut, ordered or tokenised
differently the fingerprints differ; then a declared ``data_name`` with equal raw bytes is accepted, and said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prequential.errors import ComparisonError
from prequential.run import Run

_OTHER_ORDER = "the same rows in another order: the fingerprint that depends on it differs, the one of the rows agrees"


def check(runs: Sequence[Run], *, prefix: bool = False) -> tuple[bool, list[str]]:
    """Refuse what cannot be compared.

    Args:
        runs: At least two runs, with names that differ, cut to the same token count if ``prefix``.
        prefix: Whether they were cut; a declared name is then not enough, as it stands for the whole data.

    Returns:
        Whether the same tokens in the same order are proved, and notes for the reader.

    Raises:
        ComparisonError: The data, its amount, masks or tokenizers, the weights they are given, the bundle's rule, or
            the kind of number differ.
    """
    _must_agree("grade", runs, _surrogate, "a surrogate is no code length, compare it with surrogates only")
    price = 'price the weights (weights="2 bytes a parameter") or start all runs from the same'
    _must_agree("given weights", runs, lambda run: run.given_weights or "none", price)
    _must_agree("bundle rule", runs, _rule, "bundles are counted by one rule or left out of all runs: record one again")
    proved, shuffled = _same_fingerprints(runs), _same_rows(runs)
    notes = [] if proved else [_OTHER_ORDER if shuffled else _declared_equal(runs, prefix=prefix)]
    if proved or shuffled:
        _must_agree("masked_tokens", runs, lambda run: run.total.masked_tokens, "mask the same positions in all runs")
        _must_agree("tokenizer", runs, _tokenizer, "give all runs the same token_bytes", unknown_fits=True)
    _must_agree("raw_bytes", runs, _raw_bytes, "the same data has one size: check token_bytes", unknown_fits=True)
    return proved, notes + [note for run in runs for note in _doubts(run)] + _differences(runs)


def _same_fingerprints(runs: Sequence[Run]) -> bool:
    """Tell whether all runs coded the same tokens in the same order; a fingerprint of 0 identifies nothing."""
    totals = [(run.header.get("fingerprint_scheme"), run.total.tokens, run.total.fingerprint) for run in runs]
    return len(set(totals)) == 1 and runs[0].total.fingerprint != 0


def _same_rows(runs: Sequence[Run]) -> bool:
    """Tell whether all runs coded the same rows, in whatever order."""
    sampled = any((run.end or {}).get("row_sampling") for run in runs)  # then not every row was looked up
    totals = [(run.total.tokens, run.total.rows, run.total.rows_fingerprint) for run in runs]
    return len(set(totals)) == 1 and runs[0].total.rows_fingerprint != 0 and not sampled


def _declared_equal(runs: Sequence[Run], *, prefix: bool) -> str:
    """Accept a declared name with equal raw bytes, or refuse for the first thing that differs."""
    named = runs[0].header.get("data_name")
    declared = bool(named) and all(run.header.get("data_name") == named and run.bytes_known for run in runs)
    if declared and not prefix:
        _must_agree("raw_bytes", runs, _raw_bytes, f"all declare data_name {named!r}, but not all coded all of it")
        return (
            f"the fingerprints differ: that the data is the same rests on the declared data_name {named!r} "
            "and on equal raw bytes"
        )
    advice = "give the runs the same data, or cut them to what they share: common_prefix=True, --common-prefix"
    _must_agree("tokens", runs, lambda run: run.total.tokens, advice)
    declare = "code the same data in the same order" + ("" if prefix else ", or declare a data_name and token_bytes")
    _must_agree("fingerprint_scheme", runs, lambda run: run.header.get("fingerprint_scheme"), declare)
    _must_agree("data fingerprint", runs, lambda run: f"{run.total.fingerprint:016x}", declare)
    raise ComparisonError(f"expected runs that identify their data, got no fingerprint in any of them: {declare}")


def _must_agree(
    field: str, runs: Sequence[Run], value_of: Callable[[Run], Any], advice: str, *, unknown_fits: bool = False
) -> None:
    known = [(run, value_of(run)) for run in runs]
    if unknown_fits:
        known = [(run, value) for run, value in known if value is not None]
    for run, value in known[1:]:
        first, expected = known[0]
        if value != expected:
            raise ComparisonError(
                f"expected the same {field}, got {_written(expected)} in {first.name} and {_written(value)} in "
                f"{run.name}: {advice}"
            )


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
    return doubts + [f"{run.name}: {warning}" for warning in run.warnings]


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
