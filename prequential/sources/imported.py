"""From a log to a run: our own sums as they were logged, or the area under a loss curve that nobody summed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from prequential.codelength import NATS_PER_BIT, Tally
from prequential.errors import SourceError
from prequential.run import Interval, Run
from prequential.sources.area import FEWEST_ROWS, Column, area_under
from prequential.sources.log import Log, standing
from prequential.sources.reading import PREFIX, Reading

# As many lines as a book of a long run has: the first rows one by one, the others joined evenly.
_SINGLE_ROWS = 10_000
_JOINED_ROWS = 10_000
_COUNTS = ("coded_tokens", "uncoded_tokens", "masked_tokens", "padding_tokens", "replayed_tokens", "nonfinite_tokens")
_UNSEEN = "a log does not show whether rows were fed twice"
_NO_BUNDLE = "the log names no bundle: the total lacks the training program"
_NO_BYTES = "the log has no raw bytes: give bytes_per_token to see ratios"
_EXACTLY = 2**53
_AGREE = 1e-9


def run_from_log(log: Log, reading: Reading) -> Run:
    """Translate a log.

    Returns:
        A run of grade ``estimate`` with ``nats_standard_error`` in its header; or one with the sums that our own
        doors logged, exact where the log keeps numbers exactly.

    Raises:
        SourceError: The log does not say enough, or holds numbers that make no sense.
    """
    header = {
        "name": reading.name or log.name,
        "data_name": reading.data_name,
        "vocab_size": reading.vocab_size,
        "imported_from": log.path,
        "single_pass": {"answer": "unknown", "reason": _UNSEEN},
    }
    return _recorded(log, header) if log.chosen.sums else _estimated(log, reading, header)


# -- our own sums ---------------------------------------------------------------------------------------------------


def _recorded(log: Log, header: dict[str, Any]) -> Run:
    """Take differences of the sums at log points: each is what was added between two of them."""
    warnings = [*log.warnings]
    sums = _sums(log, warnings)
    tokens = sums["tokens"]
    rows = {name: column[standing(tokens)] for name, column in sums.items()}
    intervals = _differences(log, rows)
    last = {name: float(column[-1]) for name, column in rows.items()}
    exact = log.rounding == 0.0
    header |= {
        "grade": _stated(log, "grade", "ideal") if exact else "estimate",
        "measure": f"sums logged to {log.kind}",
        "bytes_known": "raw_bytes" in rows,
        "bundle": _bundle(log, last),
        "vocab_size": header["vocab_size"] or _vocab_size(last),
        "nats_standard_error": None if exact else log.rounding * last["nats"],
        "single_pass": {"answer": _stated(log, "single_pass", "unknown"), "reason": f"as logged to {log.kind}"},
    }
    warnings.append(
        f"{log.kind} holds the sums of the run and not its events: what would make it no code length stands in the "
        "book only"
    )
    if not exact:
        warnings.append(f"{log.kind} rounds to single precision: sums and counts are right to 7 digits")
    if header["bundle"] is None:
        warnings.append(_NO_BUNDLE)
    if not header["bytes_known"]:
        warnings.append(_NO_BYTES)
    choice_bits = last.get("choice_bits", 0.0)
    charges = {"choices, as logged": choice_bits} if choice_bits else {}
    return _run(log, header, intervals, warnings, charges)


def _sums(log: Log, warnings: list[str]) -> dict[str, Column]:
    """Sums at log points, the last ones from the summary, without the prefix of their names."""
    there = np.isfinite(log.columns[PREFIX + "tokens"]) & np.isfinite(log.columns[PREFIX + "nats"])
    sums = {name.removeprefix(PREFIX): log.columns[name][there] for name in log.chosen.sums}
    for name in (log.chosen.step, log.chosen.elapsed_s):
        if name is not None:
            sums["step" if name == log.chosen.step else "elapsed_s"] = np.nan_to_num(log.columns[name][there])
    final = {name: log.summary.get(PREFIX + name) for name in sums if name not in ("step", "elapsed_s")}
    if all(isinstance(value, (int, float)) for value in final.values()) and _adds_up(final, log.summary):
        final |= {name: sums[name][-1] if len(sums[name]) else 0.0 for name in ("step", "elapsed_s") if name in sums}
        sums = {name: np.append(column, float(final[name] or 0)) for name, column in sums.items()}
    elif log.summary:
        warnings.append("the sums in the W&B summary do not add up: the totals are those of the last logged row")
    if not len(sums["tokens"]):
        raise SourceError(f"expected rows with {PREFIX}tokens and {PREFIX}nats in {log.path}, found none: the run "
                          "ended before its first log point")
    if any(not np.isfinite(column).all() for column in sums.values()):
        raise SourceError(f"expected every sum in each row of {log.path}, got rows without some: is the log damaged?")
    return sums


def _adds_up(final: Mapping[str, Any], summary: Mapping[str, Any]) -> bool:
    """Tell whether a summary's parts make its total: they may be of different log points."""
    stated = summary.get(PREFIX + "compressed_bytes")
    bits = float(final["nats"]) / NATS_PER_BIT + sum(float(final.get(p) or 0) for p in ("uncoded_bits", "choice_bits"))
    made = bits / 8 + float(final.get("bundle_bytes") or 0)
    return isinstance(stated, (int, float)) and abs(made - stated) <= _AGREE * abs(stated)


