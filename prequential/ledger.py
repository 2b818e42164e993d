"""The book of a run: append-only JSON lines, written while training, read by every view.

One line each, told apart by ``kind``:

- ``header``: first line; format number, bundle, tokenizer, versions, precision, seed.
- ``sums``: what was added since the line before, up to and including ``step`` (fields of `Tally` that are not 0), and
  whether loggers were told of it there.
- ``event``: something worth knowing, with a message (a NaN step, a changed bundle, a logger that failed).
- ``charge``: bits of a choice made with sight of the data, by name; may follow the end line.
- ``carried``: the sums up to ``step`` of a run that another book, or none, holds line by line.
- ``rewind``: training went back to ``step``; of the lines above, the first ``lines`` stand and the others are void.
- ``end``: how the run ended, with its totals as a check on the sums.

Nothing in a book is ever executed, and nothing in it is ever deleted.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from prequential.book import BOOK_FORMAT, TALLY_TYPES, Reader
from prequential.codelength import Tally
from prequential.errors import BookError
from prequential.run import DECODED, Run

BOOK_NAME = "book.jsonl"
_BLOCK_BYTES = 1 << 17


class Ledger:
    """Writer of one run's book: every line is one `write`, so that a killed run leaves a readable book.

    Args:
        path: File to create; an existing one is refused, a book is never overwritten.
        header: Plain JSON facts about the run; `Run` names those it reads.
    """

    def __init__(self, path: str | os.PathLike[str], header: Mapping[str, Any]) -> None:
        self.path, self._counted = Path(path), (0, 0)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        except FileExistsError as error:
            raise BookError(f"expected a new path for the book, got the existing {self.path}: name another") from error
        _lock(self._descriptor)
        self._write({"kind": "header", "book": BOOK_FORMAT, **header})

    @classmethod
    def reopen(cls, path: str | os.PathLike[str]) -> Ledger:
        """Open an existing book, to append to it; what is left of a line that was cut short goes.

        Raises:
            BookError: Another process writes it.
        """
        ledger = cls.__new__(cls)
        ledger.path, ledger._counted = Path(path), (0, 0)
        ledger._descriptor = os.open(ledger.path, os.O_RDWR | os.O_APPEND)
        if not _lock(ledger._descriptor):
            ledger.close()
            raise BookError(f"expected a book that nobody writes, got {path}, which another process has open: wait")
        content = ledger._content(0)
        os.ftruncate(ledger._descriptor, content.rfind(b"\n") + 1)
        return ledger

    @property
    def lines(self) -> int:
        """Lines in the file, those among them that somebody else appended."""
        offset, lines = self._counted
        new = self._content(offset)
        self._counted = offset + len(new), lines + new.count(b"\n")
        return self._counted[1]

    @property
    def is_gone(self) -> bool:
        """Whether somebody deleted the file since it was opened."""
        return os.fstat(self._descriptor).st_nlink == 0

    def sums(
        self,
        step: int,
        tally: Tally,
        elapsed_s: float,
        sources: Mapping[str, Tally] | None = None,
        *,
        log_point: bool = False,
    ) -> None:
        """Append the sums since the line before, ending with optimiser step ``step``, and the same by source.

        Args:
            step: The optimiser step.
            tally: The sums.
            elapsed_s: Seconds since the recording began.
            sources: The same by source.
            log_point: Whether loggers get values here.
        """
        mark = {"log_point": True} if log_point else {}
        self._write({"kind": "sums", **_interval(step, tally, elapsed_s, sources), **mark})

    def carried(self, step: int, tally: Tally, elapsed_s: float, sources: Mapping[str, Tally] | None = None) -> None:
        """Append all sums up to ``step`` of a run that is resumed, where this book does not hold them."""
        self._write({"kind": "carried", **_interval(step, tally, elapsed_s, sources)})

    def event(self, event: str, message: str, *, step: int) -> None:
        """Append something worth knowing, as a word for programs and a sentence for people."""
        self._write({"kind": "event", "event": event, "step": step, "message": message})

    def charge(self, name: str, bits: float) -> None:
        """Append what a choice made with sight of the data costs, under a name.

        Raises:
            BookError: The bits are negative or not finite.
        """
        if not (math.isfinite(bits) and bits >= 0):
            raise BookError(f"expected bits of 0 or more as the charge {name!r}, got {bits}: log2 N for the best of N")
        self._write({"kind": "charge", "name": name, "bits": float(bits)})

    def rewind(self, step: int, lines: int) -> None:
        """Void all lines but the first ``lines``: training resumes from a checkpoint that was taken behind them."""
        self._write({"kind": "rewind", "step": step, "lines": lines})

    def end(self, step: int, status: str, totals: Tally, **facts: Any) -> None:
        """Append how the run ended (``completed``, ``interrupted`` or ``failed``), then make it durable."""
        self._write({"kind": "end", "step": step, "status": status, "totals": asdict(totals), **facts})
        self.sync()

    def sync(self) -> None:
        """Force what was written to the disk: at checkpoints and at the end."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; writing afterwards is an error."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        written = os.write(self._descriptor, line)
        if written != len(line):  # a full disk can take a part of the line: leave whole lines only
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
            raise OSError(f"expected to write {len(line)} bytes to {self.path}, wrote {written}: is the disk full?")

    def _content(self, offset: int) -> bytes:
        """Read what stands behind a place: by the one descriptor, since closing another would give up the lock."""
        parts: list[bytes] = []
        while part := os.pread(self._descriptor, 2**24, offset):
            parts.append(part)
            offset += len(part)
        return b"".join(parts)


