"""What can go wrong, as one family of exceptions.

A message is one line: what was expected, what came, what to do. The commands print it and exit with 1.
"""

from __future__ import annotations

import contextlib
import sys
import warnings


class PrequentialError(Exception):
    """Base of every error this package raises on purpose."""


class BookError(PrequentialError):
    """A book cannot be read or written: not a book, from a newer version, or damaged."""


class BundleError(PrequentialError):
    """The training program cannot be found, packed or unpacked."""


class CoderError(PrequentialError):
    """A bitstream cannot be written, read or decoded: not one, damaged, cut off, or not of this training."""


class ComparisonError(PrequentialError):
    """Runs cannot be compared: other data, other amounts of data, other rules."""


class CurveError(PrequentialError):
    """A loss curve cannot be split or forecast: no curve, or too little of it."""


class DashboardError(PrequentialError):
    """A dashboard cannot be built or saved: a package is missing, nobody is logged in, or W&B does not answer."""


class MeasureError(PrequentialError):
    """The code length of a training step cannot be found."""


class RanksError(PrequentialError):
    """A data-parallel rank did not send what was due."""


class SourceError(PrequentialError):
    """A log cannot be read as a run: another kind of file, no losses in it, or not enough said about it."""


class SyncError(PrequentialError):
    """A book cannot be sent to W&B: no way to the server, or a run that is not its own."""


class TokenBytesError(PrequentialError):
    """It is not known how many bytes a token stands for."""


class PrequentialWarning(UserWarning):
    """Something the user should know; training and results go on."""


def warn(message: str) -> None:
    """Warn, and never raise: a script that turns warnings into errors keeps training all the same."""
    try:
        warnings.warn(message, PrequentialWarning, stacklevel=3)
    except PrequentialWarning:
        print(f"prequential: {message}", file=sys.stderr)


class Harmless(contextlib.AbstractContextManager["Harmless", bool]):
    """Turn any failure inside into a warning that begins with ``what``: the instrument never stops a training run."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        """Swallow exceptions, but neither an interrupt nor an exit."""
        if not isinstance(error, Exception):
            return False
        warn(f"{self.what}: {type(error).__name__}: {error}")
        return True
