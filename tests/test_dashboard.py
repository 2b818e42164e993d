"""The saved workspace and the report: what is built, and what the real client sends when they are saved."""

import json
import os
import sys
from pathlib import Path

import pytest
from books import book, tallies
from click.testing import CliRunner
from fake_workspaces import FakeWorkspaces
from lightning.pytorch.loggers import WandbLogger
from test_sources_wandb import train

from prequential import REGISTRY, compare, load_run
from prequential.cli import main
from prequential.dashboard import Project, report, workspace
from prequential.errors import DashboardError
from prequential.panels import PANELS
from prequential.views.chart import run_chart
from prequential.views.markdown import comparison_markdown
from prequential.views.wandb_chart import wandb_charts

wandb = pytest.importorskip("wandb", minversion="0.31")
pytest.importorskip("wandb_workspaces")

HERE = Project("us", "toys")
CUSTOM = {"size": ("us/prequential-size", {"tokens": "tokens", "raw": "raw_bytes", "compressed": "compressed_bytes"})}
COLUMNS = [
    "run:displayName",
    "summary:prequential/compressed_bytes",
    "summary:prequential/compression_ratio",
    "summary:prequential/bits_per_byte",
    "summary:prequential/bundle_sha256",
    "summary:prequential/grade",
]


def call(*arguments):
    result = CliRunner().invoke(main, ["dashboard", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A W&B server on the loopback that takes views, and a client that knows no other."""
    wandb.teardown()
    with FakeWorkspaces() as fake:
        for name, value in fake.env().items():
            monkeypatch.setenv(name, value)
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR"):
            monkeypatch.setenv(name, str(tmp_path / name))
        yield fake
        wandb.teardown()


def recorded(server, tmp_path, *names) -> list[str]:
    """Train runs online, and tell their ids."""
    for name in names:
        train(tmp_path / name, WandbLogger(project="toys", name=name, save_dir=tmp_path))
    return [run.name for run in server.runs.values()]


# -- what is built --------------------------------------------------------------------------------------------------


def built(view) -> dict:
    """A workspace or report as it will be sent."""
    return json.loads(view._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def test_the_workspace_opens_on_the_section():
    section, lines = built(workspace(HERE, CUSTOM))["section"]["panelBankConfig"]["sections"]
    assert (section["name"], section["isOpen"], section["pinned"]) == ("Compression", True, True)
    assert [panel["viewType"] for panel in section["panels"]] == [
        "Vega2",
        *["Run History Line Plot"] * 4,
        "Markdown Panel",
    ]
    assert (lines["name"], lines["isOpen"], len(lines["panels"])) == ("Compression, as lines", False, len(PANELS))


def test_lines_run_over_tokens_and_are_quantities_of_the_registry():
    sections = built(workspace(HERE, {}))["section"]["panelBankConfig"]["sections"]
    panels = [p["config"] for s in sections for p in s["panels"] if p["viewType"] == "Run History Line Plot"]
    assert len(panels) == 2 * len(PANELS)
    assert {panel["xAxis"] for panel in panels} == {"prequential/tokens"}
    drawn = {name for panel in panels for name in panel["metrics"]}
    assert {"prequential/compressed_bytes", "prequential/raw_bytes", "prequential/bits_per_byte"} <= drawn
    assert {name.removeprefix("prequential/") for name in drawn} <= set(REGISTRY)


def test_the_runs_table_has_totals_bundle_and_grade():
    (runs,) = built(workspace(HERE, {}))["section"]["runSets"]
    assert runs["runFeed"]["columnOrder"] == COLUMNS
    assert set(runs["runFeed"]["columnPinned"]) == set(COLUMNS)


def test_a_custom_chart_asks_for_the_history_of_its_keys():
    sections = built(workspace(HERE, CUSTOM))["section"]["panelBankConfig"]["sections"]
    config = sections[0]["panels"][0]["config"]
    assert config["panelDefId"] == "us/prequential-size"
    assert config["fieldSettings"] == {
        "tokens": "prequential/tokens",
        "raw": "prequential/raw_bytes",
        "compressed": "prequential/compressed_bytes",
    }
    (query,) = config["userQuery"]["queryFields"]
    (history,) = [field for field in query["fields"] if field["name"] == "history"]
    assert history["args"] == [{"name": "keys", "value": list(config["fieldSettings"].values())}]
    assert {field["name"] for field in query["fields"]} == {"id", "name", "_defaultColorIndex", "history"}


def test_the_charts_are_those_of_the_page(tmp_path):
    """Placeholders filled in, nothing else differs; and they draw rows as W&B hands them over."""
    vl_convert = pytest.importorskip("vl_convert")
    baselines = {"xz -9e": 300, "uniform": 900}
    page = run_chart([load_run(book(tmp_path / "book.jsonl", tallies([2.0] * 4)))], baselines=baselines)
    templates = wandb_charts(baselines)
    assert set(templates) == {"rate", "size", "ratio"} <= {panel.key for panel in PANELS}
    for (key, (specification, fields)), part in zip(templates.items(), page["vconcat"], strict=True):
        text = json.dumps(specification)
        for field in fields:
            text = text.replace(f"${{field:{field}}}", field)
        filled = json.loads(text)
        assert set(fields.values()) <= set(REGISTRY)
        same = json.loads(json.dumps(part).replace('"field": "run"', '"field": "name"'))
        assert (filled["title"], filled["layer"]) == (same["title"], same["layer"])
        assert key in part["title"].lower() or key == "rate"
        rows = [{"name": "a", **dict.fromkeys(fields, 10.0 * n)} for n in range(1, 9)]
        drawn = vl_convert.vegalite_to_svg({**filled, "datasets": {"wandb": rows}})
        assert part["title"].split(",")[0] in drawn
        assert ("xz -9e" in drawn) == (key == "size")


def test_a_report_holds_the_chosen_runs_only(server):
    blocks = built(report(HERE, {}, ["abc", "def"], "**Winner**"))["blocks"]
    (grid,) = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    assert {"abc", "def"} <= set(_words(grid["runSets"]))
    types = [panel["viewType"] for panel in grid["panelBankSectionConfig"]["panels"]]
    assert {"Run History Line Plot", "Bar Chart", "Run Comparer"} <= set(types)


def _words(value):
    if isinstance(value, dict):
        value = list(value.values())
    return [word for inner in value for word in _words(inner)] if isinstance(value, list) else [value]


@pytest.mark.parametrize("given", ["toys", "us/", "/toys", "us/toys/abc", ""])
def test_a_project_of_another_form_is_refused(given):
    with pytest.raises(DashboardError, match="ENTITY/PROJECT"):
        Project.parse(given)


def test_names_in_a_comparison_are_text_and_no_markup(tmp_path):
    evil = "a|b [x](http://y) <img src=z> **c**\n# d"
    paths = [
        book(f"{n}/book.jsonl", tallies([loss] * 40), name=name) for n, (loss, name) in enumerate([(2, evil), (3, "b")])
    ]
    text = comparison_markdown(compare([load_run(path) for path in paths]))
    assert "<img" not in text.replace("\\<img", "")
    assert "[x](" not in text
    assert "\n#" not in text
    row = next(line for line in text.splitlines() if line.startswith("| a"))
    assert row.replace("\\|", "").count("|") == text.splitlines()[2].count("|")


# -- what is sent ---------------------------------------------------------------------------------------------------


def test_the_real_client_saves_workspace_charts_and_report(server, tmp_path):
    ids = recorded(server, tmp_path, "first", "second")
    result = call(f"{server.entity}/toys", *ids, "--report")
    assert result.exit_code == 0, result.output
    assert not server.errors
    assert len([line for line in result.stdout.splitlines() if line.startswith(("workspace http", "report http"))]) == 2
    sections = server.view("project-view")["section"]["panelBankConfig"]["sections"]
    used = {
        panel["config"]["panelDefId"].split("/")[1] for panel in sections[0]["panels"] if panel["viewType"] == "Vega2"
    }
    assert used == set(server.charts)
    assert len(used) == 3
    sent = next(chart for name, chart in server.charts.items() if "-size-" in name)
    assert sent == json.loads(json.dumps(wandb_charts({})["size"].specification))
    written = json.dumps(server.view("runs"))
    assert "Tie" in written or "Winner" in written
    assert all(run in written for run in ids)


@pytest.mark.parametrize(("third", "drawn"), [({}, True), ({"xz -9e": 301}, False)])
def test_references_are_those_that_all_runs_state(server, third, drawn):
    for number, sizes in enumerate([{"xz -9e": 300}, {"xz -9e": 300}, third]):
        with wandb.init(project="toys", id=f"run{number}", settings=wandb.Settings(console="off")) as run:
            run.summary.update({f"prequential/baselines/{name}": size for name, size in sizes.items()})
    assert call(f"{server.entity}/toys").exit_code == 0
    (size,) = [json.dumps(chart) for name, chart in server.charts.items() if "-size-" in name]
    assert ('"xz -9e"' in size) == drawn


def test_runs_that_do_not_compare_are_reported_with_the_reason(server, tmp_path):
    ids = recorded(server, tmp_path, "first")
    with wandb.init(project="toys", id="other", settings=wandb.Settings(console="off")) as run:
        for number in (1, 2, 3):
            run.log({"prequential/tokens": 10 * number, "prequential/nats": 5.0 * number})
    result = call(f"{server.entity}/toys", *ids, "other", "--report")
    assert result.exit_code == 0, result.output
    assert "not compared" in json.dumps(server.view("runs"))


def test_a_chart_that_is_there_already_is_used(server, tmp_path, monkeypatch):
    recorded(server, tmp_path, "first")

    def refuses(self, **chart):
        raise wandb.Error(f"custom chart {chart['name']} already exists")

    monkeypatch.setattr(wandb.Api, "create_custom_chart", refuses)
    assert call(f"{server.entity}/toys").exit_code == 0
    assert "prequential-size-" in json.dumps(server.view("project-view"))


def test_lines_take_the_place_of_charts_that_the_server_does_not_take(server, tmp_path, monkeypatch):
    recorded(server, tmp_path, "first")

    def refuses(self, **chart):
        raise wandb.Error("permission denied: entity does not exist")

    monkeypatch.setattr(wandb.Api, "create_custom_chart", refuses)
    result = call(f"{server.entity}/toys")
    assert (result.exit_code, "permission denied" in result.stderr) == (0, True)
    assert "Vega2" not in json.dumps(server.view("project-view"))


# -- what can be missing --------------------------------------------------------------------------------------------


def one_line(result):
    lines = [line for line in result.stderr.splitlines() if not line.startswith("wandb:")]
    assert (result.exit_code, len(lines)) == (1, 1), result.output
    return lines[0]


def test_a_missing_package_is_one_line(monkeypatch):
    for name in ("wandb_workspaces", "wandb_workspaces.workspaces", "wandb_workspaces.reports.v2"):
        monkeypatch.setitem(sys.modules, name, None)
    assert 'pip install "prequential[dashboard]"' in one_line(call("us/toys"))


def test_a_missing_login_is_one_line(monkeypatch, tmp_path):
    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "log in" in one_line(call("us/toys"))
    wandb.teardown()


def test_a_project_without_runs_is_one_line_and_creates_nothing(server):
    assert "train one first" in one_line(call(f"{server.entity}/nothing"))
    assert not server.views
    assert not server.charts


def test_a_server_that_refuses_is_one_line(server):
    server.fault = lambda method, path, operation: 403
    assert "expected W&B to answer" in one_line(call(f"{server.entity}/toys"))


def test_runs_without_a_report_are_a_wrong_call():
    assert call("us/toys", "abc").exit_code == 2
