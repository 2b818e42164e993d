"""What can go wrong, as one family of exceptions.

A message is one line: what was expected, what came, what to do. The commands print it and exit with 1.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator


class PrequentialError(Exception):
    """Base of every error this package raises on purpose."""


class BookError(PrequentialError):
    """A book cannot be read or written: not a book, from a newer version, or damaged."""


class BundleError(PrequentialError):
    """The training program cannot be found, packed or unpacked."""


class ComparisonError(PrequentialError):
    """Runs cannot be compared: other data, other amounts of data, other rules."""


class MeasureError(PrequentialError):
    """The code length of a training step cannot be found."""


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


@contextlib.contextmanager
def harmless(what: str) -> Iterator[None]:
    """Turn any failure inside into a warning that begins with ``what``: the instrument never stops a training run."""
    try:
        yield
    except Exception as error:
        warn(f"{what}: {type(error).__name__}: {error}")
