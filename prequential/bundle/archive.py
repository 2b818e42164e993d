"""Files to one byte string under a size rule, and safely back.

Same names and bytes give the same archive on every machine and in any order: names are sorted, times and owners are
zero, modes constant. The tar is plain USTAR (a PAX record only for a name that does not fit) without padding to a
record, written by hand because `tarfile` fills unused fields differently from version to version. What each rule
counts is the length of a whole file that public tools unpack (``tar -xJf``, ``unzip``), so nothing is left out.
"""

from __future__ import annotations

import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import PureWindowsPath
from typing import NamedTuple

from prequential.bundle.codecs import bzip2, too_large, unbzip2, unxz, unzstd, xz, zstd
from prequential.errors import BundleError

MAX_UNPACKED_BYTES = 256 * 2**20
DEFAULT_RULE = "xz -9e"

_BLOCK_BYTES = 512
_ZIP_END_BYTES = 22


def check_names(names: Mapping[str, bytes]) -> None:
    """Refuse names that cannot lie in one folder on every machine, or would leave it.

    Raises:
        BundleError: A name is absolute, climbs out, holds a backslash or NUL, is no UTF-8, or is also a folder.
    """
    for name in names:
        if fault := _fault(name):
            raise BundleError(f"expected relative POSIX file names, got {name!r}, which {fault}: rename it")
        parents = name.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            folder = "/".join(parents[:depth])
            if folder in names:
                raise BundleError(f"expected files, got {folder!r} both as a file and as the folder of {name!r}")


def _fault(name: str) -> str | None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "is no UTF-8"
    if "\0" in name or "\\" in name:
        return "holds a NUL or a backslash"
    if name.startswith("/") or PureWindowsPath(name).drive:
        return "is absolute"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "has an empty, '.' or '..' part"
    return None


# -- containers -------------------------------------------------------------------------------------------------


def _tar_header(name: bytes, prefix: bytes, length: int, kind: bytes) -> bytes:
    owner_and_group = b"0000000\0" * 2
    before = name.ljust(100, b"\0") + b"0000644\0" + owner_and_group + b"%011o\0" % length + b"00000000000\0"
    after = (kind + bytes(100) + b"ustar\x0000" + bytes(80) + prefix).ljust(356, b"\0")
    checksum = sum(before) + sum(after) + 8 * ord(" ")
    return before + b"%06o\0 " % checksum + after


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _BLOCK_BYTES)


def _split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """Prefix and name as USTAR stores them, or None where a name does not fit."""
    if len(name) <= 100:
        return b"", name
    cut = name.find(b"/", len(name) - 101)
    return (name[:cut], name[cut + 1 :]) if 0 < cut <= 155 else None


def _pax_record(name: bytes) -> bytes:
    body = b" path=" + name + b"\n"
    length = len(body)
    while length != len(body) + len(str(length)):  # the record counts its own digits
        length = len(body) + len(str(length))
    return str(length).encode() + body


def tar(files: Mapping[str, bytes]) -> bytes:
    """Pack files into the canonical tar: sorted, no times, no owners, mode 0644, two zero blocks at the end."""
    parts = []
    for name, data in sorted(files.items()):
        encoded = name.encode("utf-8")
        split = _split_name(encoded)
        if split is None:
            record = _pax_record(encoded)
            parts += [_tar_header(b"././@PaxHeader", b"", len(record), b"x"), _padded(record)]
            split = b"", encoded[:100]
        parts += [_tar_header(split[1], split[0], len(data), b"0"), _padded(data)]
    return b"".join([*parts, bytes(2 * _BLOCK_BYTES)])


def _files_of_tar(packed: bytes, limit_bytes: int) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        for member in archive:
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                raise BundleError(f"expected plain files only, got {member.name!r}, a link, device or folder: refused")
            _admit(member.name, files)
            if member.size > limit_bytes:
                raise too_large(limit_bytes)
            content = archive.extractfile(member)
            files[member.name] = content.read() if content else b""
    if tar(files) != packed:  # tarfile skips what it cannot read; a bundle has nothing to skip
        raise BundleError("expected a canonically packed bundle, got another tar or a damaged one: pack it again")
    return files


