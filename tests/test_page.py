"""Charts and pages: what they draw is what the books say, no peak is lost, and nothing from outside is executed."""

import csv
import html
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from books import book, tallies
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from prequential import compare, load_run
from prequential.cli import main
from prequential.series import lead, series, thinned
from prequential.views import comparison_record, run_record
from prequential.views import page as page_module
from prequential.views.chart import run_chart
from prequential.views.export import curves_csv, report_record
from prequential.views.page import fragment, page, picture

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture
def runs():
    """Two runs over 40,000 bytes, one of them better."""
    for name, gain in (("one", 1.0), ("other", 0.9)):
        nats = [gain * (1 + 4 / (i + 1)) for i in range(40)]
        book(f"{name}/book.jsonl", tallies(nats), name=name, baselines={"gzip -9": 9_000, "xz -9e": 8_000})
    return [load_run("other"), load_run("one")]


def test_a_series_ends_in_the_totals_of_its_run(runs):
    """The second route: the quantities of the registry."""
    for run in runs:
        columns, values = series(run), run.measured()
        assert columns.compressed_bytes[-1] == pytest.approx(values["compressed_bytes"], rel=1e-12)
        assert columns.raw_bytes[-1] == values["raw_bytes"]
        assert columns.ratio[-1] == pytest.approx(values["compression_ratio"], rel=1e-12)
        assert columns.running_bits_per_unit[-1] == pytest.approx(values["bits_per_byte"], rel=1e-12)


def test_the_lead_ends_in_the_difference_of_the_totals(runs):
    """At every common boundary, the last of them the end."""
    tokens, ahead = lead(*runs)
    sizes = [run.measured()["compressed_bytes"] for run in runs]
    assert len(tokens) == 40
    assert ahead[-1] == pytest.approx(sizes[1] - sizes[0], rel=1e-12)


@given(st.integers(0, 10**6), st.integers(20, 200))
def test_thinning_keeps_the_ends_and_the_peaks(seed, points):
    """The lowest, the highest, the first and the last of 5,000 are drawn, and no more points than asked for."""
    generator = np.random.default_rng(seed)
    places, values = generator.random(5000).cumsum(), generator.normal(size=5000)
    chosen = thinned(places, values, points)
    assert len(chosen) <= points
    assert {0, 4999, values.argmin(), values.argmax()} <= set(chosen.tolist())
    assert (np.diff(chosen) > 0).all()


def test_a_chart_holds_every_point_of_a_short_run(runs):
    """Values to six digits, the winner first in the legend."""
    spec = run_chart(runs, baselines={"gzip -9": 9000})
    rows = [row for row in spec["datasets"]["curves"] if row["run"] == "other"]
    assert [row["tokens"] for row in rows] == [1000.0 * (i + 1) for i in range(40)]
    assert rows[-1]["compressed"] == pytest.approx(runs[0].measured()["compressed_bytes"], rel=1e-5)
    assert spec["datasets"]["curves"][0]["run"] == "other"
    assert [row["run"] for row in spec["datasets"]["behind"]][:1] == ["one"]


def test_a_page_is_whole_by_itself_and_small(runs):
    """No address is loaded from, and what the comparison says is on it."""
    comparison = compare(runs)
    content = page([row.run for row in comparison.rows], comparison)
    assert len(content) < 3_000_000
    shell = re.sub(r"<script>.*?</script>", "", content, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href)=", shell)
    assert "default-src &#39;none&#39;" in shell or "default-src 'none'" in shell
    assert "Winner: other, by" in shell


def test_names_from_outside_are_escaped():
    """In the page, in the specification and in a notebook's frame."""
    header = {"name": EVIL, "bundle": {"files": [{"name": EVIL, "bytes": 1, "sha256": EVIL}], "bundle_bytes": 1}}
    book("evil/book.jsonl", tallies([1.0, 0.5]), events=[("doubt", EVIL)], **header)
    run = load_run("evil")
    content = page([run])
    shell = re.sub(r"<script>.*?</script>", "", content, flags=re.DOTALL)
    assert "<img" not in shell
    assert content.count("</script>") == 3  # the specification, vega, and the page's own
    (specification,) = re.findall(r'id="specification">(.*?)</script>', content, flags=re.DOTALL)
    assert json.loads(specification)["datasets"]["curves"][0]["run"] == EVIL
    assert "<script" not in fragment([run])


@pytest.mark.parametrize(("kind", "magic"), [("png", b"\x89PNG"), ("svg", b"<svg"), ("pdf", b"%PDF")])
def test_pictures_are_drawn(runs, kind, magic):
    assert picture(runs, kind).startswith(magic)


def test_the_command_writes_the_page_and_refuses_other_files(runs):
    """One run or several."""
    runner = CliRunner()
    assert runner.invoke(main, ["report", "one", "other", "-o", "page.html"]).exit_code == 0
    assert runner.invoke(main, ["report", "one", "-o", "one.png"]).exit_code == 0
    assert Path("page.html").read_text(encoding="utf-8").lstrip().startswith("<!doctype html>")
    assert runner.invoke(main, ["report", "one", "other", "-o", "page.csv"]).exit_code == 0
    assert Path("page.csv").read_text().startswith("run,step,tokens,")
    refused = runner.invoke(main, ["report", "one", "-o", "page.doc"])
    assert (refused.exit_code, "ends in .html" in refused.output) == (2, True)


