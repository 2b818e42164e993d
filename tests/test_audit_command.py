"""`prequential audit`: whole scripts, run as they are, told by name what their code length rests on."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "scripts"


def audited(*arguments, options=("--json",)):
    """Exit code, the report (or what was printed), and stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-c",
        "from prequential.cli import main; main()",
        "audit",
        *options,
        *map(str, arguments),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.returncode, json.loads(done.stdout) if options and done.stdout else done.stdout, done.stderr


def test_a_plain_script_passes_and_leaves_nothing_behind(tmp_path):
    """One step was seen: its losses with shapes, its positions in their columns."""
    code, report, _ = audited(SCRIPTS / "plain_loss.py")
    assert (code, report["verdict"], report["reason"], report["causal"]) == (0, "passed", None, True)
    assert (report["grade"], report["measure"]) == ("ideal", "capture")
    assert report["loss_calls"] == ["cross_entropy on (48, 32)"]
    assert (
        report["columns"]["coded_tokens"] + report["columns"]["uncoded_tokens"] == report["columns"]["positions"] == 52
    )
    assert report["earlier_nats"] == 0 < report["later_nats"]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(("book", "bundle"))]


@pytest.mark.parametrize("script", ["leaky.py", "leaks_one.py"])
def test_a_model_that_sees_what_it_codes_fails_by_name(script):
    code, report, _ = audited(SCRIPTS / script)
    assert (code, report["verdict"], report["causal"], report["grade"]) == (1, "failed", False, "surrogate")
    assert "the model sees what it codes" in report["reason"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["two_heads.py"], "at most one loss term a target"),
        (["log_probabilities.py", "--unnormalised"], "probabilities that sum to one"),
    ],
)
def test_what_cannot_be_measured_fails_with_the_line_that_says_why(arguments, reason):
    """The script's own arguments reach it."""
    code, report, _ = audited(SCRIPTS / arguments[0], *arguments[1:])
    assert (code, report["verdict"]) == (1, "failed")
    assert reason in report["reason"]


def test_a_step_that_learns_by_itself_stays_unknown():
    """Not passed, so not 0."""
    code, shown, _ = audited(SCRIPTS / "manual_optimization.py", options=())
    assert code == 1
    assert shown.startswith("Audit unknown: causality was not audited: under manual optimisation")


def test_the_audit_takes_over_from_the_scripts_own_monitor(tmp_path):
    """No book of it is written, and what comes after the training is not run."""
    script = tmp_path / "own.py"
    text = (SCRIPTS / "plain_loss.py").read_text()
    assert "L.Trainer(" in text
    text = text.replace("L.Trainer(", "L.Trainer(callbacks=[CompressionMonitor(ledger='own')], ")
    script.write_text("from prequential import CompressionMonitor\n" + text + "\n    print('went on')\n")
    code, report, printed = audited(script)
    assert (code, report["verdict"]) == (0, "passed")
    assert "went on" not in printed
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("print('hello')", "trains nothing with a Lightning trainer"),
        ("raise SystemExit(3)", "exit code 3"),
        (None, "exists"),
    ],
)
def test_what_is_no_training_script_is_told_in_one_line(tmp_path, content, why):
    script = tmp_path / "other.py"
    if content is not None:
        script.write_text(textwrap.dedent(content))
    code, shown, printed = audited(script)
    assert (code, shown) == (1, "")
    assert why in printed.splitlines()[-1]
