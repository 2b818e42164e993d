"""A run that nobody measured, from the area under the loss curve that was logged."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from prequential.errors import SourceError
from prequential.sources.area import FEWEST_ROWS, Column, area_under
from prequential.sources.intervals import NO_BUNDLE, NO_BYTES, Import, joined_intervals, whole_numbers
from prequential.sources.log import Log, standing
from prequential.sources.reading import Reading

_SOME = 1e-9


def estimated(log: Log, reading: Reading) -> Import:
    """Make the area under a log's losses a run, and name all that the log leaves open."""
    warnings: list[str] = []
    rows = _rows(log, reading, warnings)
    own = rows["own"]
    share = reading.measured_share or 1.0
    area = area_under(rows["loss"], rows["tokens"], own, share)
    tokens = whole_numbers(np.rint(rows["tokens"]))
    whole = {"coded_tokens": np.diff(tokens, prepend=0)}
    if reading.bytes_per_token is not None:
        raw = whole_numbers(np.rint(tokens * reading.bytes_per_token))
        whole["raw_bytes"] = np.diff(raw, prepend=0)
    header = {
        "grade": "estimate",
        "measure": f"area under {log.chosen.loss}, {log.kind}",
        "bytes_known": reading.bytes_per_token is not None,
        "bundle": None,
        "nats_standard_error": area.standard_error,
    }
    warnings += _remarks(rows, reading, log)
    return Import(header, joined_intervals(rows, {"nats": area.nats}, whole), warnings)


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
    for name in ("step", "tokens"):
        if name in kept and not np.isfinite(kept[name]).all():
            column = getattr(log.chosen, name)
            raise SourceError(
                f"expected {column!r} beside every loss in {log.path}, got rows without: name another column"
            )
    kept = _standing_rows(kept, warnings)
    unfit = ~np.isfinite(kept["loss"])
    if unfit.any():
        warnings.append(
            f"{int(unfit.sum()):,} logged losses are NaN or infinite: their steps are taken from their neighbours, "
            "which a code could not do"
        )
        kept = {name: column[~unfit] for name, column in kept.items()}
    if len(kept["loss"]) < FEWEST_ROWS:
        raise SourceError(
            f"expected {FEWEST_ROWS} losses or more in {log.path}, got {len(kept['loss'])}: an area needs a curve"
        )
    if (kept["loss"] < 0).any():
        raise SourceError(
            f"expected losses of 0 or more in {log.path}, got {kept['loss'].min():g}: -ln p of a token "
            "is never less, name the column of the cross-entropy"
        )
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
            stands = standing(rows[name])
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
            raise SourceError(
                f"expected {what} for {log.path}, which does not say how many tokens a step has: give "
                "it, tokens_per_step= or --tokens-per-step"
            )
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
        raise SourceError(
            f"expected a column of steps in {log.path}, or tokens_per_step: how many tokens a loss is "
            "the mean of, tokens_per_step= or --tokens-per-step"
        )
    between = np.diff(tokens) / np.diff(step)
    return np.concatenate([between[:1], between])


def _remarks(rows: Mapping[str, Column], reading: Reading, log: Log) -> list[str]:
    """Name what a log leaves open."""
    tokens, own = rows["tokens"], rows["own"]
    gaps = np.diff(tokens, prepend=0.0) - own
    remarks = [
        f"{log.chosen.loss} is taken for the mean of -ln p over tokens, scored before the update: a log cannot prove it"
    ]
    unlogged = gaps.sum() / tokens[-1]
    if unlogged > _SOME:
        remarks.append(f"{_percent(unlogged)} of the tokens were not logged: between rows the loss is interpolated")
    if gaps[0] > _SOME * tokens[-1]:
        remarks.append(f"the first {gaps[0]:,.0f} tokens lie before the first row: their loss is extrapolated")
    if reading.measured_share is not None and reading.measured_share < 1:
        remarks.append(f"losses were measured on {100 * reading.measured_share:.3g} % of each step")
    remarks.append(NO_BUNDLE)
    remarks.append(
        f"raw bytes are {reading.bytes_per_token:g} a token, as given" if reading.bytes_per_token else NO_BYTES
    )
    return remarks


def _percent(share: float) -> str:
    """Write a share in two digits, and never as all where it is less."""
    return f"{100 * share:.2g} %" if share < 0.99 else f"{math.floor(1000 * share) / 10:g} %"
