"""Finding the exact -log p of every target inside a training step that knows nothing of it.

- `tap`: watches the loss calls of a step; `entrances`: where they enter torch's C library, for less.
- `likelihoods`: how each loss function of torch is read; `fused`: those of packages that never form logits.
- `held`: the calls of the first micro-batch, kept back until it is known which count.
- `updates`: whether the weights were updated before a call.
- `declarations`: sums that a script states itself.
"""

from prequential.capture.declarations import Declared, declared
from prequential.capture.held import Call
from prequential.capture.tap import LossTap

__all__ = ["Call", "Declared", "LossTap", "declared"]
