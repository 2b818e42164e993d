"""A W&B project seen by its compression: a saved workspace, and a report that compares runs.

Both are built by the ``wandb-workspaces`` package (``pip install "prequential[dashboard]"``), and saved by `Server`; to
build a report, that package asks the server which project is meant.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from prequential.codelength import REGISTRY
from prequential.errors import DashboardError
from prequential.panels import BASELINES, PANELS, SECTION, Panel

PREFIX = "prequential/"
X_AXIS = PREFIX + "tokens"
_COLUMNS = ("compressed_bytes", "compression_ratio", "bits_per_byte", "bundle_sha256", "grade")
_HOW_TO_READ = """\
Solid: bytes that a receiver needs, training program included. Dashed: the data as it is. The further the first lies
below the second, the better the run compresses. Runs compare at equal data only: one that stopped early coded less.
"""

T = TypeVar("T")
Charts = Mapping[str, tuple[str, Mapping[str, str]]]


class Project(NamedTuple):
    """Where runs lie on a server."""

    entity: str
    name: str

    @classmethod
    def parse(cls, given: str) -> Project:
        """Read ``ENTITY/PROJECT``.

        Raises:
            DashboardError: It is of another form.
        """
        entity, _, name = given.partition("/")
        if not entity or not name or "/" in name:
            raise DashboardError(f"expected ENTITY/PROJECT, got {given!r}: copy both from the address of the project")
        return cls(entity, name)


def workspace(project: Project, charts: Charts) -> Any:
    """Build the saved workspace: the section *Compression*, and a runs table with sizes, ratio and grade.

    Args:
        project: Where the runs lie.
        charts: Custom charts that the server has: their ids there and their fields, by panel; lines for the others.
    """
    ws, _ = _packages()
    over_tokens = ws.SectionPanelSettings(x_axis=X_AXIS)
    lines = _placed([_lines(panel) for panel in PANELS])
    return ws.Workspace(
        entity=project.entity,
        project=project.name,
        name=SECTION,
        sections=[
            ws.Section(name=SECTION, panels=_panels(charts), is_open=True, pinned=True, panel_settings=over_tokens),
            ws.Section(name=f"{SECTION}, as lines", panels=lines, panel_settings=over_tokens),
        ],
        settings=ws.WorkspaceSettings(x_axis=X_AXIS, group_by_prefix="first"),
        runset_settings=ws.RunsetSettings(pinned_columns=_columns()),
    )


def report(project: Project, charts: Charts, runs: Sequence[str], text: str) -> Any:
    """Build the report: a text, the same panels, and the chosen runs side by side.

    Args:
        project: Where the runs lie.
        charts: As for `workspace`.
        runs: Ids of the runs; all of the project if none is given.
        text: Markdown to begin with.
    """
    _, wr = _packages()
    from wandb_workspaces import expr

    chosen = wr.Runset(
        entity=project.entity,
        project=project.name,
        name="Runs",
        filters=[expr.Metric("ID").isin(list(runs))] if runs else [],
        pinned_columns=_columns(),
    )
    bars = wr.BarPlot(title="Compressed bytes", metrics=[wr.SummaryMetric(PREFIX + "compressed_bytes")])
    panels = [*_panels(charts), bars, wr.RunComparer(diff_only="split")]
    blocks = [wr.MarkdownBlock(text=text), wr.PanelGrid(runsets=[chosen], panels=_placed(panels))]
    return wr.Report(project=project.name, entity=project.entity, title=SECTION, blocks=blocks, width="fluid")


class Server:
    """A W&B server, by the user's own login.

    Raises:
        DashboardError: A package is missing, nobody is logged in, or there is no way to the server.
    """

    def __init__(self) -> None:
        _packages()
        self._api = _asked(_api)

    def baselines(self, project: Project) -> dict[str, float]:
        """Sizes of the data under other codes, where all runs of the project that state some state the same.

        Raises:
            DashboardError: The project has no runs, or is none: saving would create it.
        """
        found = _asked(lambda: [_baselines(run) for run in self._api.runs(f"{project.entity}/{project.name}")])
        if not found:
            raise DashboardError(f"expected runs in {project.entity}/{project.name}, found none: train one first")
        stated = [sizes for sizes in found if sizes]
        return stated[0] if stated and all(sizes == stated[0] for sizes in stated) else {}

    def create_charts(self, entity: str, templates: Mapping[str, Any]) -> Charts:
        """Store custom charts, each under a name that holds the hash of its specification.

        One that is there already under that name is the same, and is used as it is.
        """
        return {
            key: (self._created(entity, key, chart.specification), chart.fields) for key, chart in templates.items()
        }

    def save(self, view: Any) -> str:
        """Save a workspace or a report, and tell its address."""
        _asked(view.save)
        return str(_asked(lambda: view.url))

    def _created(self, entity: str, key: str, specification: Mapping[str, Any]) -> str:
        content = json.dumps(specification, sort_keys=True)
        name = f"prequential-{key}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
        try:
            return str(
                self._api.create_custom_chart(
                    entity=entity,
                    name=name,
                    display_name=f"prequential: {key}",
                    spec_type="vega2",
                    access="private",
                    spec=content,
                )
            )
        except Exception as error:  # the client has no class for it
            if "already exist" in str(error).lower():
                return f"{entity}/{name}"
            raise _unanswered(error) from error


def _packages() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise DashboardError(
            'expected the wandb-workspaces package, to build dashboards: pip install "prequential[dashboard]"'
        ) from error
    return ws, wr


def _panels(charts: Charts) -> list[Any]:
    """The section: a word on how to read it, then custom charts where the server has them, and lines."""
    _, wr = _packages()
    drawn = [_custom(*charts[panel.key]) if panel.key in charts else _lines(panel) for panel in PANELS]
    return _placed([*drawn, wr.MarkdownPanel(markdown=_HOW_TO_READ)])


def _custom(chart: str, fields: Mapping[str, str]) -> Any:
    """A custom chart over logged rows, those that hold all of its keys."""
    _, wr = _packages()
    keys = {field: PREFIX + quantity for field, quantity in fields.items()}
    query = {"id": None, "name": None, "_defaultColorIndex": None, "history": {"keys": list(keys.values())}}
    return wr.CustomChart(query=query, chart_name=chart, chart_fields=keys, chart_strings={})


def _lines(panel: Panel) -> Any:
    _, wr = _packages()
    names = [PREFIX + name for name in panel.quantities if name in REGISTRY]
    return wr.LinePlot(title=panel.title, x=X_AXIS, y=names, title_x="tokens", title_y=panel.unit)


def _placed(panels: Sequence[Any]) -> list[Any]:
    """Three beside each other: W&B's grid is 24 wide."""
    _, wr = _packages()
    for number, panel in enumerate(panels):
        panel.layout = wr.Layout(x=8 * (number % 3), y=6 * (number // 3), w=8, h=6)
    return list(panels)


def _columns() -> list[str]:
    return ["run:displayName", *(f"summary:{PREFIX}{name}" for name in _COLUMNS)]


def _baselines(run: Any) -> dict[str, float]:
    prefix = PREFIX + BASELINES
    summary = dict(run.summary_metrics)
    return {name.removeprefix(prefix): float(summary[name]) for name in sorted(summary) if name.startswith(prefix)}


def _api() -> Any:
    import wandb

    return wandb.Api()


def _asked(ask: Callable[[], T]) -> T:
    """Ask the server; whatever it or its client says is one line."""
    try:
        return ask()
    except DashboardError:
        raise
    except Exception as error:  # the client has no common base for what can go wrong
        raise _unanswered(error) from error


def _unanswered(error: Exception) -> DashboardError:
    told = " ".join(str(error).split()) or type(error).__name__
    return DashboardError(f"expected W&B to answer, it did not: {told:.200}")
