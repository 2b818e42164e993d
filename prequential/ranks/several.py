"""Ranks of one run, and how what they saw gets to rank 0: by letters in the store of the process group.

A store (`torch.distributed.TCPStore` in nearly all runs) keeps values by key. A rank sets its next letter and goes on;
it waits for nobody but in the first micro-batch, when all of them agree on how nats are found. Rank 0 waits at log
points for the letters that are due, within a bound. That a rank feeds fewer batches, raises an exception or is gone
holds up no other rank, and nothing touches the communicator of the training.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prequential.errors import MeasureError, PrequentialError, RanksError
from prequential.ranks.letters import Letter
from prequential.remarks import listed_ranks

_BOARD = "board"
_POLL_S = 0.0002, 0.02


class Alone:
    """The only data-parallel rank of a run.

    Attributes:
        processes: Number of processes.
        size: Number of data-parallel ranks.
        place: This one among them.
        counts: Whether this process counts its tokens: of those that hold the same ones, one does.
        keeps_book: Whether it keeps the book.
        spread: Whether there are other processes, which may wait for this one to run its module as often as they do.
        agreed: Whether ranks have agreed on how nats are found.
        missing: Ranks whose last letter did not come.
    """

    processes, size, place, counts, keeps_book, spread, agreed = 1, 1, 0, True, True, False, False
    missing: Sequence[int] = ()

    def agree(self, facts: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Agree on what the first micro-batch showed.

        Args:
            facts: What it showed here; None if that was nothing.

        Returns:
            What was agreed on; None where there is nothing to agree on.

        Raises:
            MeasureError: Ranks differ, or one of them refuses.
        """
        return None

    def refuse(self, error: Exception) -> None:
        """Tell the other ranks that the first micro-batch is refused here."""

    def exchange(self, letter: Letter, *, hurried: bool = False) -> list[list[Letter]]:
        """Send a letter, or on rank 0 receive those that are due.

        Args:
            letter: What this rank has to say.
            hurried: Whether the run failed, so that other ranks may be gone.

        Returns:
            Letters by rank; on other ranks than 0 none.

        Raises:
            RanksError: A letter did not come in time.
        """
        return [[letter]]

    def stop(self, reason: str) -> None:
        """Tell the other ranks that the recording has stopped."""

    def scheme(self, name: str) -> str:
        """Name of a fingerprint that depends on the order of the data, with how ranks are put into an order."""
        return name

    @property
    def sampled_below(self) -> int:
        """Which hashes of passages rank 0 samples, from 0 to 2**64."""
        return 2**64

    def sample_below(self, limit: int) -> None:
        """Tell other ranks which hashes of passages are sampled."""


@dataclass
class _Peer:
    """What rank 0 knows of another rank."""

    letters: int = 0
    turn: int = -1
    routes: int = 0
    states: int = 0
    resting: bool = False
    ended: bool = False

    def take(self, letter: Letter) -> None:
        self.letters += 1
        self.turn = max(self.turn, letter.turn)
        self.routes += letter.kind == "route"
        self.states += letter.kind == "state"
        self.resting = self.resting or letter.kind == "epoch"
        self.ended = self.ended or letter.kind in ("end", "failed")

    def owes(self, kind: str, turn: int, number: int) -> bool:
        """Whether a letter is due from it at such a moment of rank 0, the how-manieth of its kind."""
        if self.ended:
            return False
        due = {
            "route": self.routes < number and not self.resting,
            "epoch": not self.resting,
            "state": self.states < number,
            "end": True,
        }
        return due.get(kind, self.turn < turn and not self.resting)


