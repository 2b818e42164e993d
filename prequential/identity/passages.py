"""Was it a single pass? A sampled audit of which tokens had been coded before.

Rows fed again, crops that overlap, shards that repeat: all show as passages that came before. A passage is a run of
tokens worth 2,048 bits under the uniform code (256 bytes, or 132 tokens of a vocabulary of 50,257), too long to repeat
by chance. Its 64-bit hash decides whether it is sampled, one in 64: the same passage is sampled wherever it stands, so
that the share of repeats among samples estimates the share of all tokens that stand in repeated passages. Text that
truly repeats itself (licences, quotations) counts as well.

The sampling runs on the device without waiting for it; a fixed number of the smallest hashes of a batch travels to the
host with the sums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prequential.hashing import BASE, INVERSE, kept_powers, mixed

PASSAGE_BITS = 2_048
_SAMPLED = 64  # one passage in so many
_SPARE = 2  # room for so many times the expected number of samples in a batch
_KEPT = 2**20  # passages kept on the host, some 150 MB; then half as many are sampled


class Repeats(NamedTuple):
    """What share of tokens stands in passages that came before: an estimate.

    Attributes:
        share: Repeated samples over samples, 0 to 1.
        standard_error: Of the share, from the sampling.
        samples: Number of sampled passages.
        detected: Of the passages of a row that came before, the least share that is found however it was cut into rows
            of that length then, 0 to 1: a repeat across the edge of a row is not seen.
    """

    share: float
    standard_error: float
    samples: int
    detected: float = 1.0


def passage_tokens(vocab_size: int) -> int:
    """Number of tokens worth 2,048 bits under the uniform code."""
    return math.ceil(PASSAGE_BITS / math.log2(max(2, vocab_size)))


class PassageAudit:
    """Counts which sampled passages came before.

    Args:
        length: Tokens in a passage.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self._limit = 2**64 // _SAMPLED
        self._times: dict[int, int] = {}  # how often each sampled passage came up
        self._passages = self._found = 0

    def sample(self, rows: Tensor) -> Tensor:
        """Give the smallest hashes of passages in token rows of shape (B, T); does not wait for the device."""
        passages = rows.shape[1] - self.length + 1
        self._passages += len(rows) * passages
        self._found += len(rows) * max(0, passages - self.length + 1)  # in two pieces, an old cut between them
        hashes = _passage_hashes(rows.detach().to(torch.int64), self.length)
        count = min(hashes.numel(), _SPARE * math.ceil(hashes.numel() / _SAMPLED) + 8)
        return torch.topk(hashes, count, largest=False, sorted=False).values

    def count(self, hashes: Sequence[int]) -> None:
        """Take in the sample of one batch, on the host."""
        for value in hashes:
            if value + 2**63 < self._limit:
                self._times[value] = self._times.get(value, 0) + 1
        while len(self._times) > _KEPT:
            self._limit //= 2
            self._times = {value: times for value, times in self._times.items() if value + 2**63 < self._limit}

    @property
    def limit(self) -> int:
        """Which passages are sampled: those whose hash, as a number from 0 to 2**64, is smaller."""
        return self._limit

    def take_counts(self) -> list[int]:
        """Hand over how many passages were looked at, and how many of them would be found again."""
        counts, self._passages, self._found = [self._passages, self._found], 0, 0
        return counts

    def add_counts(self, counts: Sequence[int]) -> None:
        """Take in what another rank handed over."""
        self._passages, self._found = self._passages + counts[0], self._found + counts[1]

    def state(self) -> dict[str, Any]:
        """Everything, as tensors and plain numbers, for a checkpoint."""
        return {
            "length": self.length,
            "limit": self._limit,
            "counts": [self._passages, self._found],
            "hashes": torch.tensor(list(self._times), dtype=torch.int64),
            "times": torch.tensor(list(self._times.values()), dtype=torch.int64),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.length, self._limit = int(state["length"]), int(state["limit"])
        self._passages, self._found = map(int, state["counts"])
        self._times = dict(zip(state["hashes"].tolist(), state["times"].tolist(), strict=True))

    def repeats(self) -> Repeats | None:
        """The share so far; None without a sample.

        ``share = sum(times - 1) / sum(times)`` over the sampled passages, which are drawn independently of each other,
        so that the error is that of a ratio of sums over them.
        """
        samples = sum(self._times.values())
        if not samples:
            return None
        share = (samples - len(self._times)) / samples
        variance = sum((times - 1 - share * times) ** 2 for times in self._times.values()) / samples**2
        # Without a repeat there is no spread to be seen; 3 / samples is the 95 % bound then, by the rule of three.
        error = math.sqrt(variance) if share else 1.5 / samples
        return Repeats(share, error, samples, self._found / self._passages)


def _passage_hashes(rows: Tensor, length: int) -> Tensor:
    """Hash each passage of token rows, flat int64; passages with few changes of token (padding) hash to the largest.

    ``hash = mix(sum of token[j + i] * BASE**i, i < length)`` modulo 2**64, from differences of running sums.
    """
    terms = (rows + 1) * kept_powers(BASE, rows.shape[1], rows.device)
    running = torch.nn.functional.pad(terms.cumsum(1), (1, 0))
    changes = torch.nn.functional.pad((rows[:, 1:] != rows[:, :-1]).cumsum(1), (1, 0))
    passages = rows.shape[1] - length + 1
    values = (running[:, length:] - running[:, :passages]) * kept_powers(INVERSE, passages, rows.device)
    varied = changes[:, length - 1 :] - changes[:, :passages] >= length // 4
    return torch.where(varied, mixed(values), torch.iinfo(torch.int64).max).flatten()
