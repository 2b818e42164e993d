"""The bundle: the training program f, everything a receiver needs and does not already have.

- `program`: `Bundle`, its identity, sizes and manifest.
- `archive`: files to one canonical byte string under a size rule, and safely back; `codecs` compress, `disk` writes.
- `discovery`: which files belong to the program. `entry` finds the main script, `imports` reads one source, `closure`
  follows imports, `origins` tells own code from installed, `configuration` makes the resolved configuration canonical,
  `collection` gives files their names, `suspects` knows secrets and data by sight, `revision` asks git.
"""

from prequential.bundle.program import Bundle

__all__ = ["Bundle"]
