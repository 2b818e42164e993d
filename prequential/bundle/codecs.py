"""Bytes to fewer bytes, and back within a limit; and the versions of the libraries that do it."""

from __future__ import annotations

import bz2
import ctypes
import lzma
import sys
import zlib
from importlib import import_module
from typing import Any

from prequential.errors import BundleError

_DECODER_BYTES = 256 * 2**20  # memory for a dictionary; xz preset 9 needs 65 MiB
_XZ_CHECK = lzma.CHECK_CRC32  # 4 bytes: enough to notice damage, as sha256 is the identity


def too_large(limit_bytes: int) -> BundleError:
    """Make the error for what would unpack to more than ``limit_bytes``."""
    return BundleError(
        f"expected at most {limit_bytes} bytes unpacked, got more: raise limit_bytes if you trust the file"
    )


def bzip2(data: bytes) -> bytes:
    """Compress as ``bzip2 -9``."""
    return bz2.compress(data, 9)


def xz(data: bytes) -> bytes:
    """Compress as ``xz -9e --check=crc32``."""
    return lzma.compress(data, format=lzma.FORMAT_XZ, check=_XZ_CHECK, preset=9 | lzma.PRESET_EXTREME)


def zstd(data: bytes) -> bytes:
    """Compress as ``zstd --ultra -22``."""
    import zstandard

    return zstandard.ZstdCompressor(level=22, write_checksum=True).compress(data)


def _expanded(decoder: lzma.LZMADecompressor | bz2.BZ2Decompressor, packed: bytes, limit_bytes: int) -> bytes:
    data = decoder.decompress(packed, max_length=limit_bytes + 1)
    if len(data) > limit_bytes:
        raise too_large(limit_bytes)
    if not decoder.eof or decoder.unused_data:
        raise BundleError("expected one whole compressed bundle, got a truncated one or more behind it: copy it again")
    return data


def unxz(packed: bytes, limit_bytes: int) -> bytes:
    """Expand one whole xz stream."""
    return _expanded(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_DECODER_BYTES), packed, limit_bytes)


def unbzip2(packed: bytes, limit_bytes: int) -> bytes:
    """Expand one whole bzip2 stream."""
    return _expanded(bz2.BZ2Decompressor(), packed, limit_bytes)


def unzstd(packed: bytes, limit_bytes: int) -> bytes:
    """Expand one whole zstd frame that says how long it is."""
    import zstandard

    try:
        if not 0 <= zstandard.frame_content_size(packed) <= limit_bytes:  # -1: unknown, which a bundle never is
            raise too_large(limit_bytes)
        decoder = zstandard.ZstdDecompressor(max_window_size=_DECODER_BYTES)
        return bytes(decoder.decompress(packed, allow_extra_data=False))
    except zstandard.ZstdError as error:
        raise BundleError(f"expected a whole zstd bundle, got a damaged one ({error}): copy it again") from error


def codec_versions() -> dict[str, str]:
    """Versions of the libraries behind the sizes: another zlib may pack the same files a few bytes larger."""
    versions = {"bzip2": _c_version("_bz2", "BZ2_bzlibVersion"), "xz": _c_version("_lzma", "lzma_version_string")}
    versions |= {"zlib": zlib.ZLIB_RUNTIME_VERSION, "python": sys.version.split()[0]}
    import zstandard

    return versions | {"zstd": ".".join(map(str, zstandard.ZSTD_VERSION))}


def _c_version(module: str, function: str) -> str:
    """Ask the C library behind a standard module, which does not pass its version on."""
    try:
        call: Any = getattr(ctypes.CDLL(import_module(module).__file__), function)
        call.restype = ctypes.c_char_p
        return str(call().decode().split(",")[0])
    except (OSError, AttributeError, TypeError, ImportError):
        return "unknown"
