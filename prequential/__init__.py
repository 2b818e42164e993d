"""Instrument training runs: from the area under the loss curve to a description length.

The names below are loaded when they are first used, so that `import prequential` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prequential._version import __version__

if TYPE_CHECKING:
    from prequential.bundle import Bundle
    from prequential.codelength import REGISTRY, Tally
    from prequential.comparison import compare
    from prequential.integrations.lightning import CompressionMonitor
    from prequential.integrations.loop import Recording
    from prequential.integrations.transformers import CompressionCallback
    from prequential.ledger import Ledger
    from prequential.meter import Meter
    from prequential.run import Run
    from prequential.sources import load_run
    from prequential.tokenbytes import TokenBytes, token_bytes

_ROOMS = {
    "REGISTRY": "codelength",
    "Bundle": "bundle",
    "CompressionCallback": "integrations.transformers",
    "CompressionMonitor": "integrations.lightning",
    "Ledger": "ledger",
    "Meter": "meter",
    "Recording": "integrations.loop",
    "Run": "run",
    "Tally": "codelength",
    "TokenBytes": "tokenbytes",
    "compare": "comparison",
    "load_run": "sources",
    "token_bytes": "tokenbytes",
}

__all__ = [
    "REGISTRY",
    "Bundle",
    "CompressionCallback",
    "CompressionMonitor",
    "Ledger",
    "Meter",
    "Recording",
    "Run",
    "Tally",
    "TokenBytes",
    "__version__",
    "compare",
    "load_run",
    "token_bytes",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'prequential' has no attribute {name!r}")
    return getattr(import_module(f"prequential.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
