"""Charts and pages: what they draw is what the books say, no peak is lost, and nothing from outside is executed."""

import html
import json
import re
import sys
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
from prequential.views import page as page_module
from prequential.views.chart import run_chart
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
    refused = runner.invoke(main, ["report", "one", "-o", "page.doc"])
    assert (refused.exit_code, "ends in .html" in refused.output) == (2, True)


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
