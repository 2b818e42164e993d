"""A run from the sums that our own doors logged: exact, where the log keeps numbers exactly."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from prequential.codelength import NATS_PER_BIT
from prequential.errors import SourceError
from prequential.intervals import Intervals
from prequential.sources.area import Column
from prequential.sources.intervals import NO_BUNDLE, NO_BYTES, Import, joined_intervals, whole_numbers
from prequential.sources.log import Log, standing
from prequential.sources.reading import PREFIX, Reading

_COUNTS = ("coded_tokens", "uncoded_tokens", "masked_tokens", "padding_tokens", "replayed_tokens", "nonfinite_tokens")
_GRADES = ("ideal", "coded", "decoded", "estimate", "surrogate")
_VERDICTS = ("yes", "no", "unknown")
_AGREE = 1e-9
_FINGERPRINT = re.compile("([0-9a-f]{16}) of ([0-9]{1,20}) tokens")


def recorded(log: Log, reading: Reading) -> Import:
    """Make our own sums a run: their differences are what was added between two log points."""
    warnings: list[str] = []
    sums = _sums(log, warnings)
    tokens = sums["tokens"]
    rows = {name: column[standing(tokens)] for name, column in sums.items()}
    intervals = _differences(log, rows)
    last = {name: float(column[-1]) for name, column in rows.items()}
    exact = log.rounding == 0.0
    header = {
        "data_name": reading.data_name or _stated(log, "data_name", None),
        "fingerprint_scheme": _stated(log, "fingerprint_scheme", None),
        "grade": _stated(log, "grade", "ideal", _GRADES) if exact else "estimate",
        "measure": f"sums logged to {log.kind}",
        "bytes_known": "raw_bytes" in rows,
        "baselines": _baselines(log),
        "bundle": _bundle(log, last),
        "weights": {"sha256": weights} if (weights := _stated(log, "given_weights", None)) else None,
        "vocab_size": reading.vocab_size or _vocab_size(last),
        "nats_standard_error": None if exact else log.rounding * last["nats"],
        "single_pass": {
            "answer": _stated(log, "single_pass", "unknown", _VERDICTS),
            "reason": f"as logged to {log.kind}",
        },
    }
    warnings.append(
        f"{log.kind} holds the sums of the run and not its events: what would make it no code length stands in the "
        "book only"
    )
    if not exact:
        warnings.append(f"{log.kind} rounds to single precision: sums and counts are right to 7 digits")
    if header["bundle"] is None:
        warnings.append(NO_BUNDLE)
    if not header["bytes_known"]:
        warnings.append(NO_BYTES)
    choice_bits = last.get("choice_bits", 0.0)
    charges = {"charges, as logged": choice_bits} if choice_bits else {}
    return Import(header, intervals, warnings, charges)


def _sums(log: Log, warnings: list[str]) -> dict[str, Column]:
    """Sums at log points, the last ones from the summary, without the prefix of their names."""
    there = np.isfinite(log.columns[PREFIX + "tokens"]) & np.isfinite(log.columns[PREFIX + "nats"])
    sums = {name.removeprefix(PREFIX): log.columns[name][there] for name in log.chosen.sums}
    for name in (log.chosen.step, log.chosen.elapsed_s):
        if name is not None:
            sums["step" if name == log.chosen.step else "elapsed_s"] = np.nan_to_num(log.columns[name][there])
    final = {name: log.summary.get(PREFIX + name) for name in sums if name not in ("step", "elapsed_s")}
    if _whole_summary(final, log.summary, sums["tokens"]):
        final |= {name: sums[name][-1] if len(sums[name]) else 0.0 for name in ("step", "elapsed_s") if name in sums}
        sums = {name: np.append(column, float(final[name] or 0)) for name, column in sums.items()}
    elif log.summary:
        warnings.append("the sums in the W&B summary do not add up: the totals are those of the last logged row")
    if not len(sums["tokens"]):
        raise SourceError(
            f"expected rows with {PREFIX}tokens and {PREFIX}nats in {log.path}, found none: the run "
            "ended before its first log point"
        )
    if any(not np.isfinite(column).all() for column in sums.values()):
        raise SourceError(f"expected every sum in each row of {log.path}, got rows without some: is the log damaged?")
    return sums


def _whole_summary(final: Mapping[str, Any], summary: Mapping[str, Any], tokens: Column) -> bool:
    """Tell whether a summary's parts make its total: they may be of different log points."""
    if not all(isinstance(value, (int, float)) for value in final.values()):
        return False
    if len(tokens) and final["tokens"] < tokens[-1]:
        return False
    stated = summary.get(PREFIX + "compressed_bytes")
    bits = float(final["nats"]) / NATS_PER_BIT + sum(float(final.get(p) or 0) for p in ("uncoded_bits", "choice_bits"))
    made = bits / 8 + float(final.get("bundle_bytes") or 0)
    return isinstance(stated, (int, float)) and abs(made - stated) <= _AGREE * abs(stated)


