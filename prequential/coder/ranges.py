"""The range coder of the ``constriction`` package, fed with intervals of 2**24 exactly as they are.

Its categorical models give each symbol a width of 1 and share out the rest of 2**24 in proportion to floating-point
weights. Weights that are integers and sum to just that rest are shared out as they are: the coder's table is then ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from prequential.coder.frequencies import TOTAL
from prequential.errors import CoderError

_AT_ONCE = 2**18  # steps handed over at a time


def constriction() -> Any:
    """The package's stream coders; loaded when a bitstream is asked for, not before."""
    try:
        import constriction
    except ImportError as error:
        raise CoderError(f'a bitstream needs constriction ({error}): pip install "prequential[bitstream]"') from error
    return constriction.stream


def _family(coders: Any) -> Any:
    """Models that take each step's weights as they are given, without a search for the best rounding."""
    return coders.model.Categorical(perfect=False)


class Encoder:
    """One segment of code that grows."""

    def __init__(self) -> None:
        coders = constriction()
        self._encoder, self._family = coders.queue.RangeEncoder(), _family(coders)
        self.steps = 0

    def encode(self, pairs: npt.NDArray[np.int32]) -> None:
        """Append steps given as pairs (left, width) of shape (n, 2): each the middle one of three symbols."""
        for i in range(0, len(pairs), _AT_ONCE):
            left, width = pairs[i : i + _AT_ONCE].T
            weights = np.stack((left - 1, width - 1, TOTAL - left - width - 1), 1).astype(np.float32)
            self._encoder.encode(np.ones(len(left), dtype=np.int32), self._family, weights)
        self.steps += len(pairs)

    @property
    def length(self) -> int:
        """Bytes so far, as they would be if sealed now."""
        return 4 * int(self._encoder.num_words())

    def seal(self) -> bytes:
        """Take the words out, little-endian, and begin anew."""
        words: bytes = self._encoder.get_compressed().astype("<u4").tobytes()
        self._encoder.clear()
        self.steps = 0
        return words


class Decoder:
    """One segment of code that is used up."""

    def __init__(self, words: bytes, steps: int) -> None:
        coders, code = constriction(), np.frombuffer(words, dtype="<u4").astype(np.uint32)
        self._decoder, self._family = coders.queue.RangeDecoder(code), _family(coders)
        self.steps = steps

    def decode(self, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Take one step a row, given the edges of all symbols, shape (n, K + 1): the symbols' numbers, shape (n,).

        Raises:
            CoderError: If a step lies in no symbol, as happens only under other edges than those it was written with.
        """
        weights = np.pad(np.diff(edges) - 1, ((0, 0), (1, 1))).astype(np.float32)
        try:
            symbols: npt.NDArray[np.int32] = self._decoder.decode(self._family, weights) - 1
        except Exception as error:
            raise strayed() from error
        if symbols.min() < 0 or symbols.max() >= edges.shape[1] - 1:
            raise strayed()
        self.steps -= len(symbols)
        return symbols


def strayed() -> CoderError:
    """What is said where a stream is decoded with other probabilities than it was written with."""
    return CoderError(
        "the bitstream does not decode: expected the logits that it was written with, got others; decode with "
        "the seeds, on the device, thread count and build of the run"
    )
