"""Does the model see what it codes? An audit on request.

- `audit`: runs a training step on a batch and on one with other tokens later in each row.
- `alignment`: where a batch holds the targets, and that batch changed.
"""

from prequential.causality.audit import Finding, audited

__all__ = ["Finding", "audited"]
