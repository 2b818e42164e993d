"""Bundles on the disk: whole files or none, and nothing written outside of the folder that was named."""

from __future__ import annotations

import os
from pathlib import Path

from prequential.errors import BundleError


def read_at_most(path: Path, limit_bytes: int) -> bytes:
    """Read a file of at most ``limit_bytes`` bytes."""
    with path.open("rb") as stream:
        packed = stream.read(limit_bytes + 1)
    if len(packed) > limit_bytes:
        raise BundleError(f"expected at most {limit_bytes} bytes, got a longer file: raise limit_bytes if you trust it")
    return packed


def first_bytes(path: Path) -> bytes:
    """Read enough of a file to know what it is."""
    with path.open("rb") as stream:
        return stream.read(16)


def replace(path: Path, data: bytes) -> None:
    """Write a file so that whoever reads it sees the old one or the whole new one, even after a crash."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_there(folder: Path, name: str, data: bytes) -> bool:
    """Tell whether a folder already holds this file; refuse whatever else stands on the way to it."""
    way = folder
    *parents, last = name.split("/")
    for part in parents:
        way = way / part
        if way.is_symlink() or (way.exists() and not way.is_dir()):
            raise BundleError(f"expected folders on the way to {name!r}, got a link or file {part!r}: choose another")
    target = way / last
    if target.is_symlink():
        raise BundleError(f"expected a free name or an equal file, got a link {name!r}: choose another folder")
    if not target.exists():
        return False
    if not target.is_file() or target.read_bytes() != data:
        raise BundleError(f"expected a free name or an equal file, got a different {name!r}: choose another folder")
    return True
