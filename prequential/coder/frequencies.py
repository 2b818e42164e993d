"""Logits → integer frequencies that sum to 2**24: the part of a code that both sides must compute alike, bit for bit.

A symbol's weight is a function of its own logit and the greatest of its row, made of IEEE subtractions,
multiplications, additions and floors of float32 alone, each a pass of its own: no library's exponential, whose last bit
may depend on where in a batch a number stands. All sums are sums of integers. So a row has the same table alone, in a
batch and in chunks.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

PRECISION = 24  # of the models that constriction's coders take from Python
TOTAL = 2**PRECISION
MOST_SYMBOLS = 2**24  # of a vocabulary: two steps of 4096
# A symbol needs a width of at least 1 of 2**24, which large vocabularies would feel; they are coded in two steps, first
# the group, then the symbol in its group. A step costs 1.3e-4 bits (the coder's rounding), as 1,500 least widths do.
LARGEST_SINGLE_STEP = 1024
_WEIGHT_BITS = 36  # a logit 36 bits below the greatest has weight 1; further below 0
_NO_WEIGHT = -40.0
# 2**f on [0, 1] to 3.3e-6, exact at both ends: 1 + f + f(1 - f)(a + b f + c f**2), fitted to the least relative error.
_POLYNOMIAL = (0.01355575, 0.05203237, 0.24137976, 0.69303212)
_CHUNK = {"cpu": 2**18, "cuda": 2**24}  # logits at a time: what a core's cache holds, what hides the cost of launches


def steps(symbols: int) -> tuple[int, int]:
    """How many groups a vocabulary is coded in, and how many symbols each has; one group is one step, two are two."""
    if symbols <= LARGEST_SINGLE_STEP:
        return 1, symbols
    size = 1 << ((symbols - 1).bit_length() // 2)
    return -(-symbols // size), size


@torch.no_grad()
def frequencies(logits: Tensor, targets: Tensor) -> Tensor:
    """Where each target lies in the integer table of its row: what a range coder needs of the probabilities.

    Each step of the code divides [0, 2**24) among its symbols, every one at least 1 wide, in proportion to softmax;
    vocabularies beyond 1024 take two steps, a group and a symbol in it. A row with a NaN, with +inf or of -inf alone
    has the uniform code. Nothing is transferred to the host. Not for use inside ``torch.compile``, which may fuse a
    product and a sum, and round them otherwise than a decoder that runs eagerly.

    Args:
        logits: Any leading shape, then (V,); any floating dtype, taken as float32.
        targets: The leading shape, integers. One outside of [0, V), such as an ``ignore_index``, has width 0 and is not
            coded.

    Returns:
        Pairs (left, width), int32, of shape (leading..., steps, 2) on the device of the logits.
    """
    symbols = logits.shape[-1]
    rows, wanted = logits.reshape(-1, symbols), targets.reshape(-1)
    many = max(1, _CHUNK.get(logits.device.type, _CHUNK["cpu"]) // symbols)
    parts = [_located(Tables(rows[i : i + many]), wanted[i : i + many]) for i in range(0, len(rows), many)]
    shape = (*targets.shape, 1 if symbols <= LARGEST_SINGLE_STEP else 2, 2)
    return (torch.cat(parts) if parts else wanted.new_empty(0, dtype=torch.int32)).reshape(shape)


def uniform_frequencies(targets: Tensor, symbols: int) -> Tensor:
    """The same under the uniform code over ``symbols``: what an uncoded token, a length or a boundary costs.

    Args:
        targets: Integers of any shape. One outside of [0, symbols) is not coded.
        symbols: How many there are, at most 2**24.

    Returns:
        Pairs (left, width), int32, of shape (targets.shape..., steps, 2).
    """
    known, coded = _known(targets.reshape(-1), symbols)
    groups, size = steps(symbols)
    group, place = known // size, known % size
    exist = (symbols - group * size).clamp(max=size).unsqueeze(1)
    pairs = [_uniform_pairs(group, groups, size, exist.new_full((), symbols))] if groups > 1 else []
    pairs.append(_uniform_pairs(place, size, 1, exist))
    return (torch.stack(pairs, 1) * coded.view(-1, 1, 1)).reshape(*targets.shape, len(pairs), 2)


def _uniform_pairs(index: Tensor, count: int, unit: int, exist: Tensor) -> Tensor:
    """Pairs of one step of the uniform code, whose ``count`` symbols weigh ``unit`` each until ``exist`` is reached."""
    both = torch.stack((index, index + 1), 1)
    return _pairs(_edges(both * unit, exist, both, count))


class Tables:
    """The integer weights of some rows of logits, as cumulative sums over groups and within a group."""

    def __init__(self, rows: Tensor) -> None:
        """Weigh each logit of rows of shape (n, V)."""
        self.symbols = rows.shape[1]
        self.groups, self.size = steps(self.symbols)
        self.weights = _weights(rows, self.groups * self.size).view(-1, self.groups, self.size)

    def first(self) -> Cumulative:
        """Each row's first step: its symbols, or its groups; in a row without any weight all symbols count alike."""
        weights, unit = (self.weights[:, 0], 1) if self.groups == 1 else (self.weights.sum(2), self.size)
        return Cumulative(_summed(weights), unit, weights.new_full((), self.symbols))

    def second(self, rows: Tensor, group: Tensor) -> Cumulative:
        """Symbols of one group in each of some rows; where none of them has any weight, all count alike."""
        exist = (self.symbols - group.unsqueeze(1) * self.size).clamp(max=self.size)
        return Cumulative(_summed(self.weights[rows, group]), 1, exist)


