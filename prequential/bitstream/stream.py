"""What both sides agree on beside the order: how a stream begins, and when parameters are held against it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from prequential.coder import BitstreamReader, BitstreamWriter, uniform_frequencies

_DIGIT, _DIGITS = 1024, 4  # of the number of tokens
_EVERY = 1000
_LARGE = 2**14


def begin(path: str | os.PathLike[str], symbols: int, count: int, largest: int) -> BitstreamWriter:
    """Begin a stream with how many tokens the data has, and with the largest of them."""
    writer = BitstreamWriter(path, symbols=symbols)
    digits = [count // _DIGIT**i % _DIGIT for i in range(_DIGITS)]
    writer.write(uniform_frequencies(torch.tensor(digits), _DIGIT))
    writer.write(uniform_frequencies(torch.tensor([largest]), symbols))
    return writer


def beginning(reader: BitstreamReader) -> tuple[int, int]:
    """Number of tokens, and the largest of them."""
    count = sum(digit * _DIGIT**i for i, digit in enumerate(reader.read_uniform(_DIGITS, _DIGIT).tolist()))
    return count, int(reader.read_uniform(1))


def due(step: int) -> bool:
    """Whether the parameters before an optimiser step are held against the stream."""
    return step & (step - 1) == 0 or step % _EVERY == 0


def sampled(module: nn.Module) -> Iterator[Tensor]:
    """The parameters, large ones as evenly spread samples: where a training strays, it strays everywhere."""
    for parameter in module.parameters():
        flat = parameter.detach().reshape(-1)
        yield flat[:: max(1, len(flat) // _LARGE)]
