"""When and with what a run is made, for the head of its book."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any


def versions() -> dict[str, Any]:
    """When and with what a run was made."""
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("prequential", "torch", "lightning")},
        },
        "platform": platform.platform(),
    }
