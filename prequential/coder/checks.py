"""Running check values beside a bitstream: hashes of the parameters, by which a decoder can tell that it strays.

They are no part of the code: a decoder does without them, and only learns later that something is wrong. One line a
value, ``step value checksum``, in a file of its own.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from prequential.errors import CoderError
from prequential.hashing import mixed, polynomial

FIRST_LINE = "prequential checks 1\n"
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_AT_ONCE = 2**20
_TORN = re.compile("[0-9]*( [0-9a-f]{0,16}( [0-9a-f]{0,8})?)?")  # how a line begins


@torch.no_grad()
def check_value(tensors: Iterable[Tensor]) -> Tensor:
    """A 64-bit hash of all bits of some tensors in their order, such as a module's parameters: int64 on their device.

    Nothing is transferred to the host. Equal parameters give equal values on any device; -0 and 0 differ.
    """
    value = None
    for tensor in tensors:
        flat = tensor.detach().contiguous().reshape(-1)
        flat = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
        bits = flat.view(_INTEGERS[flat.element_size()])
        value = torch.zeros((), dtype=torch.int64, device=tensor.device) if value is None else value.to(tensor.device)
        for part in torch.split(bits, _AT_ONCE):
            value = mixed(value + polynomial(part.long().unsqueeze(0))[0])
    return torch.zeros((), dtype=torch.int64) if value is None else value


def checks_path(path: str | os.PathLike[str]) -> Path:
    """Where the check values of a bitstream lie."""
    return Path(f"{os.fspath(path)}.checks")


def line(step: int, value: int, before: int) -> tuple[str, int]:
    """One line of the file, and the checksum it ends with, which follows from that of the line before it."""
    said = f"{step} {value % 2**64:016x}"
    checksum = zlib.crc32(said.encode(), before)
    return f"{said} {checksum:08x}\n", checksum


def read_checks(path: str | os.PathLike[str], *, upto: int | None = None) -> tuple[dict[int, int], int]:
    """Check values by step, and the checksum of the last one; a last line that is cut off is left out.

    Args:
        path: Of the check values, see `checks_path`.
        upto: Bytes after which the file is not read.

    Raises:
        CoderError: If it is another file, damaged, or shorter than ``upto``.
    """
    try:
        content = Path(path).read_bytes()[:upto]
    except OSError as error:
        raise CoderError(f"cannot read the check values {path}: {error.strerror or error}") from error
    first, _, rest = content.decode(errors="replace").partition("\n")
    if first != FIRST_LINE.strip():
        raise CoderError(f"{path} has no check values of prequential: its first line is not {FIRST_LINE.strip()!r}")
    *lines, torn = rest.split("\n")
    values, checksum = {}, 0
    for number, text in enumerate(lines, 2):
        step, value = _said(text)
        expected, checksum = line(step, value, checksum)
        if f"{text}\n" != expected:
            raise CoderError(f"{path} is damaged in line {number}: use a sound copy")
        values[step] = value
    if not _TORN.fullmatch(torn):
        raise CoderError(f"{path} is damaged in line {len(lines) + 2}: use a sound copy")
    return values, checksum


def _said(text: str) -> tuple[int, int]:
    """Step and value of a line, or what no line says."""
    try:
        step, value, _ = text.split(" ")
        return int(step), int(value, 16)
    except ValueError:
        return -1, -1
