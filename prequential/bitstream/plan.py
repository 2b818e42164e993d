"""In which order the tokens of a micro-batch become known: computed alike by both sides, from placeholders alone.

A token that came before is known and not sent again. What a row needs beside its own targets must be known before it is
coded: rows that need nothing of others come first, column by column and all at once; rows that need targets of those
wait for the next wave. What no row of the batch predicts is sent before all, by the uniform code.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prequential.bitstream.corpus import Positions

Known = npt.NDArray[np.bool_]
_NOTHING: Positions = np.empty(0, dtype=np.int64)


class Plan(NamedTuple):
    """The order of one micro-batch.

    Attributes:
        uniform: Positions that are sent first, by the uniform code.
        order: Places of the targets, in rows one after the other, in the order in which they are coded.
        ends: Where in ``order`` each pass ends: what is coded by the same pass stands together.
    """

    uniform: Positions
    order: Positions
    ends: Positions


def make_plan(targets: Positions, inputs: Positions, known: Known) -> Plan:
    """Plan one micro-batch; what it sends is marked as known.

    Args:
        targets: Position of each target, shape (B, T); -1 for one that is not to be coded.
        inputs: Positions that each row holds, its targets or not, shape (B, K); -1 for what is no token.
        known: Which positions came before, shape (N,); all of the batch's are known afterwards.
    """
    if not len(targets):
        uniform = np.unique(inputs[_unknown(inputs, known)])
        known[uniform] = True
        return Plan(uniform, _NOTHING, _NOTHING)
    rows = np.arange(len(targets))
    is_open, needed = _unknown(targets, known), _unknown(inputs, known)
    others = needed & ~_in_own(inputs, targets, is_open, needed) if needed.any() else needed
    uniform = np.setdiff1d(inputs[others], targets[is_open]) if others.any() else _NOTHING
    known[uniform] = True
    orders, ends, coded = [], [], 0
    pending = is_open.any(axis=1)
    while pending.any():
        ready: Known = np.logical_and(pending, ~(others & _unknown(inputs, known)).any(axis=1))
        if not ready.any():  # rows that wait for each other: the first one's needs are sent
            first = rows[pending][0]
            needs = np.unique(inputs[first][others[first] & _unknown(inputs[first], known)])
            uniform, known[needs] = np.concatenate((uniform, needs)), True
            continue
        order, passes = _columns(targets, ready, known)
        orders.append(order)
        ends.append(coded + passes)
        coded += len(order)
        pending &= ~ready
    return Plan(uniform, np.concatenate(orders or [_NOTHING]), np.concatenate(ends or [_NOTHING]))


def _unknown(positions: Positions, known: Known) -> Known:
    return (positions >= 0) & ~known[positions]  # -1 is the last one: whatever it is, it does not count


def _in_own(inputs: Positions, targets: Positions, is_open: Known, needed: Known) -> Known:
    """Which of the needed inputs are targets of the same row."""
    size = np.int64(max(inputs.max(), targets.max()) + 1)
    rows = np.arange(len(targets))[:, None] * size
    own, wanted = np.sort((targets + rows)[is_open]), (inputs + rows)[needed]
    if not len(own):
        return np.zeros_like(needed)
    found = np.zeros_like(needed)
    found[needed] = own[np.minimum(np.searchsorted(own, wanted), len(own) - 1)] == wanted
    return found


def _columns(targets: Positions, ready: Known, known: Known) -> tuple[Positions, Positions]:
    """Places of the targets of some rows, column by column, each position once, and where each column ends."""
    count, length = targets.shape
    places = np.arange(count * length).reshape(count, length)[ready].T
    positions = targets[ready].T
    kept = _unknown(positions, known)
    places, positions = places[kept], positions[kept]
    known[positions] = True
    ordered = np.sort(positions)
    if (ordered[1:] == ordered[:-1]).any():
        places = places[np.sort(np.unique(positions, return_index=True)[1])]
    if not len(places):
        return places, places
    return places, np.append(np.flatnonzero(np.diff(places % length)) + 1, len(places))