def _differences(log: Log, rows: Mapping[str, Column]) -> list[Interval]:
    counts = {name: rows[name] for name in (*_COUNTS, "raw_bytes") if name in rows}
    counts.setdefault("coded_tokens", rows["tokens"])
    whole = {name: np.diff(_whole(column), prepend=0) for name, column in counts.items()}
    if any((column < 0).any() for column in whole.values()):
        raise SourceError(f"expected sums that never fall in {log.path}, got some that do: is it the log of one run?")
    nats = {"nats": _steps_to(rows["nats"])}
    if "uncoded_bits" in rows:
        nats["uncoded_nats"] = _steps_to(rows["uncoded_bits"] * NATS_PER_BIT)
    return _intervals(rows, nats, whole)


def _steps_to(totals: Column) -> Column:
    """Differences of totals, the last of which makes up for the rounding of the others."""
    steps = np.diff(totals, prepend=0.0)
    steps[-1] = totals[-1] - math.fsum(steps[:-1])
    return steps


def _bundle(log: Log, last: Mapping[str, float]) -> dict[str, Any] | None:
    bundle_bytes = int(last.get("bundle_bytes", 0))
    return {"bundle_bytes": bundle_bytes, "sha256": _stated(log, "bundle_sha256", None)} if bundle_bytes else None


def _vocab_size(last: Mapping[str, float]) -> int | None:
    """Find V in the size under the uniform code: log2 V bits a token."""
    uniform_bytes, tokens = last.get("uniform_bytes"), last["tokens"]
    return round(2 ** (8 * uniform_bytes / tokens)) if uniform_bytes and tokens else None


def _stated(log: Log, name: str, otherwise: str | None) -> str | None:
    value = log.summary.get(PREFIX + name)
    return value if isinstance(value, str) else otherwise


# -- the area under a loss curve --------------------------------------------------------------------------------------


def _estimated(log: Log, reading: Reading, header: dict[str, Any]) -> Run:
    warnings = [*log.warnings]
    rows = _rows(log, reading, warnings)
    own = rows["own"]
    share = reading.measured_share or 1.0
    area = area_under(rows["loss"], rows["tokens"], own, share)
    tokens = _whole(np.rint(rows["tokens"]))
    whole = {"coded_tokens": np.diff(tokens, prepend=0)}
    if reading.bytes_per_token is not None:
        raw = _whole(np.rint(tokens * reading.bytes_per_token))
        whole["raw_bytes"] = np.diff(raw, prepend=0)
    header |= {
        "grade": "estimate",
        "measure": f"area under {log.chosen.loss}, {log.kind}",
        "bytes_known": reading.bytes_per_token is not None,
        "bundle": None,
        "nats_standard_error": area.standard_error,
    }
    warnings += _remarks(rows, reading, log)
    return _run(log, header, _intervals(rows, {"nats": area.nats}, whole), warnings, {})


