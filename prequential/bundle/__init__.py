"""The bundle: the training program f, everything a receiver needs and does not already have.

- `program`: `Bundle`, its identity, sizes and manifest.
- `archive`: files to one canonical byte string under a size rule, and safely back.
- `discovery`: which files belong to the program; `closure` follows imports, `origins` tells own code from installed,
  `configuration` makes the resolved configuration canonical, `suspects` knows secrets and data by sight.
"""

from prequential.bundle.program import Bundle

__all__ = ["Bundle"]