class Cumulative(NamedTuple):
    """Weights before each symbol, and before the end, in rows of shape (n, K + 1), and what counts where all are 0."""

    sums: Tensor
    unit: int  # what each symbol counts, in rows without any weight
    exist: Tensor  # what all symbols count together, there: the last group is not filled up

    def edges(self) -> Tensor:
        """Left edge of each symbol, and the end: integers in [1, 2**24), shape (n, K + 1)."""
        index = torch.arange(self.sums.shape[1], device=self.sums.device).expand_as(self.sums)
        return self._edges(self.sums, index)

    def pairs(self, index: Tensor) -> Tensor:
        """Left edge and width of one symbol a row, shape (n, 2)."""
        both = torch.stack((index, index + 1), 1)
        return _pairs(self._edges(self.sums.gather(1, both), both))

    def _edges(self, before: Tensor, index: Tensor) -> Tensor:
        """Edges of the symbols numbered ``index``, given the weight before each of them."""
        total = self.sums[:, -1:]
        before = torch.where(total == 0, index * self.unit, before)
        return _edges(before, torch.where(total == 0, self.exist, total), index, self.sums.shape[1] - 1)


def _edges(before: Tensor, total: Tensor, index: Tensor, symbols: int) -> Tensor:
    """Edges of symbols in [0, 2**24): each symbol 1 wide, and the rest shared out by weight until there is none left.

    0 and 2**24 - 1 stay outside, so that an encoder can speak of an interval as the middle one of three symbols. One
    division and one product of float64 are rounded in one way only, and keep the order; the last edge is set exactly.
    """
    rest = TOTAL - 2 - symbols
    share = (before.double() * (rest / total.double())).floor().long().clamp(max=rest)
    return torch.where(index == symbols, rest, share) + index + 1


def _pairs(edges: Tensor) -> Tensor:
    """Left edge and width from both edges, shape (n, 2)."""
    return torch.stack((edges[:, 0], edges[:, 1] - edges[:, 0]), 1).int()


def _summed(weights: Tensor) -> Tensor:
    """Sums of the weights before each, and of all: shape (n, K) to (n, K + 1)."""
    sums = weights.new_empty(len(weights), weights.shape[1] + 1)
    sums[:, 0] = 0
    torch.cumsum(weights, 1, out=sums[:, 1:])
    return sums


def _located(tables: Tables, targets: Tensor) -> Tensor:
    """Pairs of one chunk, shape (n, steps, 2)."""
    known, coded = _known(targets, tables.symbols)
    pairs = [tables.first().pairs(known // (1 if tables.groups == 1 else tables.size))]
    if tables.groups > 1:
        rows = torch.arange(len(known), device=known.device)
        pairs.append(tables.second(rows, known // tables.size).pairs(known % tables.size))
    return torch.stack(pairs, 1) * coded.view(-1, 1, 1)


def _known(targets: Tensor, symbols: int) -> tuple[Tensor, Tensor]:
    """Targets with those that are no symbols replaced, and which are symbols."""
    coded = (targets >= 0) & (targets < symbols)
    return torch.where(coded, targets, 0).long(), coded


def _weights(rows: Tensor, width: int) -> Tensor:
    """``2**36 * exp(logit - greatest)`` cut off to integers, shape (n, width); 0 in rows that have no such number."""
    logits = rows.float()
    bits = (logits - logits.amax(1, keepdim=True)).mul_(1 / math.log(2))
    # NaN is all that a row with NaN or with +inf, or without a finite logit, has by now, beside -inf
    torch.nan_to_num_(bits, nan=_NO_WEIGHT, neginf=_NO_WEIGHT).clamp_(min=_NO_WEIGHT)
    whole = bits.floor()
    part = bits.sub_(whole)
    power = part * (_POLYNOMIAL[0] * 2.0**_WEIGHT_BITS)
    for coefficient in _POLYNOMIAL[1:]:
        power.add_(coefficient * 2.0**_WEIGHT_BITS).mul_(part)
    power.add_(2.0**_WEIGHT_BITS)
    power.view(torch.int32).add_(whole.to(torch.int32).mul_(2**23))  # the exponent of a float: times a power of two
    weights = torch.empty(len(rows), width, dtype=torch.int64, device=rows.device)
    weights[:, : rows.shape[1]] = power
    weights[:, rows.shape[1] :] = 0
    return weights