def test_the_csv_holds_every_interval_and_ends_in_the_totals(runs):
    """Names with commas and quotes come back as they were."""
    odd = replace(runs[0], name='x, "y"')
    rows = list(csv.DictReader(io.StringIO(curves_csv([odd, runs[1]]))))
    assert [row["run"] for row in rows] == [odd.name] * 40 + ["one"] * 40
    for run, last in ((odd, rows[39]), (runs[1], rows[79])):
        values = run.measured()
        assert (int(last["step"]), int(last["tokens"]), int(last["raw_bytes"])) == (40, 40_000, 40_000)
        for name in ("data_bits", "compressed_bytes", "uniform_bytes"):
            assert float(last[name]) == pytest.approx(values[name], rel=1e-12)


def test_what_is_not_known_is_an_empty_cell_and_none():
    book("bare/book.jsonl", tallies([1.0, 0.5]), bytes_known=False, vocab_size=None)
    run = load_run("bare")
    assert [row["raw_bytes"] for row in csv.DictReader(io.StringIO(curves_csv([run])))] == ["", ""]
    record = report_record([run])
    assert (record["comparison"], record["runs"][0]["curve"]["uniform_bytes"]) == (None, None)


def test_the_json_holds_what_tables_show_and_the_curves(runs):
    """Parsed back from the file that the command writes."""
    assert CliRunner().invoke(main, ["report", "one", "other", "-o", "all.json"]).exit_code == 0
    record = json.loads(Path("all.json").read_text())
    comparison = compare(runs)
    assert record["comparison"] == json.loads(json.dumps(comparison_record(comparison)))
    for found, row in zip(record["runs"], comparison.rows, strict=True):
        curve = found.pop("curve")
        assert found == json.loads(json.dumps(run_record(row.run)))
        assert len(curve["tokens"]) == 40
        assert curve["compressed_bytes"][-1] == pytest.approx(found["compressed_bytes"], rel=1e-12)


def test_a_forced_comparison_is_marked_on_the_page_and_in_pictures(runs):
    """With both values, escaped."""
    book("third/book.jsonl", tallies([1.0] * 30), name=EVIL)
    comparison = compare([*runs, load_run("third")], force=True)
    ranked = [row.run for row in comparison.rows]
    content = page(ranked, comparison)
    assert '<p class="forced">FORCED: these runs are not comparable, they differ in tokens' in content
    assert "30,000 in &lt;/script&gt;" in content
    assert "<img" not in re.sub(r"<script>.*?</script>", "", content, flags=re.DOTALL)
    assert b"FORCED: not comparable in tokens" in picture(ranked, "svg", comparison)


def test_runs_of_one_group_have_one_colour(runs):
    """Each run still is a line, in the pictures as well."""
    comparison = compare(runs, group_by="vocab_size")
    ranked = [row.run for row in comparison.rows]
    spec = run_chart(ranked, groups={run.name: EVIL for run in ranked})
    assert spec["datasets"]["groups"] == [{"run": run.name, "group": EVIL} for run in ranked]
    encodings = [
        layer["encoding"] for part in spec["vconcat"] for layer in part["layer"] if "color" in layer.get("encoding", {})
    ]
    assert encodings
    assert all((e["color"]["field"], e["detail"]["field"]) == ("group", "run") for e in encodings)
    assert "256" in picture(ranked, "svg", comparison).decode()
    assert "vocab_size" in page(ranked, comparison)


class TestNotebook:
    def test_runs_and_comparisons_show_themselves(self, runs):
        """In a frame that may run its own scripts and reaches nothing else."""
        for thing, words in ((runs[0], "compressed bytes"), (compare(runs), "Winner: other, by")):
            shown = thing._repr_html_()
            assert shown.startswith('<iframe sandbox="allow-scripts" srcdoc="')
            inside = html.unescape(shown.split('srcdoc="', 1)[1].split('"', 1)[0])
            assert words in inside
            assert "default-src 'none'" in html.unescape(inside)
            shell = re.sub(r"<script>.*?</script>", "", inside, flags=re.DOTALL)
            assert not re.findall(r"(?:src|href)=", shell)

    def test_names_from_outside_stay_inside_the_frame(self):
        book("evil/book.jsonl", tallies([1.0, 0.5]), events=[("doubt", EVIL)], name='" onload="x' + EVIL)
        shown = load_run("evil")._repr_html_()
        assert shown.count('"') == 8  # of its four attributes
        assert shown.count("<") == 2  # the frame and its end

    def test_without_the_charts_package_there_are_tables_still(self, runs, monkeypatch):
        monkeypatch.setitem(sys.modules, "vl_convert", None)
        page_module._script.cache_clear()
        try:
            shown = html.unescape(runs[0]._repr_html_())
        finally:
            page_module._script.cache_clear()
        assert "No charts: they need vl-convert" in shown
        assert "compressed bytes" in shown
        assert "<script" not in shown
