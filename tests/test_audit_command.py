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


def test_a_loss_after_the_update_fails_though_its_causality_is_unknown():
    """The reason is what makes it fail."""
    code, report, _ = audited(SCRIPTS / "update_before_loss.py")
    assert (code, report["verdict"], report["causal"]) == (1, "failed", None)
    assert "after it had updated the weights" in report["reason"]


def test_what_is_not_likelihood_is_remarked_and_passes():
    """Class weights are not counted, and said."""
    code, report, _ = audited(SCRIPTS / "class_weights.py")
    assert (code, report["verdict"], report["sum_to_one"]) == (0, "passed", True)
    assert "is not likelihood and not counted" in report["remarks"][0]


HEAD = """
    import sys
    import lightning as L
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader, TensorDataset
    from prequential import CompressionMonitor

    class Zeros(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(16, 8)
            self.head = torch.nn.Linear(8, 16)
            torch.nn.init.zeros_(self.head.weight), torch.nn.init.zeros_(self.head.bias)

        def training_step(self, batch, batch_idx):
            x, y = batch
            return F.cross_entropy(self.head(self.embedding(x)).flatten(0, 1), y.flatten())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=float(sys.argv[1]))

    L.seed_everything(0)
    rows = torch.randint(16, (40, 11))
    loader = DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:]), batch_size=4)
    options = dict(max_epochs=1, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
"""


def written(name, code):
    Path(name).write_text(textwrap.dedent(code), encoding="utf-8")
    return name


def test_a_head_that_begins_with_zeros_is_looked_at_again():
    """After its first update; where it learns nothing, the answer is unknown once the training is over."""
    script = written("zeros.py", HEAD + "    L.Trainer(**options, logger=False).fit(Zeros(), loader)\n")
    code, report, _ = audited(script, "1.0")
    assert (code, report["verdict"], report["columns"]["coded_tokens"]) == (0, "passed", 2 * 40)
    code, report, _ = audited(script, "0.0")
    assert (code, report["verdict"], report["columns"]["coded_tokens"]) == (1, "unknown", 10 * 40)
    assert "not even later ones" in report["reason"]


def test_the_options_of_the_scripts_own_monitor_hold():
    """Here nats that a function states; no checkpoint is written for the end of the process."""
    tail = """
    def measure(module, batch, outputs):
        x, y = batch
        logits = module.head(module.embedding(x)).flatten(0, 1)
        return {"nats": F.cross_entropy(logits, y.flatten(), reduction="sum"), "tokens": y.numel()}

    checkpoint = L.pytorch.callbacks.OnExceptionCheckpoint("kept")
    monitor = CompressionMonitor(measure=measure, ledger="own", token_bytes="bytes")
    L.Trainer(**options, logger=False, callbacks=[monitor, checkpoint]).fit(Zeros(), loader)
"""
    code, report, _ = audited(written("own.py", HEAD + tail), "1.0")
    assert (code, report["verdict"], report["measure"], report["sum_to_one"]) == (0, "passed", "callable", None)
    assert not any(Path(name).exists() for name in ("own", "kept"))


def test_wandb_gets_no_run():
    """An audit is no experiment."""
    tail = "    L.Trainer(**options, logger=L.pytorch.loggers.WandbLogger(project='p')).fit(Zeros(), loader)\n"
    code, report, _ = audited(written("logged.py", HEAD + tail), "1.0")
    assert (code, report["verdict"]) == (0, "passed")
    assert not list(Path().rglob("run-*")) + list(Path().rglob("offline-run-*"))


def test_a_failure_of_the_script_in_its_training_is_its_own():
    """It is no finding: its traceback is on stderr."""
    tail = "    loader = DataLoader([1, 2])\n    L.Trainer(**options, logger=False).fit(Zeros(), loader)\n"
    code, shown, printed = audited(written("script.py", HEAD + tail), "1.0")
    assert (code, shown) == (1, "")
    assert "Traceback" in printed
    assert "exit code 1" in printed.splitlines()[-1]


def test_a_wrong_call_is_exit_2():
    """No SCRIPT, or an option that is none."""
    assert audited(options=())[0] == 2
    assert audited("--nonsense", SCRIPTS / "plain_loss.py", options=())[0] == 2


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
