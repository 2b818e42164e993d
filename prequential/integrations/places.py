"""Which of the processes of a run this one is, by the process group of torch."""

from __future__ import annotations

from itertools import count
from typing import Any

import torch.distributed as dist

from prequential.errors import MeasureError
from prequential.ranks import Alone, Several

# Recordings of this process so far: each has letters of its own, and all processes begin them in the same order.
_RECORDINGS = count()


def place_of(place: int, size: int, processes: int) -> Alone:
    """This process among those that the data is spread over.

    Args:
        place: Its data-parallel rank.
        size: Number of data-parallel ranks.
        processes: Number of processes. Where there are more than ranks, those of one rank hold the same tokens, and one
            of them counts.

    Raises:
        MeasureError: There is no process group.
    """
    if processes == 1:
        return Alone()
    if not (dist.is_available() and dist.is_initialized()):
        raise MeasureError(
            f"expected a process group of torch.distributed for {processes} processes, got none: begin to record when "
            "it is there (fabric.launch(), init_process_group), or train in one process"
        )
    # Private by its name, but what every other way to a common store comes down to.
    group: Any = dist.distributed_c10d
    store = group.PrefixStore(f"prequential/{next(_RECORDINGS)}", group._get_default_store())
    first = dist.get_rank() == 0 if place == 0 else size == processes or store.add(f"first/{place}", 1) == 1
    return Several(store, place, size, processes=processes, counts=first)


def place_in_group(given: tuple[int, int] | None = None) -> Alone:
    """This process by its data-parallel rank and their number, or else by the whole process group, if there is one."""
    processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if given is None and processes > 1:
        given = dist.get_rank(), processes
    place, size = given or (0, 1)
    return place_of(place, size, max(size, processes))
