"""What a data set shares with what was coded before it: a table, and the same as a plain JSON object."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from prequential.comparison import Saving, Shared
from prequential.views.figures import UNKNOWN, cost, count, gain, safe
from prequential.views.table import figures_table, listed

_ALL = "all of D2"


def shared_table(shared: Shared) -> RenderableType:
    """Put what D2 costs alone beside what it costs after D1, by source where the books have sources.

    Args:
        shared: What `comparison.shared` found.

    Returns:
        Something for `rich` to print.
    """
    headings = "", "tokens", "K(D2)", "K(D2 | D1)", "shared", "share"
    rows = [_cells(name, saving) for name, saving in shared.sources.items()] if len(shared.sources) > 1 else []
    rows.append(_cells(_ALL, shared.saving))
    units = "Bytes of data code, the program known on both sides; D1 is"
    parts: list[RenderableType] = [
        figures_table(headings, [(safe(first), *rest) for first, *rest in rows], bold=_ALL),
        Text(f"{units} {count(shared.before_tokens)} tokens.", style="dim"),
        Text(),
        Text(safe(sentence(shared)).plain, style="bold"),
        Text(),
        listed("Notes", shared.notes),
    ]
    return Group(*parts)


def sentence(shared: Shared) -> str:
    """State the saving; it is rounded down and its interval outwards."""
    low, high = shared.interval_bytes or (None, None)
    interval = "no interval" if low is None else f"95 % interval {gain(low)} to {cost(high)}"
    found = gain(shared.saving.shared_bytes)
    if low is not None and high is not None and low <= 0 <= high:
        return f"Nothing to tell from noise: {shared.after} saves {found} bytes of {shared.alone} ({interval})."
    return f"{shared.after} saves {found} bytes of {shared.alone}: shared information ({interval})."


def shared_record(shared: Shared) -> dict[str, Any]:
    """List the saving by name.

    Returns:
        ``alone`` and ``after`` (names of the runs), ``tokens``, ``alone_bytes``, ``conditional_bytes``,
        ``shared_bytes``, ``shared_part`` (of ``alone_bytes``), ``interval_bytes`` (a pair, or None), ``before_tokens``,
        ``proved`` (whether the books show that D2 is the same), ``sources`` (tokens to ``shared_part`` by source) and
        ``notes``.
    """
    return {
        "alone": shared.alone,
        "after": shared.after,
        **_saving(shared.saving),
        "interval_bytes": list(shared.interval_bytes) if shared.interval_bytes else None,
        "before_tokens": shared.before_tokens,
        "proved": shared.proved,
        "sources": {name: _saving(saving) for name, saving in shared.sources.items()},
        "notes": list(shared.notes),
    }


def _saving(saving: Saving) -> dict[str, Any]:
    names = ("tokens", "alone_bytes", "conditional_bytes", "shared_bytes", "shared_part")
    return {name: getattr(saving, name) for name in names}


def _cells(name: str, saving: Saving) -> tuple[str, ...]:
    part = saving.shared_part
    share = UNKNOWN if part is None else f"{gain(100 * part, 1)} %"
    sizes = cost(saving.alone_bytes), cost(saving.conditional_bytes), gain(saving.shared_bytes)
    return name, count(saving.tokens), *sizes, share
