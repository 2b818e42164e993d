"""Whether the weights were updated since a training step began: seen from Python, without waiting for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

# Functions from which gradients come. A weight that changes in place before any of them ran has learnt nothing (it
# was normalised, or is a running mean).
GRADIENTS = frozenset({Tensor.backward, torch.autograd.backward, torch.autograd.grad})


class Updates:
    """Notices updates of a module's weights within one training step, once gradients were computed in it.

    An update is a step of any torch optimiser, or a change in place of a parameter, as its version number tells. What
    neither shows (``parameter.data.add_``) is not noticed. A step that computes no gradients costs nothing.
    """

    def __init__(self) -> None:
        self._module: Any = None
        self._hook: Any = None
        self._before: int | None = None
        self._happened = False

    def begin(self, module: Any) -> None:
        """Watch one training step of this module; of any optimiser, if there is none."""
        self._module, self._before, self._happened = module, None, False
        self._hook = register_optimizer_step_post_hook(self._stepped)

    def end(self) -> None:
        """Watch no more."""
        self._hook.remove()
        self._module = None

    def gradients(self) -> None:
        """Gradients are about to be computed."""
        if self._before is None:
            self._before = self._versions()

    def happened(self) -> bool:
        """Whether the weights were updated since the training step began."""
        if not self._happened and self._before is not None:
            self._happened = self._versions() != self._before
        return self._happened

    def _stepped(self, *ignored: Any) -> None:
        self._happened = True

    def _versions(self) -> int:
        parameters = self._module.parameters() if hasattr(self._module, "parameters") else ()
        return sum(0 if parameter.is_inference() else parameter._version for parameter in parameters)
