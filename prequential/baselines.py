"""The same bytes under other codes: what a training run has to beat.

The sizes are those of whole files that public tools unpack, containers included. The programs that unpack them are
public and not counted, whereas a run is charged for its bundle: a run that wins here wins fairly.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import zstandard

_ZSTD_WINDOW_LOG = 27
_ZSTD_LARGEST_WINDOW_LOG = 31
_PPMD_ORDER, _PPMD_BYTES = 16, 256 * 2**20


def baselines(data: bytes, *, progress: Callable[[str], None] | None = None, more: bool = False) -> dict[str, int]:
    """Size of ``data`` under other codes, in bytes.

    - ``uniform``: every byte costs log2 256 = 8 bits, so this is the length of the data itself.
    - ``gzip -9``: no name and no time in the header; sees the last 32 KiB.
    - ``bzip2 -9``: blocks of 900,000 bytes.
    - ``xz -9e``: preset 9 extreme, a dictionary of 64 MiB.
    - ``zstd -22``: level 22, told the size beforehand. Data beyond the level's window of 128 MiB gets one that holds
      all of it (up to 2 GiB) and long-distance matching (``zstd --ultra -22 --long=31``), so that repeats far apart
      are found however much data there is.

    With ``more``, where their packages are installed (``pip install "prequential[baselines]"``):

    - ``brotli -11``: quality 11, a window of 16 MiB.
    - ``ppmd -o16``: 7-Zip's PPMd (variant H), order 16, 256 MiB of memory; its stream alone, without a container.

    Args:
        data: The raw data that the run codes.
        progress: Called with the name of each code before it starts; the slow ones take a second a megabyte.
        more: Whether to add codes of packages that may not be installed.

    Returns:
        Bytes by the name of the code.

    Examples:
        >>> baselines(bytes(1000))["uniform"]
        1000
    """
    sizes = {}
    for name, size_of in {**_CODES, **(_MORE if more else {})}.items():
        if progress is not None:
            progress(name)
        with contextlib.suppress(ImportError):
            sizes[name] = size_of(data)
    return sizes


def zstd_parameters(raw_bytes: int) -> zstandard.ZstdCompressionParameters:
    """Give level 22 a window that holds all of the data, as far as the format goes."""
    import zstandard

    options: dict[str, int] = {}
    if raw_bytes > 1 << _ZSTD_WINDOW_LOG:
        options = {"window_log": min((raw_bytes - 1).bit_length(), _ZSTD_LARGEST_WINDOW_LOG), "enable_ldm": 1}
    return zstandard.ZstdCompressionParameters.from_level(22, source_size=raw_bytes, **options)


def _zstd_size(data: bytes) -> int:
    import zstandard

    return len(zstandard.ZstdCompressor(compression_params=zstd_parameters(len(data))).compress(data))


def _brotli_size(data: bytes) -> int:
    import brotli

    return len(brotli.compress(data, quality=11, lgwin=24))


def _ppmd_size(data: bytes) -> int:
    import pyppmd

    encoder = pyppmd.Ppmd7Encoder(_PPMD_ORDER, _PPMD_BYTES)
    return len(encoder.encode(data)) + len(encoder.flush())


_MORE: dict[str, Callable[[bytes], int]] = {"brotli -11": _brotli_size, "ppmd -o16": _ppmd_size}
_CODES: dict[str, Callable[[bytes], int]] = {
    "uniform": len,
    "gzip -9": lambda data: len(gzip.compress(data, 9, mtime=0)),
    "bzip2 -9": lambda data: len(bz2.compress(data, 9)),
    "xz -9e": lambda data: len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)),
    "zstd -22": _zstd_size,
}