def _rows(log: Log, reading: Reading, warnings: list[str]) -> dict[str, Column]:
    """Losses with the tokens up to and including their steps, and the tokens of those steps."""
    step, tokens, loss, elapsed = (None if n is None else log.columns[n] for n in log.chosen[:4])
    assert loss is not None
    if tokens is not None and not np.isfinite(tokens).any():
        tokens = None
    step, tokens = _on_every_row(loss, step, tokens)
    there = ~np.isnan(loss)
    rows = {"loss": loss, "step": step, "tokens": tokens, "elapsed_s": elapsed}
    kept = {name: column[there] for name, column in rows.items() if column is not None}
    kept = _standing_rows(kept, warnings)
    unfit = ~np.isfinite(kept["loss"])
    if unfit.any():
        warnings.append(
            f"{int(unfit.sum()):,} logged losses are NaN or infinite: their steps are taken from their neighbours, "
            "which a code could not do"
        )
        kept = {name: column[~unfit] for name, column in kept.items()}
    if len(kept["loss"]) < FEWEST_ROWS:
        raise SourceError(f"expected {FEWEST_ROWS} losses or more in {log.path}, got {len(kept['loss'])}: an area "
                          "needs a curve")
    if (kept["loss"] < 0).any():
        raise SourceError(f"expected losses of 0 or more in {log.path}, got {kept['loss'].min():g}: -ln p of a token "
                          "is never less, name the column of the cross-entropy")
    return _with_tokens(kept, reading, log, warnings)


def _on_every_row(loss: Column, step: Column | None, tokens: Column | None) -> tuple[Column | None, Column | None]:
    """Fill in tokens that were logged in rows of their own, by the steps of both."""
    there = ~np.isnan(loss)
    if step is None or tokens is None or np.isfinite(tokens[there]).all():
        return step, tokens
    known = np.isfinite(tokens) & np.isfinite(step)
    at, values = step[known], tokens[known]
    stands = standing(at)
    return step, np.where(np.isfinite(tokens), tokens, np.interp(step, at[stands], values[stands]))


def _standing_rows(rows: dict[str, Column], warnings: list[str]) -> dict[str, Column]:
    before = len(rows["loss"])
    for name in ("step", "tokens"):
        if name in rows and len(rows[name]):
            stands = standing(np.where(np.isfinite(rows[name]), rows[name], np.inf))
            rows = {other: column[stands] for other, column in rows.items()}
    gone = before - len(rows["loss"])
    if gone:
        warnings.append(f"{gone:,} rows were left out: later ones stand for the same steps, as after a resume")
    return rows


def _with_tokens(rows: dict[str, Column], reading: Reading, log: Log, warnings: list[str]) -> dict[str, Column]:
    per_step, step = reading.tokens_per_step, rows.get("step")
    if "tokens" not in rows:
        if step is None or per_step is None:
            what = "tokens_per_step" if step is not None else "a column of tokens, or of steps and tokens_per_step"
            raise SourceError(f"expected {what} for {log.path}, which does not say how many tokens a step has: give "
                              "it, tokens_per_step= or --tokens-per-step")
        if log.chosen.step == "_step":
            warnings.append("W&B's _step counts calls of log, taken for optimiser steps: there is no column of those")
        rows["tokens"] = (step - _first_step(step) + 1) * per_step
    tokens = rows["tokens"]
    if tokens[0] < 0:
        raise SourceError(f"expected tokens of 0 or more in {log.path}, got {tokens[0]:g}: name another column")
    own = _own_tokens(tokens, step, reading, log)
    if tokens[0] == 0:  # counted before the step
        tokens = tokens + own
    if reading.averaged:
        own = np.diff(tokens, prepend=0.0)
    rows |= {"tokens": tokens, "own": np.minimum(own, np.diff(tokens, prepend=0.0))}
    rows.setdefault("step", np.arange(1.0, len(tokens) + 1))
    return rows