def _lock(descriptor: int) -> bool:
    """Claim a book for this process; false if another has it. Where files cannot be locked, nobody is kept out."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        return True
    try:  # not `flock`: workers of a data loader would hold that on after the death of their process
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


def _interval(step: int, tally: Tally, elapsed_s: float, sources: Mapping[str, Tally] | None = None) -> dict[str, Any]:
    line = {"step": step, "elapsed_s": round(elapsed_s, 3), **_nonzero(tally)}
    if sources:
        line["sources"] = {name: _nonzero(part) for name, part in sources.items()}
    return line


def _nonzero(tally: Tally) -> dict[str, Any]:
    values = ((name, getattr(tally, name)) for name in TALLY_TYPES)
    return {name: value for name, value in values if value}


def charge_book(path: str | os.PathLike[str], name: str, bits: float) -> None:
    """Append a named charge to a book that was written before.

    Args:
        path: The book.
        name: What was chosen, such as "best of 8 runs"; each name is charged once.
        bits: What it costs, such as log2 8 = 3.

    Raises:
        BookError: Not a readable book, one whose last line is cut short, a name charged already, or negative bits.
    """
    run = read_book(path)
    if name in run.charges:
        raise BookError(f"expected a new name, got {name!r}, which {path} charges {run.charges[name]} bits for already")
    if any("cut short" in warning for warning in run.warnings):
        raise BookError(f"expected whole lines, got {path}, whose last line is cut short: nothing can be added to it")
    ledger = Ledger.reopen(path)
    try:
        ledger.charge(name, bits)
        ledger.sync()
    finally:
        ledger.close()


def prove_book(path: str | os.PathLike[str], certificate: Mapping[str, Any]) -> None:
    """Append to a book that its run was decoded, with the certificate.

    Raises:
        BookError: Not a readable book, or one whose last line is cut short.
    """
    run = read_book(path)
    if any("cut short" in warning for warning in run.warnings):
        raise BookError(f"expected whole lines, got {path}, whose last line is cut short: nothing can be added to it")
    ledger = Ledger.reopen(path)
    try:
        message = f"decoded to the data, byte for byte: {certificate['raw_bytes']:,} bytes"
        step = int((run.end or {}).get("step", 0))
        ledger._write({"kind": "event", "event": DECODED, "step": step, "message": message, "certificate": certificate})
        ledger.sync()
    finally:
        ledger.close()


def read_book(path: str | os.PathLike[str], *, lines: int | None = None) -> Run:
    """Read a book; a torn last line is tolerated and reported in ``warnings``.

    Args:
        path: The book.
        lines: How many of its first lines to read; None for all.

    Raises:
        BookError: Not a book, an unknown format number, or a damaged line (with its number).
    """
    source = Path(path)
    reader = Reader(source)
    try:
        with source.open("rb") as file:
            reader.take(file.readline())
            if lines is not None:
                reader.take(b"".join(islice(file, max(0, lines - 1))))
                return reader.run()
            while block := file.read(_BLOCK_BYTES):
                reader.take(block + file.readline())
    except OSError as error:
        raise BookError(f"expected a book, cannot read {source}: {error.strerror}") from error
    return reader.run()
