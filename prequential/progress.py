"""How far a run has come: of its planned tokens, in time, and what it is forecast to come to."""

from __future__ import annotations

from typing import Any, NamedTuple

from prequential.errors import CurveError
from prequential.run import Run


class Progress(NamedTuple):
    """A run on its way.

    Attributes:
        tokens: Tokens of the data so far.
        planned_tokens: Those at the end; None if they are not known.
        elapsed_s: Seconds that its book spans.
        remaining_s: Seconds to the end at the pace so far, the first interval (start-up) left out; None if unknown.
        forecast: What `forecast_run` finds; None if nothing is left, or it cannot be made.
        why_not: Why it cannot.
    """

    tokens: int
    planned_tokens: int | None
    elapsed_s: float
    remaining_s: float | None
    forecast: dict[str, Any] | None
    why_not: str | None


def progress_of(run: Run, planned_tokens: int | None = None) -> Progress:
    """Look at a run that is going on.

    Args:
        run: The run so far.
        planned_tokens: Tokens of its data at the end; by default as its book tells.
    """
    planned = run.planned_tokens if planned_tokens is None else planned_tokens
    tokens = run.total.tokens
    elapsed_s = run.intervals[-1].elapsed_s if run.intervals else 0.0
    if planned is None:
        return Progress(tokens, None, elapsed_s, None, None, "how many tokens are planned is not known")
    if planned <= tokens:
        return Progress(tokens, planned, elapsed_s, None, None, None)
    forecast, why_not = _forecast(run, planned)
    return Progress(tokens, planned, elapsed_s, _remaining_s(run, planned), forecast, why_not)


def ahead(run: Run, planned_tokens: int, points: int) -> list[dict[str, Any]]:
    """Forecast a run at token counts from now to its end, equally far apart in their logarithm.

    Args:
        run: The run so far.
        planned_tokens: Tokens of its data at the end.
        points: How many, the end among them.

    Returns:
        What `forecast_run` finds at each; nothing where no forecast can be made, or none that holds.
    """
    from prequential.forecast import CHECKED_FROM, forecast_run

    seen = run.total.tokens
    if seen < CHECKED_FROM * planned_tokens:
        return []
    try:
        growth = planned_tokens / seen if seen else 0.0
        counts = [round(seen * growth ** (number / points)) for number in range(1, points)]
        return [forecast_run(run, count) for count in [*counts, planned_tokens]] if growth > 1 else []
    except CurveError:
        return []


def _forecast(run: Run, planned: int) -> tuple[dict[str, Any] | None, str | None]:
    from prequential.forecast import CHECKED_FROM, forecast_run

    if run.total.tokens < CHECKED_FROM * planned:
        return None, f"too early: from {100 * CHECKED_FROM:g} % of the planned tokens on its interval holds"
    try:
        return forecast_run(run, planned), None
    except CurveError as error:
        return None, str(error)


def _remaining_s(run: Run, planned: int) -> float | None:
    """Seconds for what is left, at the pace since the end of the first interval."""
    if not run.intervals:
        return None
    first, last = run.intervals[0], run.intervals[-1]
    tokens, seconds = run.total.tokens - first.tally.tokens, last.elapsed_s - first.elapsed_s
    return seconds / tokens * (planned - run.total.tokens) if tokens > 0 and seconds > 0 else None