def _first_step(step: Column) -> int:
    """Number of the first optimiser step: 0 where a log begins so, or has every n-th as n - 1, 2n - 1, ..."""
    return 0 if step[0] == 0 or (step[0] > 1 and step[0] + 1 == step[1] - step[0]) else 1


def _own_tokens(tokens: Column, step: Column | None, reading: Reading, log: Log) -> Column:
    """Tokens of each row's own step: as given, else those since the row before over the steps since then."""
    if reading.tokens_per_step is not None:
        return np.full(len(tokens), float(reading.tokens_per_step))
    if step is None:
        if reading.averaged:
            return np.diff(tokens, prepend=0.0)
        raise SourceError(f"expected a column of steps in {log.path}, or tokens_per_step: how many tokens a loss is "
                          "the mean of, tokens_per_step= or --tokens-per-step")
    between = np.diff(tokens) / np.diff(step)
    return np.concatenate([between[:1], between])


def _remarks(rows: Mapping[str, Column], reading: Reading, log: Log) -> list[str]:
    """Name what a log leaves open."""
    tokens, own = rows["tokens"], rows["own"]
    gaps = np.diff(tokens, prepend=0.0) - own
    remarks = [f"{log.chosen.loss} is taken for the mean of -ln p over tokens, scored before the update: a log cannot "
               "prove it"]
    unlogged = gaps.sum() / tokens[-1]
    if unlogged > _AGREE:
        remarks.append(f"{100 * unlogged:.1f} % of the tokens were not logged: between rows the loss is interpolated")
    if gaps[0] > _AGREE * tokens[-1]:
        remarks.append(f"the first {gaps[0]:,.0f} tokens lie before the first row: their loss is extrapolated")
    if reading.measured_share is not None and reading.measured_share < 1:
        remarks.append(f"losses were measured on {100 * reading.measured_share:.3g} % of each step")
    remarks.append(_NO_BUNDLE)
    remarks.append(f"raw bytes are {reading.bytes_per_token:g} a token, as given" if reading.bytes_per_token
                   else _NO_BYTES)
    return remarks


# -- both -----------------------------------------------------------------------------------------------------------


def _whole(column: Column) -> Column:
    if not (np.abs(column) < _EXACTLY).all():
        raise SourceError(f"expected counts below 2**53, got {np.abs(column).max():g}: name another column")
    return np.rint(column).astype(np.int64)


def _intervals(rows: Mapping[str, Column], nats: Mapping[str, Column], whole: Mapping[str, Column]) -> list[Interval]:
    """Join rows into as many intervals as a book may have; what each holds is summed."""
    ends = _ends(len(rows["tokens"]))
    begins = np.concatenate([[0], ends[:-1]])
    steps = _whole(rows["step"][ends - 1]) if "step" in rows else ends
    elapsed = rows["elapsed_s"][ends - 1] if "elapsed_s" in rows else np.zeros(len(ends))
    sums = {name: np.add.reduceat(column, begins).tolist() for name, column in {**nats, **whole}.items()}
    tallies = [Tally(**dict(zip(sums, values, strict=True))) for values in zip(*sums.values(), strict=True)]
    elapsed = np.where(np.isfinite(elapsed), elapsed, 0.0)
    return [Interval(*parts) for parts in zip(steps.tolist(), elapsed.tolist(), tallies, strict=True)]


def _ends(rows: int) -> Column:
    if rows <= _SINGLE_ROWS + _JOINED_ROWS:
        return np.arange(1, rows + 1)
    joined = np.linspace(_SINGLE_ROWS, rows, _JOINED_ROWS + 1)[1:]
    return np.concatenate([np.arange(1, _SINGLE_ROWS + 1), np.rint(joined).astype(np.int64)])


def _run(
    log: Log, header: dict[str, Any], intervals: Sequence[Interval], warnings: list[str], charges: dict[str, float]
) -> Run:
    total = Tally.total(interval.tally for interval in intervals)
    totals = {f.name: getattr(total, f.name) for f in fields(total)}
    end = None if log.status == "open" else {"status": log.status, "totals": totals}
    return Run(str(header["name"]), log.path, header, list(intervals), [], end, warnings, charges)
