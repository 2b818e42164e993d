"""The state of a recording as a file in the folder of a checkpoint, for trainers that keep none of their callbacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from prequential.errors import Harmless, warn
from prequential.integrations.session import known_state

STATE_NAME = "prequential.pt"


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a state into the folder of a checkpoint; never raises."""
    with Harmless("the checkpoint does not hold the state of the recording"):
        if state and folder.is_dir():
            torch.save(dict(state), folder / STATE_NAME)


def load_state(folders: Iterable[Path]) -> Mapping[str, Any] | None:
    """Read the state in the first of these folders that holds one; None, with a warning, if none does."""
    looked = []
    for folder in folders:
        looked.append(str(folder / STATE_NAME))
        if Path(looked[-1]).is_file():
            with Harmless(f"the state {looked[-1]} cannot be read, the run is recorded as one that begins here"):
                return known_state(torch.load(looked[-1], weights_only=True))
            return None
    warn(
        f"expected the state of the recording in {' or '.join(looked)}, found none: the run is recorded as one that "
        "begins with the weights of the checkpoint"
    )
    return None