def _zip(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def _files_of_zip(packed: bytes, limit_bytes: int) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    left_bytes = limit_bytes
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        for entry in archive.infolist():
            if not entry.filename or entry.is_dir() or not stat.S_ISREG(entry.external_attr >> 16):
                raise BundleError(f"expected plain files only, got {entry.filename!r}, a link or folder: refused")
            _admit(entry.filename, files)
            with archive.open(entry) as content:
                files[entry.filename] = content.read(left_bytes + 1)  # the length in the header may lie
            left_bytes -= len(files[entry.filename])
            if left_bytes < 0:
                raise too_large(limit_bytes)
        if len(packed) != sum(map(_bytes_in_zip, archive.infolist())) + _ZIP_END_BYTES:
            raise BundleError("expected a canonically packed bundle, got a zip with more in it: pack it again")
    return files


def _bytes_in_zip(entry: zipfile.ZipInfo) -> int:
    """Bytes of one canonical entry: local header, data, and its line in the directory; no comments, no extras."""
    return 30 + entry.compress_size + 46 + 2 * len(entry.orig_filename.encode("utf-8"))


def _admit(name: str, files: Mapping[str, bytes]) -> None:
    check_names({name: b""})
    if name in files:
        raise BundleError(f"expected each name once, got {name!r} twice: refused")


# -- rules ------------------------------------------------------------------------------------------------------


class _Rule(NamedTuple):
    magic: bytes
    pack: Callable[[Mapping[str, bytes]], bytes]
    unpack: Callable[[bytes, int], dict[str, bytes]]


def _tar_rule(magic: bytes, shrink: Callable[[bytes], bytes], expand: Callable[[bytes, int], bytes]) -> _Rule:
    return _Rule(
        magic,
        lambda files: shrink(tar(files)),
        lambda packed, limit_bytes: _files_of_tar(expand(packed, limit_bytes), limit_bytes),
    )


# zip: Large Text Compression Benchmark. bzip2 -9: Global Data Compression Competition. All over the same canonical tar
# except zip, which is its own container.
RULES: dict[str, _Rule] = {
    "zip": _Rule(b"PK", _zip, _files_of_zip),
    "bzip2 -9": _tar_rule(b"BZh", bzip2, unbzip2),
    "xz -9e": _tar_rule(b"\xfd7zXZ\0", xz, unxz),
    "zstd -22": _tar_rule(b"\x28\xb5\x2f\xfd", zstd, unzstd),
}


def pack(files: Mapping[str, bytes], rule: str = DEFAULT_RULE) -> bytes:
    """Pack files into the bytes whose number is their size under ``rule``."""
    return RULES[rule].pack(files)


def unpack(packed: bytes, limit_bytes: int = MAX_UNPACKED_BYTES) -> tuple[str, dict[str, bytes]]:
    """Find the rule of a packed bundle by its first bytes, and its files; nothing is written or run.

    Raises:
        BundleError: Not a bundle, damaged, holding anything but plain files, or larger than ``limit_bytes``.
    """
    for name, rule in RULES.items():
        if packed.startswith(rule.magic):
            try:
                return name, rule.unpack(packed, limit_bytes)
            except (OSError, EOFError, ValueError, RuntimeError, MemoryError, *_DAMAGE) as error:
                raise BundleError(f"expected a whole bundle, got a damaged one ({error}): copy it again") from error
    raise BundleError(f"expected a bundle ({', '.join(RULES)}), got a file that begins with {packed[:6]!r}")


_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, struct.error)


def is_packed(first_bytes: bytes) -> bool:
    """Tell whether a file that begins like this may be a packed bundle."""
    return any(first_bytes.startswith(rule.magic) for rule in RULES.values())
