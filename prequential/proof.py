"""Proving a run: its bundle and its bitstream give the data back, in a process of its own, and the book says so.

Nothing of the data, of the project or of the run's folder is used but these two files. What the process computes on
(machine, packages, threads) must be as it was: that is named in the book, and not charged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prequential.bundle import Bundle
from prequential.errors import CoderError
from prequential.ledger import prove_book
from prequential.run import Run

_PACKAGE = Path(__file__).parent
_LAST_WORDS = 3


class Files(NamedTuple):
    """What a receiver gets: the bundle and the bitstream, with what the book says of the latter."""

    bundle: Bundle
    bitstream: Path
    stated: Mapping[str, Any]


class Certificate(NamedTuple):
    """What a decoding came to.

    Attributes:
        decoded: Whether the data came back whole, byte for byte.
        raw_bytes: Of the data.
        sha256: Of the data.
        bundle_bytes: Of the bundle.
        bundle_sha256: Its identity.
        bitstream_bytes: Of the bitstream.
        choice_bits: Named charges of the run.
        total_bytes: Of all of it.
        compression_ratio: raw_bytes over total_bytes.
        tokens: Tokens that were decoded.
        all_tokens: Tokens of the data.
        checked_step: The last optimiser step at which the parameters were those of the run.
        circumstances: On what it was decoded.
        versions: With what.
    """

    decoded: bool
    raw_bytes: int
    sha256: str
    bundle_bytes: int
    bundle_sha256: str
    bitstream_bytes: int
    choice_bits: float
    total_bytes: int
    compression_ratio: float
    tokens: int
    all_tokens: int
    checked_step: int | None
    circumstances: Mapping[str, Any]
    versions: Mapping[str, Any]


def files_of(run: Run) -> Files:
    """Find bundle and bitstream beside a book, and hold them against it.

    Raises:
        CoderError: The run wrote no bitstream, or a file is missing or another one.
    """
    book = Path(run.path)
    stated = run.bitstream
    if not stated:
        raise CoderError(f"{run.name} wrote no bitstream: train with CompressionMonitor(bitstream=True)")
    if stated.get("failure"):
        raise CoderError(f"the bitstream of {run.name} cannot be decoded: {stated['failure']}")
    _check_stated(stated, book)
    bundle = Bundle.read(book.with_name("bundle.tar.xz"))
    expected = str(run.bundle.get("sha256"))
    if bundle.sha256 != expected:
        raise CoderError(
            f"expected the bundle {expected[:12]} of the book, got {bundle.sha256[:12]} beside it: "
            "the training program was changed, use the file that the run wrote"
        )
    return Files(bundle, book.with_name(stated["file"]), stated)


def decode(
    run: Run, output: Path, *, prefix: int | None = None, progress: Callable[[Mapping[str, Any]], None]
) -> Certificate:
    """Give the data of a run back, by its bundle and its bitstream alone.

    Args:
        run: The run, read from its book.
        output: Where the data goes.
        prefix: Optimiser steps after which to stop; None for all.
        progress: Called with what the process tells: tokens so far, of how many, seconds.

    Raises:
        CoderError: The run cannot be decoded here, or not to the data that its book names.
    """
    from prequential.bitstream.job import Job, circumstances
    from prequential.coder.stream import read_layout

    files = files_of(run)
    unended = not files.stated.get("whole")
    read_layout(files.bitstream, unended=unended)
    stated = dict(files.stated["circumstances"])
    with tempfile.TemporaryDirectory(prefix="prequential-") as folder:
        root, found = files.bundle.unpack(Path(folder) / "program"), Path(folder) / "data"
        command, arguments, number = _command(files.bundle)
        job = Job(str(files.bitstream.resolve()), str(found), number, stated, unended, prefix)
        done = _told(job, [*command, *arguments], root, progress)
        data = found.read_bytes()
    whole = bool(done["whole"])
    sha256 = hashlib.sha256(data).hexdigest()
    if whole and sha256 != files.stated["sha256"]:
        raise CoderError(
            f"expected data with sha256 {files.stated['sha256'][:12]}, decoded {sha256[:12]}: nothing was written"
        )
    output.write_bytes(data)
    return _certificate(run, files, done, decoded=whole, circumstances=circumstances())


def prove(run: Run, certificate: Certificate) -> None:
    """Note in the book that the run was decoded."""
    facts = certificate._asdict()
    bitstream = hashlib.sha256(Path(run.path).with_name(run.header["bitstream"]["file"]).read_bytes()).hexdigest()
    del facts["decoded"]
    prove_book(run.path, {**facts, "bitstream_sha256": bitstream})


def _check_stated(stated: Mapping[str, Any], book: Path) -> None:
    """Refuse a head of a book that was not written by a run: a file elsewhere, no hash, no circumstances."""
    kinds = {"file": str, "sha256": str, "raw_bytes": int, "tokens": int, "circumstances": dict}
    bad = [name for name, kind in kinds.items() if not isinstance(stated.get(name), kind)]
    if bad or Path(stated["file"]).name != stated["file"]:
        raise CoderError(
            f"{book} does not say which bitstream is its own ({', '.join(bad) or 'file'}): use a sound copy"
        )


def _certificate(
    run: Run, files: Files, done: Mapping[str, Any], *, decoded: bool, circumstances: Mapping[str, Any]
) -> Certificate:
    from prequential.integrations.versions import versions

    bundle_bytes, bitstream_bytes = files.bundle.bundle_bytes, files.bitstream.stat().st_size
    choice_bits = math.fsum(run.charges.values())
    total_bytes = bundle_bytes + bitstream_bytes + math.ceil(choice_bits / 8)
    raw_bytes = int(files.stated["raw_bytes"])
    return Certificate(
        decoded=decoded,
        raw_bytes=raw_bytes,
        sha256=str(files.stated["sha256"]),
        bundle_bytes=bundle_bytes,
        bundle_sha256=files.bundle.sha256,
        bitstream_bytes=bitstream_bytes,
        choice_bits=choice_bits,
        total_bytes=total_bytes,
        compression_ratio=raw_bytes / total_bytes,
        tokens=int(done["tokens"]),
        all_tokens=int(done["of"]),
        checked_step=done["held"],
        circumstances=circumstances,
        versions=versions()["versions"],
    )


def _command(bundle: Bundle) -> tuple[list[str], list[str], int]:
    """How the bundle says that it is started: the interpreter with the main script, its arguments, which run of it."""
    try:
        stated = json.loads(bundle.files["config.json"])
        main, number = str(stated["bitstream"]["main"]), int(stated["bitstream"]["run"])
        arguments = [str(argument) for argument in stated["argv"]]
    except (KeyError, TypeError, ValueError) as error:
        raise CoderError(
            f"expected a bundle whose config.json says how the program is started, got none ({error}): decode a run "
            "whose bundle was found by itself"
        ) from error
    if not main.endswith(".py"):
        return [sys.executable, "-m", main], arguments, number
    scripts = [name for name in bundle.files if name == main or name.endswith(f"/{main}")]
    if len(scripts) != 1:
        raise CoderError(
            f"expected one main script {main} in the bundle, got {len(scripts)}: give it a name of its own"
        )
    return [sys.executable, scripts[0]], arguments, number


def _told(job: Any, command: list[str], root: Path, progress: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
    """Run the program in decode mode, and listen to it until it is done."""
    reading, job.pipe = os.pipe()
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")]), str(_PACKAGE.parent)]
    environment = {**os.environ, **job.environment(), "PYTHONPATH": os.pathsep.join(paths)}
    log = root.parent / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[job.pipe],
        )
    os.close(job.pipe)
    try:
        for facts in _lines(reading):
            if "error" in facts:
                raise CoderError(facts["error"])
            if "done" in facts:
                process.wait()
                return dict(facts["done"])
            progress(facts)
        process.wait()
    finally:
        process.kill()
        process.wait()
    said = log.read_text(errors="replace").strip().splitlines()
    raise CoderError(
        f"expected the program to train until its data is decoded, it ended with {process.returncode}: "
        f"{' | '.join(line.strip() for line in said[-_LAST_WORDS:]) or 'it said nothing'}"
    )


def _lines(descriptor: int) -> Iterator[Mapping[str, Any]]:
    with open(descriptor, encoding="utf-8") as told:
        for line in told:
            with contextlib.suppress(ValueError):
                yield json.loads(line)
