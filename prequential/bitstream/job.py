"""A decoding in a process of its own: what it is told, and what it tells."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prequential.bitstream.decoding import Decoder
from prequential.errors import CoderError, PrequentialError

VARIABLE = "PREQUENTIAL_DECODE"
_EVERY_S = 1.0


@dataclass
class Job:
    """What a decoding is told.

    Attributes:
        stream: The bitstream.
        output: Where the data goes.
        run: Which of the runs of the program it is; None for whichever comes.
        circumstances: Of the run that wrote the stream, see `circumstances`.
        unended: Whether the run was killed.
        prefix: Optimiser steps after which it ends; None for all.
        pipe: Descriptor of what the decoding is told by: lines of JSON.
    """

    stream: str
    output: str
    run: int | None = None
    circumstances: dict[str, Any] = field(default_factory=dict)
    unended: bool = False
    prefix: int | None = None
    pipe: int | None = None

    def __post_init__(self) -> None:
        self._told = time.monotonic()
        self._began: tuple[float, int] | None = None

    @classmethod
    def of_process(cls) -> Job | None:
        """The decoding that this process was started for; None if it was not."""
        told = os.environ.get(VARIABLE)
        return cls(**json.loads(told)) if told else None

    def environment(self) -> dict[str, str]:
        """What starts a process for it."""
        threads = {"OMP_NUM_THREADS": str(self.circumstances["threads"])} if self.circumstances else {}
        return {VARIABLE: json.dumps(asdict(self)), "WANDB_MODE": "disabled", "PREQUENTIAL": "", **threads}

    def decoder(self) -> Decoder:
        """Open the stream."""
        return Decoder(self.stream, unended=self.unended, progress=self._progress)

    def set_up(self) -> None:
        """Compute as the run did."""
        if "deterministic" in self.circumstances:
            torch.use_deterministic_algorithms(self.circumstances["deterministic"])

    def is_done(self, decoder: Decoder, step: int) -> bool:
        """Whether the part that was asked for is decoded."""
        return (self.prefix is not None and step >= self.prefix) or (self.unended and decoder.exhausted)

    def done(self, decoder: Decoder, as_bytes: Callable[[Tensor], bytes]) -> None:
        """Write the data, tell, and end the process: what the script does afterwards is no part of it."""
        known = decoder.corpus.known
        whole = bool(known.all())
        first = len(known) if whole else int(known.argmin())
        Path(self.output).write_bytes(as_bytes(decoder.corpus.tokens[:first]))
        self._tell(
            done={"whole": whole, "tokens": decoder.known, "written": first, "held": decoder.held, "of": len(known)},
            passes=decoder.passes,
        )
        self.leave()

    def leave(self) -> None:
        """End the process at once."""
        os._exit(0)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Tell what goes wrong inside, and end the process."""
        try:
            yield
        except PrequentialError as error:
            self._tell(error=self._explained(error))
            self.leave()
            raise

    def _explained(self, error: PrequentialError) -> str:
        now = circumstances()
        others = [
            f"{name} {value} then, {now.get(name)} now"
            for name, value in self.circumstances.items()
            if now.get(name) != value
        ]
        if not isinstance(error, CoderError) or not others:
            return str(error)
        return f"{error} (found other circumstances: {'; '.join(others)})"

    def _progress(self, decoder: Decoder) -> None:
        """Tell how far it is, and at what pace: what the program does before it decodes is left out."""
        now = time.monotonic()
        if self._began is None:
            self._began, self._told = (now, decoder.known), now
        if now - self._told >= _EVERY_S:
            self._told = now
            began, tokens = self._began
            of, left = len(decoder.corpus), len(decoder.corpus) - decoder.known
            pace = (now - began) / max(1, decoder.known - tokens)
            self._tell(tokens=decoder.known, of=of, passes=decoder.passes, left_s=pace * left)

    def _tell(self, **facts: Any) -> None:
        if self.pipe is not None:
            os.write(self.pipe, json.dumps(facts).encode() + b"\n")


def circumstances() -> dict[str, Any]:
    """By what the last bits of a logit may depend, beside the program."""
    cuda = torch.cuda.is_available()
    return {
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
