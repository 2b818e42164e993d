"""How numbers and strangers' text are written: rounded against the run, unknown as a dash, nothing executed.

What costs is rounded up and what is gained is rounded down, so that no rounding flatters: a ratio of 0.99996 reads
0.999, never 1.000. A value that is not known is a dash, never 0.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

from rich.text import Text

UNKNOWN = "\N{EN DASH}"

_ANY_LENGTH = Context(prec=400)


def cost(value: float | None, digits: int = 0) -> str:
    """Write what is paid (bytes, bits, nats a token), rounded up to ``digits`` decimals."""
    return _rounded(value, digits, ROUND_CEILING)


def gain(value: float | None, digits: int = 0) -> str:
    """Write what is gained (a ratio, bytes saved), rounded down to ``digits`` decimals."""
    return _rounded(value, digits, ROUND_FLOOR)


def count(value: float | None) -> str:
    """Write a number of tokens or bytes that is whole anyway."""
    return UNKNOWN if value is None else f"{value:,}"


def safe(text: object) -> Text:
    """Take text from a book, a file or a tokenizer as it is: no markup, no control characters, one line.

    What cannot be printed (escape sequences, line ends, reversed writing, lone surrogates) is spelt out.
    """
    return Text("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text)))


def _rounded(value: float | None, digits: int, rounding: str) -> str:
    if value is None:
        return UNKNOWN
    # From the shortest decimal that means this float: 0.1 is written 0.1, not rounded up to 0.2 for its 17th digit.
    exact = Decimal(repr(value))
    return f"{exact.quantize(Decimal(1).scaleb(-digits), rounding, _ANY_LENGTH):,}"
