"""How far the difference of two code lengths could be chance: paired differences over blocks of the same tokens.

The difference of two totals is exact for these two runs on this data. The question is how much of it would change on
other data of the same kind. Both runs are charged for the same tokens, so that what is hard for both cancels; what is
left is cut at the token counts where both books have a boundary.

1. Neighbouring cells are joined into blocks: at most a 32nd of the tokens each, and at the start no longer than a
   quarter of what came before, since there the curves are steep.
2. A block's noise is its mean difference per token held against that of its two neighbours, interpolated at its place
   in log tokens: a second difference. What changes smoothly (one run learns faster) is trend and drops out; a trend
   that bends within three blocks stays in and widens the interval.
3. Each block's variance is its own, so that noise may fade along the run. The sum over the blocks is the variance of
   the total; Student's t makes the interval, its degrees of freedom by Satterthwaite, counted down for the overlap of
   neighbouring second differences.
4. Blocks must be long against the stretch over which noise is alike. As long as blocks twice as long have more than 1.5
   times the variance, those are taken, down to 8 blocks.

It holds (19 times in 20) for noise that is alike over up to a 200th of the run, as that of real runs on shuffled data
is; from a 20th on differences look like trend, and the interval is too narrow. It says nothing about the drift between
two seeds. Resampling the blocks (a block bootstrap) takes the trend for noise: on published runs whose curves differ in
shape its intervals came out 10 to 50 times as wide, see ``docs/decisions/0021``. Reference: von Neumann, Kent,
Bellinson and Hart (1941), on the variance from successive differences.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from prequential.comparison.alignment import Cells, Counts, Floats, common_cells
from prequential.run import Run

_BLOCKS = 32
_GROWTH = 0.25
_MIN_BLOCKS = 8
_SAME_VARIANCE = 1.5
# Neighbouring second differences share blocks: their correlations -2/3 and 1/6 leave 18/35 of the degrees of freedom.
_INDEPENDENT_SHARE = 18 / 35
_CONFIDENCE = 0.95


class Blocks(NamedTuple):
    """Neighbouring stretches of tokens: how many tokens each has, and the difference in nats."""

    tokens: Counts
    nats: Floats


class Scatter(NamedTuple):
    """Variance of a sum of blocks, and the degrees of freedom that it was estimated with."""

    variance: float
    freedom: int


def half_width_nats(first: Run, second: Run) -> float | None:
    """Give half the width of the 95 % interval of ``nats of first - nats of second``, uncoded charges included.

    Args:
        first: A run.
        second: A run on the same tokens in the same order.

    Returns:
        Nats; None where the books have too few common boundaries to tell.
    """
    return half_width_of(common_cells(first, second))


def half_width_of(cells: Cells) -> float | None:
    """Give half the width of the 95 % interval of the sum of all cells; None where they are too few to tell."""
    number = _BLOCKS
    scatter = _scatter(joined(cells, number))
    while scatter is not None and number > _MIN_BLOCKS:
        number //= 2
        longer = _scatter(joined(cells, number))
        if longer is None or longer.variance <= _SAME_VARIANCE * scatter.variance:
            break
        scatter = longer
    return None if scatter is None else student_t(scatter.freedom) * math.sqrt(scatter.variance)


def joined(cells: Cells, number: int) -> Blocks:
    """Join neighbouring cells until a block is one ``number``-th of the tokens, or a quarter of those before it."""
    if not len(cells.ends):
        return Blocks(cells.ends, cells.nats)
    last, begins, start = len(cells.ends) - 1, [0], 0
    while True:
        least = min(int(cells.ends[-1]) / number, _GROWTH * start)
        end = max(int(np.searchsorted(cells.ends, start + least)), begins[-1])
        if end >= last:
            break
        begins.append(end + 1)
        start = int(cells.ends[end])
    if len(begins) > 1 and int(cells.ends[-1]) - start < least:  # a short rest is no block of its own
        begins.pop()
    ends = cells.ends[np.append(np.array(begins[1:], np.int64) - 1, last)]
    return Blocks(np.diff(ends, prepend=0), np.asarray(np.add.reduceat(cells.nats, begins)))


def student_t(freedom: int) -> float:
    """Two-sided 95 % point of Student's t, by bisection on its closed form for whole degrees of freedom.

    Examples:
        >>> round(student_t(4), 3)
        2.776
    """
    low, high = 0.0, 13.0  # 12.706 with one degree of freedom
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < _CONFIDENCE else (low, middle)
    return high


def _inside(t: float, freedom: int) -> float:
    """Give the probability of a value between -t and t: Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine2 = math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    series = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * cosine2
        series += term
    return 2 / math.pi * (angle + math.sin(angle) * series) if odd else math.sin(angle) * series


def _scatter(blocks: Blocks) -> Scatter | None:
    """Estimate the variance of the sum of blocks from their second differences; None for fewer than 8."""
    if len(blocks.tokens) < _MIN_BLOCKS:
        return None
    tokens = blocks.tokens.astype(np.float64)
    rates = blocks.nats / tokens
    places = np.log(tokens.cumsum() - tokens / 2)  # the middle of each on the axis of log tokens
    share = (places[2:] - places[1:-1]) / (places[2:] - places[:-2])
    distance = rates[1:-1] - share * rates[:-2] - (1 - share) * rates[2:]
    spread = 1 / tokens[1:-1] + share**2 / tokens[:-2] + (1 - share) ** 2 / tokens[2:]
    variances, inner = tokens[1:-1] * distance**2 / spread, tokens[1:-1]
    total = math.fsum(variances) * tokens.sum() / inner.sum()  # the two ends have one neighbour only
    if total <= 0:
        return Scatter(0.0, 1)
    # A squared normal number has 3 times the square of its mean as mean square: hence the factor.
    return Scatter(float(total), max(1, int(min(3 * _freedom(variances), _freedom(inner)))))


def _freedom(parts: Floats) -> float:
    """Count degrees of freedom by Satterthwaite: (sum)^2 / sum of squares, less what neighbours share."""
    scaled = parts / parts.max()
    return float(_INDEPENDENT_SHARE * scaled.sum() ** 2 / (scaled**2).sum())
