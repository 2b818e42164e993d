"""Runs and comparisons as plain JSON objects, whose keys are the names of the registry and a few documented words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from prequential.comparison import Comparison, Difference, known_quantities
from prequential.curve import catch_up, split
from prequential.run import Run


def run_record(run: Run) -> dict[str, Any]:
    """List the quantities of a run by name, and how far to trust them; None where something is unknown.

    Returns:
        Beside the registry's names: ``name``, ``grade``, ``status``, ``single_pass`` (yes, no, unknown) with
        ``single_pass_reasons``, ``measure``, ``rescore`` (the option), ``rescored`` (nats in evaluation mode, an
        estimate with its standard error), ``bundle_sha256``, ``given_weights`` (sha256, None if none), ``warnings``
        (the reader's, then the messages of the book's events), ``baselines`` (bytes by code), ``charges`` (bits by
        name), ``length`` (``K(D)``, or what it is conditional on), ``sources`` (quantities by source),
        ``nats_standard_error`` (None where the sum is exact), ``model_bits_in_sample`` (area above the final loss, None
        while the run goes on) and ``catch_up`` (from which token on the run is shorter than other codes).
    """
    answer, reasons = run.single_pass
    has_curve = run.final_nats_per_token is not None
    return {
        "name": run.name,
        **known_quantities(run),
        "model_bits_estimate": split(run, "running").model_bits if has_curve else None,
        "model_bits_in_sample": split(run, "in_sample").model_bits if has_curve and run.end else None,
        "planned_tokens": run.planned_tokens,
        "grade": run.grade,
        "nats_standard_error": run.nats_standard_error,
        "status": run.status,
        "single_pass": answer,
        "single_pass_reasons": reasons,
        "measure": run.header.get("measure"),
        "rescore": run.header.get("rescore"),
        "rescored": run.rescored,
        "bundle_sha256": run.bundle.get("sha256"),
        "given_weights": run.given_weights,
        "warnings": [*run.warnings, *(event["message"] for event in run.events)],
        "baselines": run.header.get("baselines"),
        "charges": run.charges,
        "length": run.length,
        "sources": {name: _of_source(run, name) for name in run.sources},
        "catch_up": [asdict(found) for found in catch_up(run)],
    }


def forecast_record(run: Run, found: Mapping[str, Any]) -> dict[str, Any]:
    """List the quantities of a run so far, and those at its end.

    Args:
        run: The run.
        found: What `forecast_run` found.

    Returns:
        Those of `run_record`, then ``forecast_tokens``, ``forecast_confidence``, and ``forecast_data_bits``,
        ``forecast_compressed_bytes``, ``forecast_compression_ratio``, each with its ``_interval``.
    """
    return {**run_record(run), **found}


def _of_source(run: Run, name: str) -> dict[str, Any]:
    """Quantities of one source, without what belongs to the run as a whole."""
    values = run.measured(run.sources[name])
    names = ("data_bits", "raw_bytes", "bits_per_byte", "bits_per_token", "nats", "coded_tokens", "replayed_tokens")
    return {name: values[name] for name in names}


def comparison_record(comparison: Comparison) -> dict[str, Any]:
    """List runs in the order of the ranking, the verdict, and notes.

    Returns:
        ``runs`` (quantities of the registry and a ``name``), ``verdict`` (``winner``, None for a tie; ``choice_bits``;
        ``choice_charged``, whether they stand in the first run's quantities; and the keys of a difference),
        ``differences`` (the first run against each other one: ``rival``, ``difference_bytes``, ``interval_bytes``, a
        pair or None, ``area_bytes``, ``charges_bytes``, ``bundle_bytes``, ``leads_from_tokens``,
        ``leads_from_tokens_without_bundle``), ``forced`` (``field`` and ``values`` by run, of what must be equal and is
        not), ``group_by``, ``groups`` (``value``, ``runs``, ``lowest_bytes``, ``median_bytes``, ``highest_bytes``),
        ``notes``, and ``baselines`` (quantities by code).
    """
    verdict = comparison.verdict
    return {
        "runs": [{"name": row.name, **row.quantities} for row in comparison.rows],
        "verdict": {
            "winner": verdict.winner,
            **_difference(verdict.difference),
            "choice_bits": verdict.choice_bits,
            "choice_charged": verdict.charged,
        },
        "differences": [_difference(difference) for difference in comparison.differences],
        "forced": [asdict(mismatch) for mismatch in comparison.forced],
        "group_by": comparison.group_by,
        "groups": [{**asdict(group), "runs": list(group.runs)} for group in comparison.groups],
        "notes": list(comparison.notes),
        "baselines": comparison.baselines,
    }


def _difference(difference: Difference) -> dict[str, Any]:
    interval = difference.interval_bytes
    return {**asdict(difference), "interval_bytes": list(interval) if interval else None}


def bundle_record(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Put the manifest of a bundle under the registry's names.

    Returns:
        ``bundle_bytes`` and ``bundle_sha256``, then the manifest's other entries: ``rule``, ``sizes``, ``files``,
        ``packages``, ``python``, ``git``, ``codecs``, ``warnings``.
    """
    rest = {name: value for name, value in manifest.items() if name not in ("bundle_bytes", "sha256")}
    return {"bundle_bytes": manifest["bundle_bytes"], "bundle_sha256": manifest["sha256"], **rest}
