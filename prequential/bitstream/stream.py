"""What both sides agree on beside the order: how a stream begins, and when parameters are held against it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from prequential.coder import BitstreamReader, BitstreamWriter, uniform_frequencies

_DIGIT, _DIGITS = 1024, (5, 3)  # of the two numbers at the beginning
_EVERY = 1000
_LARGE = 2**14


def begin(path: str | os.PathLike[str], symbols: int, count: int, largest: int) -> BitstreamWriter:
    """Begin a stream with how many tokens the data has, and below which number they all are."""
    writer = BitstreamWriter(path, symbols=symbols)
    for number, digits in zip((count, largest - 1), _DIGITS, strict=True):
        writer.write(uniform_frequencies(torch.tensor([number // _DIGIT**i % _DIGIT for i in range(digits)]), _DIGIT))
    return writer


def beginning(reader: BitstreamReader) -> tuple[int, int]:
    """Number of tokens, and the number that they are below."""
    count, last = (
        sum(digit * _DIGIT**i for i, digit in enumerate(reader.read_uniform(digits, _DIGIT).tolist()))
        for digits in _DIGITS
    )
    return count, last + 1


def due(step: int) -> bool:
    """Whether the parameters before an optimiser step are held against the stream."""
    return step & (step - 1) == 0 or step % _EVERY == 0


def sampled(module: nn.Module) -> Iterator[Tensor]:
    """The parameters, large ones as evenly spread samples: where a training strays, it strays everywhere."""
    for parameter in module.parameters():
        flat = parameter.detach().reshape(-1)
        yield flat[:: max(1, len(flat) // _LARGE)]