def _differences(log: Log, rows: Mapping[str, Column]) -> Intervals:
    counts = {name: rows[name] for name in (*_COUNTS, "raw_bytes") if name in rows}
    counts.setdefault("coded_tokens", rows["tokens"])
    whole = {name: np.diff(whole_numbers(column), prepend=0) for name, column in counts.items()}
    if any((column < 0).any() for column in whole.values()):
        raise SourceError(f"expected sums that never fall in {log.path}, got some that do: is it the log of one run?")
    tokens = sum(int(whole[name].sum()) for name in ("coded_tokens", "uncoded_tokens") if name in whole)
    whole["fingerprint"] = np.zeros(len(rows["tokens"]), np.uint64)
    whole["fingerprint"][-1] = _fingerprint(log, tokens)  # of no prefix is one known
    nats = {"nats": _steps_to(rows["nats"])}
    if "uncoded_bits" in rows:
        nats["uncoded_nats"] = _steps_to(rows["uncoded_bits"] * NATS_PER_BIT)
    return joined_intervals(rows, nats, whole)


def _steps_to(totals: Column) -> Column:
    """Differences of totals, the last of which makes up for the rounding of the others."""
    steps = np.diff(totals, prepend=0.0)
    steps[-1] = totals[-1] - math.fsum(steps[:-1])
    return steps


def _bundle(log: Log, last: Mapping[str, float]) -> dict[str, Any] | None:
    bundle_bytes = int(last.get("bundle_bytes", 0))
    if not bundle_bytes:
        return None
    rule, sha256 = (_stated(log, name, None) for name in ("bundle_rule", "bundle_sha256"))
    return {"bundle_bytes": bundle_bytes, "sha256": sha256, **({"rule": rule} if rule else {})}


def _baselines(log: Log) -> dict[str, int] | None:
    """Sizes of the data under other codes, which the W&B door puts into the summary."""
    prefix = PREFIX + "baselines/"
    stated = {name.removeprefix(prefix): size for name, size in log.summary.items() if name.startswith(prefix)}
    return {name: size for name, size in stated.items() if type(size) is int and size >= 0} or None


def _fingerprint(log: Log, tokens: int) -> int:
    """Read the fingerprint of the whole run, if the summary has it for as many tokens; 0 identifies nothing."""
    stated = _FINGERPRINT.fullmatch(_stated(log, "fingerprint", None) or "")
    return int(stated[1], 16) if stated is not None and int(stated[2]) == tokens else 0


def _vocab_size(last: Mapping[str, float]) -> int | None:
    """Find V in the size under the uniform code: log2 V bits a token."""
    uniform_bytes, tokens = last.get("uniform_bytes"), last["tokens"]
    return round(2 ** (8 * uniform_bytes / tokens)) if uniform_bytes and tokens else None


def _stated(log: Log, name: str, otherwise: str | None, words: tuple[str, ...] = ()) -> str | None:
    value = log.summary.get(PREFIX + name)
    return value if isinstance(value, str) and (not words or value in words) else otherwise
