"""The data-parallel ranks of one run: what each of them saw reaches the one that keeps the book.

Owns which process counts, how sums get to rank 0 and how intervals of several ranks are put together; not what is
counted. Nothing here is a collective: ranks leave letters in the store of the process group, and rank 0 picks them up.
"""

from prequential.ranks.away import Away
from prequential.ranks.interval import Interval, condensed, together
from prequential.ranks.letters import Letter
from prequential.ranks.several import Alone, Several

__all__ = [
    "Alone",
    "Away",
    "Interval",
    "Letter",
    "Several",
    "condensed",
    "together",
]
