"""The bytes of each token id, and what becomes of a real text on its way through the tokenizer.

A table can be right and the tokenizer still lose text: the audit encodes text, joins the bytes of its tokens and
compares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from prequential.errors import TokenBytesError


@dataclass(frozen=True)
class TokenAudit:
    """What became of one text on its way through a tokenizer.

    Attributes:
        text_bytes: Length of the text.
        counted_bytes: Sum of the table over the tokens of the text: what a run would report as raw bytes.
        tokens: Number of those tokens.
        lossless: Whether the joined bytes of the tokens are the text, byte for byte, and the lengths agree.
        lost_share: Share of the text's bytes that do not come back, 0 to 1, as a lower bound that needs no
            alignment: ``1 - sum over byte values v of min(v's count in the text, v's count in the joined
            bytes) / text_bytes``. Bytes that were only moved or added do not show in it, but in `lossless`.
        first_difference: Offset in bytes at which the joined bytes leave the text; None if they never do.
    """

    text_bytes: int
    counted_bytes: int
    tokens: int
    lossless: bool
    lost_share: float
    first_difference: int | None

    def summary(self) -> str:
        """Say in one line what was found."""
        counts = f"{self.tokens:,} tokens stand for {self.counted_bytes:,} bytes, the text has {self.text_bytes:,}"
        if self.lossless:
            return f"lossless: {counts}"
        if self.first_difference is None:
            return f"NOT lossless: {counts}; the tokens give the text back, but the table does not fit them"
        lost_bytes = round(self.lost_share * self.text_bytes)
        lost = f"at least {lost_bytes:,} ({100 * self.lost_share:.3g} %)" if lost_bytes else "none"
        return f"NOT lossless: {counts}; bytes lost: {lost}; first difference at byte {self.first_difference:,}"


@dataclass(frozen=True, eq=False)
class TokenBytes:
    """The bytes that each token id stands for, with what is needed to check that and to rebuild it.

    Attributes:
        kind: "bytes", "characters", "tiktoken", "tokenizers", "sentencepiece" or "table".
        name: The tokenizer's own name, or its class.
        table: Bytes per id, int64, shape (vocab_size,), read-only. An id beyond it stands for 0 bytes.
        encode: Text (or its bytes) to ids, without special tokens; None for a bare table.
        decode: Ids to the joined raw bytes of their tokens; None for a bare table.
        files: File name to content: what a receiver needs to rebuild the tokenizer, in a canonical form, so
            that a bundle can charge for it. Empty for raw bytes, for a bare table, and for a public encoding.
        public: Whether it is one of tiktoken's own encodings. tiktoken pins each by the hash of its file, so
            its name and the package's version rebuild it: like a pinned public package, it is named and free.
    """

    kind: str
    name: str
    table: npt.NDArray[np.int64] = field(repr=False)
    encode: Callable[[str | bytes], Sequence[int]] | None = field(default=None, repr=False)
    decode: Callable[[Sequence[int]], bytes] | None = field(default=None, repr=False)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    public: bool = False

    def __post_init__(self) -> None:
        """Keep a read-only copy of the table."""
        table = np.array(self.table, dtype=np.int64)
        table.setflags(write=False)
        object.__setattr__(self, "table", table)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle; numpy does not remember that the table is read-only."""
        self.__dict__.update(state)
        self.table.setflags(write=False)

    @property
    def vocab_size(self) -> int:
        """Number of ids in the table, holes included."""
        return len(self.table)

    @property
    def sha256(self) -> str:
        """Identity of kind and table (not of merges or spelling), in hexadecimal."""
        return hashlib.sha256(self.kind.encode() + b"\0" + self.table.astype("<i8").tobytes()).hexdigest()

    def identity(self) -> dict[str, str | int]:
        """Name this table in plain JSON values, for a record."""
        return {"kind": self.kind, "name": self.name, "vocab_size": self.vocab_size, "sha256": self.sha256}

    def audit(self, text: str | bytes) -> TokenAudit:
        """Encode a real text and compare it with the joined bytes of its tokens.

        Args:
            text: Text as the training script tokenizes it. Its bytes, as read from the file, are the stricter
                test: text mode turns CRLF into LF before a tokenizer sees it.

        Returns:
            Lengths in bytes, and whether, where and how much of the text is lost.

        Raises:
            TokenBytesError: The table was given as bare numbers, so that there is nothing to encode with.

        Examples:
            >>> from prequential import token_bytes
            >>> token_bytes("bytes").audit("né").summary()
            'lossless: 3 tokens stand for 3 bytes, the text has 3'
            >>> token_bytes({"a": 0, "b": 1}).audit("abca").lost_share
            0.25
        """
        if self.encode is None or self.decode is None:
            raise TokenBytesError(
                "expected a tokenizer to encode the text with, came a bare table of bytes per id: "
                "give token_bytes the tokenizer itself"
            )
        raw = raw_bytes(text)
        ids = list(self.encode(raw))
        joined = self.decode(ids)
        counted_bytes = sum(int(self.table[i]) for i in ids if 0 <= i < self.vocab_size)
        difference = _first_difference(raw, joined)
        lossless = difference is None and counted_bytes == len(raw)
        return TokenAudit(len(raw), counted_bytes, len(ids), lossless, _lost_share(raw, joined), difference)


def raw_bytes(text: str | bytes) -> bytes:
    """Give the bytes of a text; lone surrogates pass, so that the comparison finds them lost."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def _first_difference(raw: bytes, joined: bytes) -> int | None:
    """Find the offset at which two byte strings first differ; None if they are equal."""
    if raw == joined:
        return None
    shorter = min(len(raw), len(joined))
    left, right = (np.frombuffer(side[:shorter], dtype=np.uint8) for side in (raw, joined))
    unequal = np.flatnonzero(left != right)
    return int(unequal[0]) if len(unequal) else shorter


def _lost_share(raw: bytes, joined: bytes) -> float:
    """Bound from below the share of bytes that do not come back, by counting byte values: linear time."""
    had, has = (np.bincount(np.frombuffer(side, dtype=np.uint8), minlength=256) for side in (raw, joined))
    return float((had - np.minimum(had, has)).sum() / len(raw)) if raw else 0.0
