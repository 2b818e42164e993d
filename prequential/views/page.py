"""One self-contained page: a run or a comparison with its charts, tables, bundle and caveats; opened without a network.

Every name that comes from outside is escaped by the template; specifications travel as JSON in which no tag can end.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from prequential.comparison import Comparison
from prequential.run import Run
from prequential.views import sheet
from prequential.views.chart import run_chart
from prequential.views.figures import count, safe


def page(runs: Sequence[Run], comparison: Comparison | None = None) -> str:
    """Write runs as one HTML file.

    Args:
        runs: One run, or those of the comparison, best first.
        comparison: What `compare` found, where there are several.

    Returns:
        HTML in which everything lies that is needed to show it; without charts where vl-convert is not installed.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(
        loader=PackageLoader("prequential.views"), autoescape=select_autoescape(default=True), trim_blocks=True
    )
    environment.filters["safe_text"] = lambda text: safe(text).plain
    title = runs[0].name if comparison is None else " against ".join(run.name for run in runs[:3])
    return environment.get_template("page.html").render(
        title=title,
        verdict=[] if comparison is None else sheet.verdict_lines(comparison),
        comparison=None if comparison is None else _compared(comparison),
        runs=[_run(run) for run in runs],
        specification=_json(run_chart(runs, baselines=baselines_of(runs), groups=_groups(comparison))),
        script=_script(),
    )


def fragment(runs: Sequence[Run], comparison: Comparison | None = None) -> str:
    """Write runs for a notebook: the same page in a frame of its own, so that its styles and scripts stay inside.

    The frame may run its own scripts and nothing else: it reaches neither the notebook nor a network.
    """
    from html import escape

    content = escape(page(runs, comparison), quote=True)
    return (
        f'<iframe sandbox="allow-scripts" srcdoc="{content}" style="width:100%;height:900px;border:0" '
        'title="prequential"></iframe>'
    )


def picture(runs: Sequence[Run], kind: str, comparison: Comparison | None = None) -> bytes:
    """Draw the charts of runs as ``png``, ``svg`` or ``pdf``, on white."""
    import vl_convert

    chart = run_chart(runs, baselines=baselines_of(runs), groups=_groups(comparison))
    if comparison is not None and comparison.forced:
        chart["title"] = f"FORCED: not comparable in {', '.join(sheet.forced_fields(comparison))}"
    specification = {**chart, "background": "white"}
    if kind == "png":
        return bytes(vl_convert.vegalite_to_png(specification, scale=2))
    drawn = vl_convert.vegalite_to_svg if kind == "svg" else vl_convert.vegalite_to_pdf
    content = drawn(specification)
    return content.encode() if isinstance(content, str) else bytes(content)


def baselines_of(runs: Sequence[Run]) -> dict[str, float]:
    """Sizes of the same data under other codes, where all runs carry the same ones."""
    sizes = runs[0].header.get("baselines") or {}
    return dict(sizes) if all(run.header.get("baselines") == sizes for run in runs) else {}


@functools.cache
def _script() -> str:
    """Vega, Vega-Lite and Vega-Embed, as they come with vl-convert; empty without it."""
    try:
        import vl_convert
    except ImportError:
        return ""
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")).replace("</script", "<\\/script")


def _json(value: Any) -> str:
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _groups(comparison: Comparison | None) -> dict[str, str]:
    """The group of each run, if they were grouped."""
    return {} if comparison is None else {name: group.value for group in comparison.groups for name in group.runs}


def _headings(headings: Sequence[str]) -> list[str]:
    return [heading.replace("/\n", "/").replace("\n", " ") for heading in headings]


def _compared(comparison: Comparison) -> dict[str, Any]:
    return {
        "headings": _headings(sheet.comparison_headings(comparison)),
        "rows": sheet.compared(comparison),
        "forced": sheet.forced(comparison),
        "group_headings": sheet.group_headings(comparison),
        "groups": sheet.groups(comparison),
        "behind_headings": _headings(sheet.behind_headings(comparison)),
        "behind": sheet.behind(comparison),
        "units": sheet.comparison_units(comparison),
        "notes": comparison.notes,
    }


def _run(run: Run) -> dict[str, Any]:
    total, halves = sheet.headline(run)
    return {
        "name": run.name,
        "status": run.status,
        "total": total,
        "halves": halves,
        "balance": sheet.balance(run),
        "total_label": sheet.TOTAL,
        "ratios": sheet.ratios(run),
        "source_headings": sheet.source_headings(run),
        "sources": sheet.by_source(run),
        "trust": sheet.trust(run),
        "caveats": [*run.warnings, *(f"step {event.get('step')}: {event['message']}" for event in run.events)],
        "bundle": _bundle(run.bundle),
    }


def _bundle(manifest: Mapping[str, Any]) -> dict[str, Any]:
    files = [file for file in manifest.get("files") or [] if isinstance(file, dict)]
    packages = manifest.get("packages") or {}
    return {
        "files": [(file.get("name"), count(file.get("bytes")), file.get("sha256")) for file in files],
        "packages": [f"{name} {version}" for name, version in packages.items()] if isinstance(packages, dict) else [],
    }
