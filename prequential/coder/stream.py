"""The bitstream's file: sealed segments of range-coded words, each with its length and a checksum, one after the other.

    header   16 bytes: magic, format, precision, vocabulary
    segment  12 bytes: words, steps, checksum of all before and in it; then the words
    end      a segment of 0 words and 0 steps

Numbers are little-endian. A run that is killed leaves a file that ends with the last segment that was sealed, and
without an end.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

from prequential.coder.frequencies import MOST_SYMBOLS, PRECISION
from prequential.errors import CoderError

# 1: first version
FORMAT = 1
MAGIC = b"prqbits\n"
HEADER, FRAME = struct.Struct("<8sHHI"), struct.Struct("<III")


class Segment(NamedTuple):
    """Where the words of a segment lie in the file, and how many steps of the code they hold."""

    position: int
    words: int
    steps: int


class Layout(NamedTuple):
    """What a file holds, all checksums right."""

    symbols: int
    segments: tuple[Segment, ...]
    ended: bool
    bytes: int
    checksum: int

    @property
    def steps(self) -> int:
        """Steps of the code in all segments."""
        return sum(segment.steps for segment in self.segments)


def header(symbols: int) -> bytes:
    """The first bytes of a bitstream over a vocabulary."""
    if not 1 <= symbols <= MOST_SYMBOLS:
        raise CoderError(f"expected a vocabulary of 1 to {MOST_SYMBOLS:,} symbols, got {symbols:,}")
    return HEADER.pack(MAGIC, FORMAT, PRECISION, symbols)


def framed(words: bytes, steps: int, before: int) -> tuple[bytes, int]:
    """A segment with its frame, and its checksum, which follows from that of all before it."""
    lengths = struct.pack("<II", len(words) // 4, steps)
    checksum = zlib.crc32(words, zlib.crc32(lengths, before))
    return lengths + struct.pack("<I", checksum) + words, checksum


def read_layout(path: str | os.PathLike[str], *, unended: bool = False, upto: int | None = None) -> Layout:
    """Read a whole file once, hold every checksum, and tell where its segments lie.

    Args:
        path: The bitstream.
        unended: Whether a file without an end is read up to its last whole segment, as a killed run leaves it.
        upto: Bytes after which a file is not read, because a checkpoint was taken there.

    Raises:
        CoderError: If it is no bitstream, of another format, damaged or cut off.
    """
    try:
        with open(path, "rb") as file:
            return _layout(file, Path(path), unended, upto)
    except OSError as error:
        raise CoderError(f"cannot read the bitstream {path}: {error.strerror or error}") from error


def read_segment(path: str | os.PathLike[str], segment: Segment) -> tuple[bytes, int]:
    """Words of a segment, and how many steps they hold."""
    with open(path, "rb") as file:
        file.seek(segment.position)
        return file.read(4 * segment.words), segment.steps


def _layout(file: BinaryIO, path: Path, unended: bool, upto: int | None) -> Layout:
    size, first = os.fstat(file.fileno()).st_size, file.read(HEADER.size)
    symbols, checksum = _vocabulary(first, path), zlib.crc32(first)
    segments: list[Segment] = []
    while (start := file.tell()) != upto:
        frame = file.read(FRAME.size)
        words, steps, stated = FRAME.unpack(frame) if len(frame) == FRAME.size else (0, 0, 0)
        if len(frame) < FRAME.size or start + FRAME.size + 4 * words > size:
            if unended:
                return Layout(symbols, tuple(segments), False, start, checksum)
            raise CoderError(
                f"{path} is cut off at byte {size:,}, after {len(segments)} whole segments: use the whole file, or "
                "read it as the unended one of a killed run"
            )
        checksum = _checksum(file, words, zlib.crc32(frame[:8], checksum))
        if checksum != stated:
            raise CoderError(
                f"{path} is damaged in the {4 * words + FRAME.size:,} bytes from byte {start:,} on: use a sound copy"
            )
        if not words and not steps:
            if (after := size - file.tell()) and upto is None:
                raise CoderError(f"{path} goes on for {after:,} bytes after its end: use a sound copy")
            return Layout(symbols, tuple(segments), True, file.tell(), checksum)
        segments.append(Segment(start + FRAME.size, words, steps))
    return Layout(symbols, tuple(segments), False, start, checksum)


def _checksum(file: BinaryIO, words: int, checksum: int) -> int:
    """Go on with a checksum over the next words, a mebibyte at a time."""
    left = 4 * words
    while left and (part := file.read(min(left, 2**20))):
        checksum, left = zlib.crc32(part, checksum), left - len(part)
    return checksum


def _vocabulary(first: bytes, path: Path) -> int:
    """The vocabulary that a header names."""
    if len(first) < HEADER.size or not first.startswith(MAGIC):
        raise CoderError(f"{path} is not a bitstream of prequential: it does not begin with {MAGIC.decode().strip()!r}")
    _, number, precision, symbols = HEADER.unpack(first)
    if (number, precision) != (FORMAT, PRECISION):
        raise CoderError(
            f"{path} has format {number}.{precision}, expected {FORMAT}.{PRECISION}: use the version that wrote it"
        )
    if not 1 <= symbols <= MOST_SYMBOLS:
        raise CoderError(f"{path} is damaged: expected a vocabulary of 1 to {MOST_SYMBOLS:,} symbols, got {symbols:,}")
    return int(symbols)
