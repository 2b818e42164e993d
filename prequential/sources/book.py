"""A run from its book: finding the book, reading it, and holding its header to the types that readers rely on."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from prequential.errors import BookError
from prequential.ledger import BOOK_NAME, read_book
from prequential.run import Run

_LISTED = 3

# What a header may hold where it holds the field at all; a book is data from elsewhere, so nothing is taken on trust.
_HEADER_TYPES: dict[str, type] = {
    "name": str,
    "grade": str,
    "measure": str,
    "data_name": str,
    "fingerprint_scheme": str,
    "bytes_known": bool,
    "vocab_size": int,
    "bundle": dict,
    "token_bytes": dict,
    "baselines": dict,
    "nats_standard_error": float,
    "single_pass": dict,
    "planned_tokens": int,
    "planned_steps": int,
    "weights": dict,
    "wandb": dict,
}
_COUNTS_BELOW = 2**63


def books_at(path: str | os.PathLike[str]) -> list[Path]:
    """List the books that ``path`` may mean: itself, where it is a file; else one in it; else all those below it.

    Raises:
        BookError: It cannot be looked into.
    """
    given = Path(path)
    try:
        if not given.is_dir():
            return [given] if given.exists() else []
        return [given / BOOK_NAME] if (given / BOOK_NAME).is_file() else sorted(_books_below(given))
    except (OSError, ValueError) as error:
        raise BookError(f"expected a book, cannot look into {given}: {error}") from error


def find_book(path: str | os.PathLike[str]) -> Path:
    """Find the one book that ``path`` means.

    Raises:
        BookError: The folder holds no book or several.
    """
    given = Path(path)
    books = books_at(given)
    if not books and not given.is_dir():
        return given  # whoever reads it says what is wrong
    if not books:
        raise BookError(
            f"expected a {BOOK_NAME} in or below {given}, or a log (metrics.csv, TensorBoard events, a .wandb file), "
            "found none: give the folder the run wrote to"
        )
    if len(books) > 1:
        listed = ", ".join(map(str, books[:_LISTED])) + (", ..." if len(books) > _LISTED else "")
        raise BookError(f"expected one {BOOK_NAME} below {given}, found {len(books)} ({listed}): name one of them")
    return books[0]


def run_from_book(path: Path) -> Run:
    """Read a book and check its header and that its sums are numbers to reckon with.

    Raises:
        BookError: See `read_book`; or a header field of another type, or sums beyond floating point.
    """
    return checked(lambda: read_book(path), path)


def checked(read: Callable[[], Run], path: Path) -> Run:
    """Check the header of the run that is read from ``path``, and that its sums are numbers to reckon with.

    Raises:
        BookError: See `run_from_book`.
    """
    try:
        run = read()
    except ValueError as error:  # a path with a NUL, say
        raise BookError(f"expected a book, cannot read {path}: {error}") from error
    except (ArithmeticError, TypeError) as error:  # sums past the largest float, totals that are no numbers
        raise _unreckonable(path) from error
    _check_header(run)
    try:
        finite = all(math.isfinite(value) for value in run.measured().values() if value is not None)
    except (ArithmeticError, ValueError) as error:
        raise _unreckonable(path) from error
    if not finite:
        raise _unreckonable(path)
    return run if run.name else replace(run, name=path.resolve().parent.name)


def _books_below(folder: Path) -> list[Path]:
    return [Path(where) / BOOK_NAME for where, _, names in os.walk(folder) if BOOK_NAME in names]


def _check_header(run: Run) -> None:
    for name, kind in _HEADER_TYPES.items():
        value = run.header.get(name)
        if value is not None and type(value) is not kind:
            raise _unfit(run, name, f"a JSON {_JSON_NAMES[kind]}", value)
    vocab_size = run.header.get("vocab_size")
    if vocab_size is not None and not 1 <= vocab_size < _COUNTS_BELOW:
        raise _unfit(run, "vocab_size", "a number of symbols", vocab_size)
    for name in ("planned_tokens", "planned_steps"):
        planned = run.header.get(name)
        if planned is not None and not 1 <= planned < _COUNTS_BELOW:
            raise _unfit(run, name, "a number above 0", planned)
    standard_error = run.header.get("nats_standard_error")
    if standard_error is not None and not 0 <= standard_error < math.inf:
        raise _unfit(run, "nats_standard_error", "a number of nats", standard_error)
    given = (run.header.get("weights") or {}).get("sha256")
    if not isinstance(given, (str, type(None))):
        raise _unfit(run, "weights: sha256", "a JSON string", given)
    stated = run.header.get("single_pass")
    if stated is not None and stated.get("answer") not in ("yes", "no", "unknown"):
        raise _unfit(run, "single_pass", "an answer of yes, no or unknown", stated)
    for where, bundle in (
        ("bundle", run.header.get("bundle")),
        ("bundle of the end line", (run.end or {}).get("bundle")),
    ):
        _check_bundle(run, where, bundle)
    for name, size in (run.header.get("baselines") or {}).items():
        if not _is_size(size):
            raise _unfit(run, f"baselines[{name!r}]", "a number of bytes", size)


def _check_bundle(run: Run, where: str, bundle: Any) -> None:
    if bundle is None:
        return
    if not isinstance(bundle, dict):
        raise _unfit(run, where, "a JSON object", bundle)
    bundle_bytes = bundle.get("bundle_bytes", 0)
    if not _is_size(bundle_bytes):
        raise _unfit(run, f"{where}: bundle_bytes", "a number of bytes", bundle_bytes)
    for name in ("sha256", "rule"):
        if not isinstance(bundle.get(name), (str, type(None))):
            raise _unfit(run, f"{where}: {name}", "a JSON string", bundle[name])


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < _COUNTS_BELOW


_JSON_NAMES: dict[type, str] = {
    str: "string",
    bool: "true or false",
    int: "whole number",
    dict: "object",
    float: "number",
}


def _unfit(run: Run, name: str, expected: str, value: Any) -> BookError:
    return BookError(f"expected {expected} as {name} in {run.path}, got {value!r:.60}: the book is damaged")


def _unreckonable(path: Path) -> BookError:
    return BookError(f"expected finite sums in {path}, got numbers beyond floating point: the book is damaged")