class Several(Alone):
    """One of several data-parallel ranks.

    Args:
        store: Store of the process group, under a prefix of this run alone.
        place: This rank among them.
        size: Their number.
        processes: Number of processes, which may be more.
        counts: Whether this process counts its tokens.

    Attributes:
        timeout_s: How long rank 0 waits at a log point for a letter that is due. Optimiser steps are shared, so that no
            rank is far behind another.
        start_s: How long all wait in the first micro-batch: programs start at different speeds.
        grace_s: How long rank 0 waits for the last letters of a run that failed.
    """

    timeout_s, start_s, grace_s = 60.0, 600.0, 5.0

    def __init__(self, store: Any, place: int, size: int, *, processes: int, counts: bool) -> None:
        self._store, self.processes = store, processes
        self.place, self.size, self.counts = place, size, counts
        self.keeps_book, self.spread, self.agreed = counts and place == 0, True, False
        self._peers = {other: _Peer() for other in range(1, size if self.keeps_book else 1)}
        self._sent, self._turn = 0, -1
        self._routes = self._states = 0  # letters of this kind so far
        self._board: dict[str, Any] = {}
        self.missing = ()

    def agree(self, facts: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Agree on what the first micro-batch showed."""
        if not self.agreed:
            self._routes += 1
            if self.keeps_book:
                self._decide(facts)
            else:
                self._send(Letter("route", facts={"facts": facts}))
                self._await_board()
            self.agreed = self._board["facts"] is not None  # else no rank saw a target, and all ask again
        agreed: Mapping[str, Any] | None = self._board["facts"]
        if facts is not None and agreed is not None and _differing([(0, agreed), (self.place, facts)]):
            raise PrequentialError(_differing([(0, agreed), (self.place, facts)]))
        return agreed

    def refuse(self, error: Exception) -> None:
        """Tell the other ranks that the first micro-batch is refused here."""
        if self.keeps_book:
            self._post_on_board(refusal=str(error))
            self._store.set(f"route/{self._routes + 1}", "")
        else:
            self._send(Letter("route", facts={"refusal": str(error)}))

    def exchange(self, letter: Letter, *, hurried: bool = False) -> list[list[Letter]]:
        """Send a letter, or on rank 0 receive those that are due."""
        if self.keeps_book:
            return self._receive(letter, self.grace_s if hurried else self.timeout_s)
        news = letter.intervals or letter.notes or letter.kind != "step" or letter.turn > self._turn
        if self.counts and news:
            self._turn = -1 if letter.kind == "epoch" else letter.turn
            if self.agreed:
                self._read_board()
            self._send(letter)
        return []

    def stop(self, reason: str) -> None:
        """Tell the other ranks that the recording has stopped."""
        if self.keeps_book:
            self._post_on_board(stopped=reason)
            self._store.set(f"route/{self._routes + 1}", "")
        elif self.counts and "stopped" not in self._board:
            self._send(Letter("failed", facts={"failure": reason}))

    def scheme(self, name: str) -> str:
        """Name of a fingerprint that depends on the order of the data: rank r's begins at position r * 2**40."""
        return f"{name}, {self.size} ranks" if self.size > 1 else name

    @property
    def sampled_below(self) -> int:
        """Which hashes of passages rank 0 samples, from 0 to 2**64."""
        return int(self._board.get("sampled_below", 2**64))

    def sample_below(self, limit: int) -> None:
        """Tell other ranks which hashes of passages are sampled."""
        if limit != self.sampled_below and self.agreed:
            self._post_on_board(sampled_below=limit)

    # -- rank 0 ---------------------------------------------------------------------------------------------------

    def _decide(self, facts: Mapping[str, Any] | None) -> None:
        own = Letter("route", facts={"facts": facts})
        letters = self._receive(own, self.start_s)
        answers = [(place, letter.facts) for place, some in enumerate(letters) for letter in some]
        refusals = [(place, str(answer["refusal"])) for place, answer in answers if answer.get("refusal")]
        found = [(place, answer["facts"]) for place, answer in answers if answer.get("facts") is not None]
        refusal = f"rank {refusals[0][0]}: {refusals[0][1]}" if refusals else _differing(found)
        agreed = joint([each for _, each in found]) if found and not refusal else None
        self._post_on_board(facts=agreed, **({"refusal": refusal} if refusal else {}))
        self._store.set(f"route/{self._routes}", "")
        if refusal:
            raise MeasureError(refusal)

    def _receive(self, own: Letter, wait_s: float) -> list[list[Letter]]:
        letters: list[list[Letter]] = [[own], *([] for _ in self._peers)]
        self._states += own.kind == "state"
        number = {"route": self._routes, "state": self._states}.get(own.kind, 0)
        self.missing = []
        while True:
            due = [p for p, peer in self._peers.items() if peer.owes(own.kind, own.turn, number)]
            due = [place for place in due if place not in self.missing]
            if not due:
                break
            late = self._await({place: self._key(place) for place in due}, wait_s)
            if late and own.kind != "end":
                raise RanksError(
                    f"expected the sums of all ranks within {wait_s:g} s, got none of {listed_ranks(late)}"
                )
            self.missing = sorted([*self.missing, *late])
            for place, letter in self._opened([place for place in due if place not in late]):
                letters[place].append(letter)
                if letter.kind == "failed":
                    raise RanksError(f"rank {place}: {letter.facts['failure']}")
        if own.kind == "epoch":
            for peer in self._peers.values():
                peer.resting, peer.turn = False, -1
        return letters

    def _await(self, keys: Mapping[int, str], wait_s: float) -> list[int]:
        """Wait for keys; those that did not come."""
        deadline, pause = time.monotonic() + wait_s, _POLL_S[0]
        while not self._store.check(list(keys.values())):
            if time.monotonic() > deadline:
                return [place for place, key in keys.items() if not self._store.check([key])]
            time.sleep(pause)
            pause = min(2 * pause, _POLL_S[1])
        return []

    def _key(self, place: int) -> str:
        return f"{place}/{self._peers[place].letters}"

    def _opened(self, places: Sequence[int]) -> Iterator[tuple[int, Letter]]:
        """Take the letters of these ranks out of the store."""
        keys = [self._key(place) for place in places]
        many = self._store.has_extended_api()
        for place, key, data in zip(places, keys, self._store.multi_get(keys) if many else keys, strict=True):
            letter = Letter.from_bytes(bytes(data) if many else self._store.get(key))
            self._store.delete_key(key)
            self._peers[place].take(letter)
            yield place, letter

    def _post_on_board(self, **news: Any) -> None:
        self._board.update(news)
        self._store.set(_BOARD, json.dumps(self._board))

    # -- other ranks ----------------------------------------------------------------------------------------------

    def _send(self, letter: Letter) -> None:
        if self.counts:
            self._store.set(f"{self.place}/{self._sent}", letter.to_bytes())
            self._sent += 1

    def _await_board(self) -> None:
        if self._await({0: f"route/{self._routes}"}, self.start_s):
            raise RanksError(
                f"expected an answer of rank 0 within {self.start_s:g} s, got none: open the recording on all ranks"
            )
        self._read_board()
        if self._board.get("refusal"):
            raise MeasureError(self._board["refusal"])

    def _read_board(self) -> None:
        self._board = json.loads(self._store.get(_BOARD))
        if "stopped" in self._board:
            raise RanksError(self._board["stopped"])


def joint(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put together what ranks found: of the first one, but for what takes all of them to know."""
    leader = dict(found[0])
    leader["mask"] = next((facts["mask"] for facts in found if facts["mask"] is not None), None)
    first = [(facts["watch"] or {}).get("first_tokens") for facts in found]
    if first[0] is not None:
        begun = [(None, 0, True) if one is None else one["begun_with"] for one in first]
        same = len({token for token, _, _ in begun}) == 1
        known = same and (sum(rows for _, rows, _ in begun) > 1 or not begun[0][2])
        begin_id = begun[0][0] if known else None
        leader["watch"] = {**leader["watch"], "first_tokens": {**first[0], "begin_id": begin_id}}
    return leader


def _differing(found: Sequence[tuple[int, Mapping[str, Any]]]) -> str:
    """Say in what the facts of ranks differ that cannot be added up; empty if in nothing."""
    masks = [(place, {"mask": facts["mask"]}) for place, facts in found if facts["mask"] is not None]
    for pairs in ([(place, facts["kind"]) for place, facts in found], masks):
        for place, facts in pairs[1:]:
            for name, expected in pairs[0][1].items():
                if facts[name] != expected:
                    return (
                        f"expected the same {name} on all ranks, got {expected} on rank {pairs[0][0]} and "
                        f"{facts[name]} on rank {place}: run the same script on each"
                    )
    return ""
