"""The command line: exit codes, one-line errors, and the same numbers as everywhere else."""

import gzip
import json
import math
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from books import book, tallies
from click.testing import CliRunner

import prequential
from prequential import REGISTRY
from prequential.cli import main

LOSSES = [3 * (step + 1) ** -0.3 + 1 for step in range(60)]
SCRIPT = "import json\n\nprint(json.dumps({}))\n"


def call(*arguments, **options):
    """Run a command in this process; an exception that is no exit is a failure of the test."""
    result = CliRunner().invoke(main, [str(a) for a in arguments], **options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def command(*arguments, **options):
    """Start the program as a shell does."""
    program = "from prequential.cli import main; main()"
    paths = os.pathsep.join([str(Path(prequential.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, **options.pop("env", {})}
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], env=environment, **options)


def strict(text):
    """Parse JSON, refusing NaN and Infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} in JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def books():
    """Write two comparable books, ``a`` and ``b``; the second is shorter."""
    book("a/book.jsonl", tallies(LOSSES))
    book("b/book.jsonl", tallies([loss - 0.2 for loss in LOSSES]))


@pytest.fixture
def script():
    """Write a small training program."""
    Path("project").mkdir()
    Path("project/train.py").write_text(SCRIPT)
    Path("project/model.py").write_text("WIDTH = 8\n")
    return Path("project/train.py")


# -- what works -------------------------------------------------------------------------------------------------


def test_show_prints_the_balance_sheet(books):
    result = call("show", "a")
    assert result.exit_code == 0
    expected = math.ceil(math.fsum(1000 * loss for loss in LOSSES) / math.log(2) / 8 + 700)
    assert f"{expected:,} compressed bytes" in result.output


def test_a_narrow_terminal_loses_no_figure():
    book("a/book.jsonl", tallies(LOSSES, tokens=20_000_000_000))
    record = strict(call("show", "a", "--json").output)
    output = call("show", "a", env={"COLUMNS": "30"}).output
    assert output.count("1,200,000,000,000") >= 2  # coded, total
    assert f"{math.ceil(record['description_bits']):,}" in output


def test_show_json_has_the_numbers_of_the_book(books):
    record = strict(call("show", "a/book.jsonl", "--json").output)
    nats = math.fsum(json.loads(line).get("nats", 0) for line in Path("a/book.jsonl").read_text().splitlines())
    assert record["nats"] == nats
    assert record["compressed_bytes"] == pytest.approx(nats / math.log(2) / 8 + 700, rel=1e-12)
    assert (record["name"], record["status"], record["single_pass"]) == ("a", "completed", "unknown")
    assert record["bundle_sha256"] == "ab" * 32


def test_show_and_compare_agree(books):
    compared = strict(call("compare", "a", "b", "--json").output)
    assert compared["verdict"]["winner"] == "b"
    for row in compared["runs"]:
        alone = strict(call("show", row["name"], "--json").output)
        assert {name: alone[name] for name in row} == row
    totals = [row["compressed_bytes"] for row in compared["runs"]]
    assert compared["verdict"]["difference_bytes"] == pytest.approx(totals[1] - totals[0])


def test_charge_adds_named_bits_to_the_balance(books):
    before = strict(call("show", "a", "--json").output)
    output = call("charge", "a", "best of 8 [red]runs", "3").output
    assert "best of 8 [red]runs" in output
    after = strict(call("show", "a", "--json").output)
    assert after["charges"] == {"best of 8 [red]runs": 3.0}
    assert after["description_bits"] == before["description_bits"] + 3
    refused = call("charge", "a", "luck", "nan")
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert call("charge", "a", "luck", "many").exit_code == 2


def test_keys_are_names_of_the_registry_or_documented(books, script):
    Path("data").write_bytes(b"abc" * 100)
    documented = {
        "name",
        "grade",
        "status",
        "single_pass",
        "single_pass_reasons",
        "given_weights",
        "measure",
        "rescore",
        "rescored",
        "nats_standard_error",
        "warnings",
        "baselines",
        "charges",
        "length",
        "sources",
        "model_bits_in_sample",
        "catch_up",
    }
    documented |= {"bundle_sha256", "rule", "sizes", "files", "packages", "python", "git", "codecs"}
    for arguments in (("show", "a"), ("bundle", script), ("baselines", "data")):
        keys = set(strict(call(*arguments, "--json").output))
        assert keys & set(REGISTRY)
        assert keys - set(REGISTRY) <= documented


def test_compare_cuts_to_the_common_prefix_when_told(books):
    book("short/book.jsonl", tallies([loss - 0.3 for loss in LOSSES[:40]]))
    refused = call("compare", "a", "short")
    assert refused.exit_code == 1
    assert "--common-prefix" in refused.stderr
    compared = strict(call("compare", "a", "short", "--common-prefix", "--json").output)
    assert [row["tokens"] for row in compared["runs"]] == [40_000, 40_000]
    assert compared["verdict"]["winner"] == "short"


def test_a_script_brings_what_it_imports_and_a_folder_all_it_holds(script):
    script.write_text("from model import WIDTH\n" + SCRIPT)
    Path("project/unused.py").write_text("pass\n")
    found = strict(call("bundle", script, "--json").output)
    assert [file["name"] for file in found["files"]] == ["model.py", "train.py"]
    swept = strict(call("bundle", "project", "--json").output)
    assert [file["name"] for file in swept["files"]] == ["model.py", "train.py", "unused.py"]
    assert found["bundle_bytes"] == found["sizes"][found["rule"]]


def test_without_a_path_the_current_folder_is_packed(script, monkeypatch):
    monkeypatch.chdir("project")
    names = [file["name"] for file in strict(call("bundle", "--json").output)["files"]]
    assert names == ["model.py", "train.py"]


def test_the_written_bundle_is_as_long_as_it_says(script):
    result = call("bundle", script, "-o", "out.tar.xz")
    assert result.exit_code == 0
    assert f"{Path('out.tar.xz').stat().st_size:,} bundle bytes under xz -9e" in result.output


def test_baselines_of_a_file_and_of_standard_input_are_the_same():
    data = b"some text, some text\n" * 500
    Path("data").write_bytes(data)
    from_file = strict(call("baselines", "data", "--json").output)
    assert from_file == strict(call("baselines", "-", "--json", input=data).output)
    assert from_file["raw_bytes"] == from_file["baselines"]["uniform"] == len(data)
    assert from_file["baselines"]["gzip -9"] == len(gzip.compress(data, 9))
    assert f"{from_file['baselines']['xz -9e']:,}" in call("baselines", "data").output


def test_progress_of_long_work_goes_to_stderr_only(monkeypatch):
    monkeypatch.setattr("prequential.cli.sizes._LONG_BYTES", 10)
    Path("data").write_bytes(b"some text, some text\n")
    result = call("baselines", "data", "--json")
    strict(result.stdout)
    assert result.stderr.splitlines()[:2] == ["uniform ...", "gzip -9 ..."]


def test_version_and_help():
    assert call("--version").output == f"prequential, version {prequential.__version__}\n"
    for arguments in ([], ["show"], ["compare"], ["bundle"], ["baselines"]):
        result = call(*arguments, "--help")
        assert result.exit_code == 0
        assert "Usage:" in result.output


# -- what does not ----------------------------------------------------------------------------------------------


BAD = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "folder": lambda path: path.mkdir(),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 40),
    "future": lambda path: path.write_text('{"kind": "header", "book": 99}\n'),
    "torn": lambda path: path.write_text('{"kind": "hea'),
    "damaged": lambda path: path.write_text('{"kind": "header", "book": 1}\n{"kind": "sums"}\n'),
    "a new line in its name": None,
}
NAMES = {"a new line in its name": "x\ny"}


def fails_in_one_line(result):
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("arguments", [["show", "x"], ["compare", "a", "x"], ["compare", "x", "a", "--common-prefix"]])
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_run_that_cannot_be_read_is_one_line_and_exit_1(books, kind, arguments, flags):
    if BAD[kind] is not None:
        BAD[kind](Path("x"))
    fails_in_one_line(call(*[NAMES.get(kind, "x") if a == "x" else a for a in arguments], *flags))


@pytest.mark.parametrize("kind", ["missing", "folder", "a new line in its name"])
@pytest.mark.parametrize("arguments", [["baselines", "x"], ["bundle", "x"], ["bundle", "x.py"], ["bundle", "x", "y"]])
def test_a_file_that_cannot_be_read_is_one_line_and_exit_1(kind, arguments):
    if BAD[kind] is not None:
        BAD[kind](Path("x"))
    fails_in_one_line(call(*[a.replace("x", NAMES.get(kind, "x"), 1) for a in arguments]))


@pytest.mark.parametrize("arguments", [["show", "a"], ["compare", "a", "b"], ["baselines", "x"], ["bundle", "x"]])
def test_a_file_without_permission_is_one_line_and_exit_1(books, monkeypatch, arguments):
    """The file system is made to refuse, since a superuser may read everything."""
    Path("x").write_text("text")

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    result = call(*arguments)
    fails_in_one_line(result)
    assert "Permission denied" in result.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="a superuser may read everything")
def test_a_book_without_permission_is_one_line_and_exit_1(books):
    os.chmod("a/book.jsonl", 0)
    fails_in_one_line(call("show", "a"))
    os.chmod("a/book.jsonl", stat.S_IRUSR | stat.S_IWUSR)


def test_a_bundle_is_not_written_over_something_else(script):
    Path("precious").write_text("text")
    fails_in_one_line(call("bundle", script, "-o", "precious"))
    fails_in_one_line(call("bundle", script, "-o", "project"))
    assert Path("precious").read_text() == "text"


def test_runs_that_cannot_be_compared_are_one_line_and_exit_1(books):
    book("c/book.jsonl", tallies(LOSSES, seed=2), name="c\n\x1b[31m")
    result = call("compare", "a", "c")
    fails_in_one_line(result)
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["show"],
        ["show", "a", "b"],
        ["show", "a", "--nonsense"],
        ["compare"],
        ["compare", "a"],
        ["compare", "a", "b", "--common"],
        ["baselines"],
        ["baselines", "a", "b"],
        ["bundle", "-o"],
        ["nonsense"],
        ["--nonsense"],
    ],
)
def test_a_wrong_call_is_exit_2(books, arguments):
    result = call(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr


# -- as a program -----------------------------------------------------------------------------------------------


def test_a_reader_that_stops_reading_gets_no_traceback(books):
    """As with ``| head -1``: the pipe is closed before anything is written."""
    for arguments in (["show", "a"], ["show", "a", "--json"], ["compare", "a", "b"]):
        read_end, write_end = os.pipe()
        os.close(read_end)
        process = command(*arguments, stdout=write_end, stderr=subprocess.PIPE)
        os.close(write_end)
        assert b"Traceback" not in process.communicate()[1]
        assert process.returncode == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
def test_an_interrupt_gets_no_traceback():
    os.mkfifo("pipe")
    process = command("baselines", "pipe", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with open("pipe", "wb"):  # opens when the command has opened it too, and now waits for input
        process.send_signal(signal.SIGINT)
        errors = process.communicate()[1]
    assert b"Traceback" not in errors
    assert process.returncode == 1


def test_output_that_cannot_spell_a_dash_still_comes(books):
    book("c/book.jsonl", tallies(LOSSES), bundle=None, name="naïve \N{SNOWMAN}")
    process = command("show", "c", env={"PYTHONIOENCODING": "ascii"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert b"compressed bytes" in output
