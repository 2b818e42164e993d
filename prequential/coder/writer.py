"""Writing a bitstream while a run trains: frequencies wait on the device, travel at log points, and are sealed."""

from __future__ import annotations

import itertools
import os
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prequential.coder import checks, stream
from prequential.coder.frequencies import PRECISION
from prequential.coder.ranges import Encoder
from prequential.errors import CoderError

SEGMENT_BYTES = 2**22  # a segment that grows beyond is sealed by itself, so that memory stays bounded


class BitstreamWriter:
    """Append range-coded tokens to a file, and check values to another beside it.

    What is written is as long as the code and 40 bytes of header, frame and end; at most 8 end the code, and each
    further `seal` adds some 20.

    Attributes:
        symbols: The vocabulary.
        frequency_bits: Length of the code under the integer frequencies, in bits: the file without frames and rounding.
    """

    def __init__(self, path: str | os.PathLike[str], *, symbols: int) -> None:
        """Begin a new file for a vocabulary, in place of one that is there.

        Raises:
            CoderError: If the file cannot be written, or the package constriction is not installed.
        """
        first = stream.header(symbols)
        self._encoder, self.symbols, self.frequency_bits = Encoder(), symbols, 0.0
        self._waiting: list[Tensor] = []
        self._values: list[tuple[int, int | Tensor]] = []
        self._file = _Growing(path, first)
        self._checks = _Growing(checks.checks_path(path), checks.FIRST_LINE.encode())
        self._checksum, self._checks_checksum = zlib.crc32(first), 0

    @classmethod
    def resume(cls, path: str | os.PathLike[str], state: dict[str, Any]) -> BitstreamWriter:
        """Cut the files back to where a checkpoint was taken, and go on from there.

        Args:
            path: The bitstream that was written until then, and maybe further.
            state: What `state_dict` gave.

        Raises:
            CoderError: If the file is not the one that the checkpoint was taken with.
        """
        layout = stream.read_layout(path, upto=state["bytes"])
        _, checksum = checks.read_checks(checks.checks_path(path), upto=state["checks_bytes"])
        found = (layout.bytes, layout.checksum, checksum)
        if found != (state["bytes"], state["checksum"], state["checks_checksum"]):
            raise CoderError(
                f"{path} is not the bitstream that the checkpoint goes on from: resume where that was written"
            )
        writer = cls.__new__(cls)
        writer._encoder, writer.symbols, writer.frequency_bits = Encoder(), layout.symbols, state["frequency_bits"]
        writer._waiting, writer._values = [], []
        writer._file = _Growing(path, keep=state["bytes"])
        writer._checks = _Growing(checks.checks_path(path), keep=state["checks_bytes"])
        writer._checksum, writer._checks_checksum = layout.checksum, checksum
        return writer

    def write(self, frequencies: Tensor) -> None:
        """Append tokens, in the order in which a decoder will know their probabilities; nothing is transferred yet.

        Args:
            frequencies: Of `frequencies` or `uniform_frequencies`, any leading shape; what has width 0 is left out.
        """
        self._waiting.append(frequencies.detach().reshape(-1, 2))

    def check(self, step: int, value: int | Tensor) -> None:
        """Keep a check value, such as `check_value` of the parameters before step ``step``; not transferred yet."""
        self._values.append((step, value))

    def flush(self) -> None:
        """Transfer and encode what waits: the only call that waits for the device, for log points."""
        self._encode()
        if self._encoder.length >= SEGMENT_BYTES:
            self.seal()

    def seal(self) -> None:
        """Encode what waits and write it to the file, where it can be decoded whatever happens later."""
        self._encode()
        if steps := self._encoder.steps:
            segment, self._checksum = stream.framed(self._encoder.seal(), steps, self._checksum)
            self._file.append(segment)
        lines = []
        for step, value in self._values:
            line, self._checks_checksum = checks.line(step, int(value), self._checks_checksum)
            lines.append(line)
        self._checks.append("".join(lines).encode())
        self._values = []

    def _encode(self) -> None:
        waiting, self._waiting = self._waiting, []
        for _, tensors in itertools.groupby(waiting, lambda tensor: tensor.device):
            pairs = torch.cat(list(tensors)).cpu().numpy()
            pairs = pairs[pairs[:, 1] > 0]
            self.frequency_bits += PRECISION * len(pairs) - float(np.log2(pairs[:, 1]).sum())
            self._encoder.encode(pairs)
        self._values = [(step, int(value)) for step, value in self._values]

    @property
    def bytes_written(self) -> int:
        """Length of the file if it were closed now, without what waits on the device."""
        if self._file.closed:
            return self._file.bytes
        unsealed = stream.FRAME.size + self._encoder.length if self._encoder.steps else 0
        return self._file.bytes + unsealed + stream.FRAME.size

    def state_dict(self) -> dict[str, Any]:
        """Seal, and give what a checkpoint keeps to `resume` from: a few plain numbers."""
        self.seal()
        return {
            "bytes": self._file.bytes,
            "checksum": self._checksum,
            "checks_bytes": self._checks.bytes,
            "checks_checksum": self._checks_checksum,
            "frequency_bits": self.frequency_bits,
        }

    def close(self) -> None:
        """Seal, and write the end, by which a reader knows that the stream is whole; a second time nothing happens."""
        if self._file.closed:
            return
        self.seal()
        self._file.append(stream.framed(b"", 0, self._checksum)[0])
        self._file.close()
        self._checks.close()


class _Growing:
    """A file that grows by whole pieces, each on the disk before the next."""

    def __init__(self, path: str | os.PathLike[str], first: bytes = b"", keep: int = 0) -> None:
        try:
            self._file = open(path, "r+b" if keep else "wb")  # noqa: SIM115  closed by `close`
        except OSError as error:
            raise CoderError(f"cannot write {path}: {error.strerror or error}") from error
        self.bytes = self._file.seek(keep)
        self._file.truncate()
        self.append(first)

    def append(self, piece: bytes) -> None:
        """Write a piece and have it stored."""
        self._file.write(piece)
        self._file.flush()
        os.fsync(self._file.fileno())
        self.bytes += len(piece)

    @property
    def closed(self) -> bool:
        """Whether nothing can be appended any more."""
        return self._file.closed

    def close(self) -> None:
        """Close the file."""
        self._file.close()
