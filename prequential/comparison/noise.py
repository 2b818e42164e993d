"""How far the difference of two code lengths could be chance: paired differences over blocks of the same tokens.

The difference of two totals is exact for these two runs on this data. The question is how much of it would change on
other data of the same kind. Both runs are charged for the same tokens, so that what is hard for both cancels; what is
left is cut at the token counts where both books have a boundary.

1. Neighbouring cells are joined into blocks: at most a 32nd of the tokens each, long enough to be nearly independent,
   and at the start no longer than a quarter of what came before, since there the curves are steep.
2. A block's noise is its mean difference per token held against that of its two neighbours, interpolated at its place
   in log tokens: a second difference. What changes smoothly (one run learns faster) is trend and drops out; a trend
   that bends within three blocks stays in and widens the interval.
3. Each block's variance is its own, so that noise may fade along the run. The sum over the blocks is the variance of
   the total; Student's t makes the interval, its degrees of freedom by Satterthwaite, counted down for the overlap of
   neighbouring second differences.

It holds for differences that hardly correlate beyond a block, as those of real runs on shuffled data do (correlations
of neighbouring steps under 0.1 were seen); differences that swing over more than a block look like trend and make it
too narrow, and so does the drift between two seeds, about which it says nothing. Reference: von Neumann,
Kent, Bellinson and Hart (1941), on the variance from successive differences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from prequential.run import Run

_BLOCKS = 32
_GROWTH = 0.25
_MIN_BLOCKS = 8
# Neighbouring second differences share blocks: their correlations -2/3 and 1/6 leave 18/35 of the degrees of freedom.
_INDEPENDENT_SHARE = 18 / 35
_CONFIDENCE = 0.95


class Block(NamedTuple):
    """Neighbouring tokens that both runs coded, and how much longer the first run's code for them is."""

    start: int
    tokens: int
    nats: float

    @property
    def rate(self) -> float:
        """Difference in nats per token."""
        return self.nats / self.tokens

    @property
    def place(self) -> float:
        """Middle of the block on the axis of log tokens."""
        return math.log(self.start + self.tokens / 2)


def half_width_nats(first: Run, second: Run) -> float | None:
    """Give half the width of the 95 % interval of ``nats of first - nats of second``, uncoded charges included.

    Args:
        first: A run.
        second: A run on the same tokens in the same order.

    Returns:
        Nats; None where the books have too few common boundaries to tell.
    """
    blocks = joined(list(common_cells(first, second)))
    if len(blocks) < _MIN_BLOCKS:
        return None
    variances = [_variance(*blocks[i - 1 : i + 2]) for i in range(1, len(blocks) - 1)]
    inner = blocks[1:-1]
    all_tokens, inner_tokens = (sum(block.tokens for block in part) for part in (blocks, inner))
    total = math.fsum(variances) * all_tokens / inner_tokens  # the two ends have one neighbour only
    if total <= 0:
        return 0.0
    # A squared normal number has 3 times the square of its mean as mean square: hence the factor.
    freedom = min(3 * _freedom(variances), _freedom([block.tokens for block in inner]))
    return student_t(max(1, int(freedom))) * math.sqrt(total)


def boundaries(run: Run) -> dict[int, int]:
    """Token counts at which an interval of the book ends, each with the number of intervals up to and including it."""
    ends: dict[int, int] = {}
    tokens = 0
    for number, interval in enumerate(run.intervals, start=1):
        tokens += interval.tally.tokens
        ends[tokens] = number  # an interval without tokens (replay) belongs to the boundary it stands at
    ends.pop(0, None)
    return ends


def common_cells(first: Run, second: Run) -> Iterator[Block]:
    """Cut two runs at the token counts where both have a boundary; nothing if they do not end at the same one."""
    ends = boundaries(first), boundaries(second)
    common = sorted(ends[0].keys() & ends[1].keys())
    if not common or common[-1] != max(ends[0]) or common[-1] != max(ends[1]):
        return
    start, last = 0, (0, 0)
    for tokens in common:
        upto = ends[0][tokens], ends[1][tokens]
        yield Block(start, tokens - start, _nats(first, last[0], upto[0]) - _nats(second, last[1], upto[1]))
        start, last = tokens, upto


def joined(cells: Sequence[Block]) -> list[Block]:
    """Join neighbouring cells until a block is a 32nd of the tokens, or a quarter of those before it."""
    total = sum(cell.tokens for cell in cells)
    blocks: list[Block] = []
    start, tokens, nats = 0, 0, 0.0
    for cell in cells:
        tokens, nats = tokens + cell.tokens, nats + cell.nats
        if tokens >= min(total / _BLOCKS, _GROWTH * start):
            blocks.append(Block(start, tokens, nats))
            start, tokens, nats = start + tokens, 0, 0.0
    if tokens and blocks:  # a short rest is no block of its own
        last = blocks.pop()
        blocks.append(Block(last.start, last.tokens + tokens, last.nats + nats))
    return blocks


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


def _nats(run: Run, begin: int, end: int) -> float:
    return math.fsum(i.tally.nats + i.tally.uncoded_nats for i in run.intervals[begin:end])


def _variance(before: Block, block: Block, after: Block) -> float:
    """Variance of a block's nats, from its distance to the line through its neighbours."""
    share = (after.place - block.place) / (after.place - before.place)
    distance = block.rate - share * before.rate - (1 - share) * after.rate
    spread = 1 / block.tokens + share**2 / before.tokens + (1 - share) ** 2 / after.tokens
    return block.tokens * distance**2 / spread


def _freedom(parts: Sequence[float]) -> float:
    """Count degrees of freedom by Satterthwaite: (sum)^2 / sum of squares, less what neighbours share."""
    scale = max(parts)
    scaled = [part / scale for part in parts]
    return _INDEPENDENT_SHARE * math.fsum(scaled) ** 2 / math.fsum(part * part for part in scaled)
