"""Data whose shortest code is known, or can be had by a second route; real data are read from a folder.

Where data were drawn from a known distribution q, no code for them is shorter than -log2 q(data) - delta bits, but with
probability 2^-delta: over all draws, the mean of 2^(-log2 q - length) is at most the sum of 2^-length over what could
have been drawn, which is at most 1 for a code (Kraft), and Markov's inequality does the rest. Grünwald (2007) calls it
the no-hypercompression inequality; for labels it is Proposition 2 of Blier and Ollivier (2018). A run that comes out
below had no luck: the instrument is wrong.
"""

from __future__ import annotations

import lzma
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

DELTA_BITS = 20  # one draw in a million has a code that is shorter than its -log2 q by so much
CLASSES = 10
BASES = b"ACGT"


class Labelled(NamedTuple):
    images: Tensor
    labels: Tensor

    @property
    def permuted(self) -> Tensor:
        """The same labels in a random order.

        All arrangements are as likely, whatever a model knows of the images and of how many labels there are of each:
        q is one over their number.
        """
        return self.labels[torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(1))]

    @property
    def drawn(self) -> Tensor:
        """Labels drawn uniformly, which have nothing to do with the images."""
        return torch.randint(CLASSES, self.labels.shape, generator=torch.Generator().manual_seed(2))


def mnist(data: Path, count: int) -> Labelled:
    """The first `count` training images and labels, from the original idx files."""
    with lzma.open(data / "images" / "mnist-train-images-idx3-ubyte.xz") as file:
        images = torch.frombuffer(bytearray(file.read(16 + 784 * count)[16:]), dtype=torch.uint8)
    with lzma.open(data / "images" / "mnist-train-labels-idx1-ubyte.xz") as file:
        labels = torch.frombuffer(bytearray(file.read(8 + count)[8:]), dtype=torch.uint8)
    return Labelled(images.view(count, 28, 28), labels.long())


def made_up_images(count: int) -> Labelled:
    """Ten patterns under noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    patterns = torch.rand(CLASSES, 28, 28, generator=generator)
    noise = torch.rand(count, 28, 28, generator=generator)
    return Labelled(((patterns[labels] + 2 * noise) * 85).to(torch.uint8), labels)


def random_text(data: Path) -> bytes:
    """100,000 characters drawn from 64."""
    return (data / "text" / "canterbury-random-base64-100000.txt").read_bytes()


def made_up_text(count: int) -> bytes:
    return np.random.default_rng(0).choice(64, count).astype(np.uint8).tobytes()


def genome(data: Path, count: int) -> bytes:
    """The first `count` letters of E. coli."""
    with lzma.open(data / "text" / "dna-ecoli-k12-mg1655.txt.xz") as file:
        return file.read(count)


def made_up_genome(count: int) -> tuple[bytes, float]:
    """Letters of a Markov source of order 2, and -log2 of their probability under it."""
    generator = np.random.default_rng(0)
    source = generator.dirichlet([4.0] * len(BASES), size=len(BASES) ** 2)
    context, bits, letters = 0, 0.0, bytearray()
    for draw in generator.random(count):
        letter = min(int(np.searchsorted(source[context].cumsum(), draw, side="right")), len(BASES) - 1)
        bits -= math.log2(source[context, letter])
        letters.append(BASES[letter])
        context = (context * len(BASES) + letter) % len(source)
    return bytes(letters), bits


def arrangement_bits(symbols: Sequence[int] | bytes) -> float:
    """log2 of n! / (n_1! ... n_K!): in how many orders the same symbols could have come."""
    counts = Counter(symbols).values()
    return (math.lgamma(sum(counts) + 1) - sum(math.lgamma(count + 1) for count in counts)) / math.log(2)


def counting_bits(text: bytes, order: int, alphabet: bytes = BASES) -> float:
    """What `Counting` must cost: letter by letter, with plain dictionaries and floats."""
    padded, bits = alphabet[:1] * order + text, 0.0
    contexts, continued = Counter(), Counter()
    for i in range(len(text)):
        context, both = padded[i : i + order], padded[i : i + order + 1]
        bits -= math.log2((continued[both] + 0.5) / (contexts[context] + 0.5 * len(alphabet)))
        contexts[context] += 1
        continued[both] += 1
    return bits
