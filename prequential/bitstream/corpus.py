"""The tokens of the data, and the placeholders that stand for them in a program which does not know them.

A placeholder is a large number that says at which position of the corpus its token stands. A script may cut, pad,
shuffle, stack and shift placeholders as it likes; to compute with them makes no sense.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prequential.batches import integer_tensors
from prequential.causality.alignment import exchanged
from prequential.errors import MeasureError
from prequential.tokenbytes import TokenBytes

FIRST = 2**40  # the placeholder of position 0: no token, count or index that a script holds is as large
Positions = npt.NDArray[np.int64]


def placeholders(count: int) -> Tensor:
    """What stands for the tokens of a corpus, int64, shape (count,)."""
    return torch.arange(FIRST, FIRST + count)


def positions_of(tensor: Tensor) -> Positions:
    """Which position of the corpus each number stands for, -1 where it is no placeholder; on the host."""
    if tensor.dtype != torch.int64:
        return np.full(tuple(tensor.shape), -1)
    numbers: Positions = tensor.detach().cpu().numpy()
    return np.where(numbers >= FIRST, numbers - FIRST, -1)


def read(source: Any) -> bytes:
    """The data: bytes, the path of a file, or a function that returns bytes.

    Raises:
        MeasureError: It is none of these, or the file cannot be read.
    """
    found = source() if callable(source) else source
    if isinstance(found, (str, os.PathLike)):
        try:
            found = Path(found).read_bytes()
        except OSError as error:
            raise MeasureError(f"expected a file to compress, cannot read {found}: {error.strerror}") from error
    if not isinstance(found, (bytes, bytearray, memoryview)):
        raise MeasureError(
            f"expected bytes, the path of a file or a function that returns bytes, got {type(found).__name__}"
        )
    return bytes(found)


def encoded(data: bytes, table: TokenBytes | None) -> Tensor:
    """Data as tokens that give it back byte for byte, int64, shape (N,).

    Args:
        data: The data.
        table: The tokenizer; None for bytes as they are.

    Raises:
        MeasureError: There is no data, or no encoder, or tokens do not give the data back.
    """
    if not data:
        raise MeasureError("expected at least one byte of data, got none: there is nothing to train on")
    if table is None or table.kind == "bytes":
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).long()
    if table.encode is None or table.decode is None:
        raise MeasureError(
            "expected a tokenizer, to turn data into tokens and back, got a bare table of bytes per token: give the "
            "tokenizer as token_bytes, or 'bytes'"
        )
    ids = torch.tensor(list(table.encode(data)), dtype=torch.int64)
    if as_bytes(ids, table) != data:
        raise MeasureError(
            f"expected a tokenizer that keeps every byte, got one that does not: {table.audit(data).summary()}"
        )
    return ids


def as_bytes(ids: Tensor, table: TokenBytes | None) -> bytes:
    """The bytes that tokens stand for."""
    if table is None or table.kind == "bytes" or table.decode is None:
        return ids.cpu().numpy().astype(np.uint8).tobytes()
    return table.decode(ids.tolist())


class Corpus:
    """The tokens as far as they are known, on the host for what is decoded and on the device for the model.

    Args:
        tokens: Shape (N,); 0 where one is not known.
        known: Which are known to a receiver, shape (N,).

    Attributes:
        tokens: As given, on the device of the batches.
        known: As given, on the host.
    """

    def __init__(self, tokens: Tensor, known: npt.NDArray[np.bool_] | None = None) -> None:
        self.tokens = tokens
        self.known = np.zeros(len(tokens), dtype=np.bool_) if known is None else known

    def __len__(self) -> int:
        return len(self.tokens)

    def shown(self, batch: Any, instead: Tensor | None = None) -> Any:
        """The batch with tokens in the place of placeholders.

        Args:
            batch: Tensors in lists, tuples and mappings.
            instead: Other tokens for all positions, shape (N,).
        """
        changes = {}
        for leaf in integer_tensors(batch):
            if leaf.dtype != torch.int64:  # holds no number as large as a placeholder
                continue
            if self.tokens.device != leaf.device:
                self.tokens = self.tokens.to(leaf.device)
            tokens = self.tokens if instead is None else instead.to(leaf.device)
            stands = leaf >= FIRST
            changes[id(leaf)] = torch.where(stands, tokens[torch.where(stands, leaf - FIRST, 0)], leaf)
        return exchanged(batch, changes)

    def blanked(self, positions: Positions) -> Callable[[], None]:
        """Make some tokens unknown for a while; what is returned puts them back."""
        place = torch.from_numpy(positions).to(self.tokens.device)
        kept = self.tokens[place]
        self.tokens[place] = 0

        def restore() -> None:
            self.tokens[place] = kept

        return restore

    def fill(self, positions: Positions, tokens: Tensor) -> None:
        """Take in what was decoded."""
        self.tokens[torch.from_numpy(positions).to(self.tokens.device)] = tokens.to(self.tokens.device)
        self.known[positions] = True


def sha256_of(data: bytes) -> str:
    """Identity of the data."""
    return hashlib.sha256(data).hexdigest()


def leaves_of(batch: Any) -> Mapping[int, Positions]:
    """Positions in the integer tensors of a batch that hold placeholders, by their place among them."""
    found = {place: positions_of(leaf) for place, leaf in enumerate(integer_tensors(batch))}
    return {place: positions for place, positions in found.items() if (positions >= 0).any()}
