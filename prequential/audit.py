"""Audit a training script without touching it: run it up to its first update, and read what was found.

The script runs as its user would run it, in a process of its own, with a monitor that comes in through Lightning's door
for external callbacks (`prequential.integrations.auditing`). After the first optimiser step that process ends at once:
no checkpoint, no book and no bundle is left behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prequential.errors import MeasureError

REPORT = "audit.json"
# The environment variable that names the folder for the report.
FOLDER = "PREQUENTIAL_AUDIT"
_STDERR = 2

PASSED, FAILED, UNKNOWN = "passed", "failed", "unknown"


def audit_script(script: str, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Run a Lightning script up to its first optimiser step and report what its code length rests on.

    What the script prints goes to stderr.

    Args:
        script: Path of the script.
        arguments: Its command line.

    Returns:
        ``verdict`` (passed, failed, unknown), ``reason`` (a sentence, or None where it passed), ``causal`` (true, false
        or null), ``earlier_nats`` and ``later_nats`` (by how much scores before and after changed tokens moved),
        ``measure``, ``sum_to_one`` (true, or null where the script states its sums), ``loss_calls``, ``grade``,
        ``columns`` (positions of the batches so far) and ``remarks``.

    Raises:
        MeasureError: There is no such script, it fails, or it trains nothing with Lightning.
    """
    if not Path(script).is_file():
        raise MeasureError(f"expected a training script, got {script}: name a file that exists")
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PREQUENTIAL": "audit", FOLDER: folder, "WANDB_MODE": "disabled"}
        done = subprocess.run([sys.executable, script, *arguments], env=environment, stdout=_STDERR, check=False)
        try:
            report: dict[str, Any] = json.loads((Path(folder) / REPORT).read_text(encoding="utf-8"))
        except FileNotFoundError:
            ended = "fails before it trains" if done.returncode else "trains nothing with a Lightning trainer"
            raise MeasureError(
                f"expected a script that trains with a Lightning trainer, got {script}, which {ended} "
                f"(exit code {done.returncode}): see what it printed"
            ) from None
    return report
