"""Loss curves to forecast: real ones of published runs, where their data is there, and made ones whose end is known."""

import csv
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

DATA = Path(__file__).parents[2] / "shared" / "data" / "loss-curves"
_MIN_ROWS = 200


class Curve(NamedTuple):
    """A whole run: its name, the group of runs it belongs to, cumulative tokens, and nats in each interval."""

    name: str
    group: str
    tokens: np.ndarray
    nats: np.ndarray

    def until(self, share):
        """Tokens and nats of the intervals that end within a share of the run."""
        seen = self.tokens <= share * self.tokens[-1]
        return self.tokens[seen], self.nats[seen]


def published():
    """Curves with 200 rows or more; a sparse log's rows stand for the tokens since the row before."""
    return [
        curve
        for record in json.loads((DATA / "runs.json").read_text())
        if len((curve := _read(record)).nats) >= _MIN_ROWS
    ]


def _read(record):
    with (DATA / record["file"]).open() as file:
        rows = list(csv.DictReader(file))
    tokens = np.array([float(row["tokens"] or row["step"]) for row in rows])
    if tokens[0] == 0:  # steps counted from 0
        tokens = tokens + tokens[1]
    nats = np.array([float(row["loss"]) for row in rows]) * np.diff(tokens, prepend=0)
    return Curve(record["file"].removesuffix(".csv"), record["group"], tokens, nats)


def as_book(tokens, nats, *, share=0.01):
    """Join steps as a book does: single ones at first, then intervals of about 1 % of the steps so far."""
    ends, start = [], 0
    for step in range(1, len(tokens) + 1):
        if step - start >= max(1, int(share * step)) or step == len(tokens):
            ends.append(step)
            start = step
    sums = np.diff(np.concatenate([[0.0], np.cumsum(nats)])[[0, *ends]])
    return tokens[np.array(ends) - 1], sums


def power_law(
    *, floor=2.4, rest=0.9, exponent=0.3, steps=4000, noise=0.1, seed=0, decay_share=0.0, drop=0.03, fast=0.0
):
    """A curve ``floor + rest s^-exponent + fast s^-1`` over shares s of the run, with noise and a cooldown.

    The cooldown takes off a share ``drop`` of the loss by the end, in proportion to how far it has come.
    """
    share = np.arange(1, steps + 1) / steps
    loss = floor + rest * share**-exponent + fast / share
    if decay_share:
        loss = loss * (1 - drop * np.clip((share - 1 + decay_share) / decay_share, 0, 1))
    loss = loss + noise * np.random.default_rng(seed).standard_normal(steps)
    return Curve("power law", "made", np.arange(1, steps + 1) * 1000.0, loss * 1000)
