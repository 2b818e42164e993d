"""`PREQUENTIAL=1 python train.py`: the monitor on a script that is not touched at all.

Lightning calls this at every `Trainer` of everybody who has the package installed, so that nothing is loaded unless the
variable is set.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Callback


def callbacks_from_environment() -> list[Callback]:
    """Answer Lightning's ``callbacks_factory``: a monitor if ``PREQUENTIAL`` is set, else nothing."""
    if os.environ.get("PREQUENTIAL", "").lower() in ("", "0", "false", "no", "off"):
        return []
    if os.environ["PREQUENTIAL"] == "audit":
        from prequential.integrations.auditing import AuditMonitor

        return [AuditMonitor()]
    from prequential.integrations.lightning import CompressionMonitor

    monitor = CompressionMonitor()
    monitor.from_environment = True
    return [monitor]
