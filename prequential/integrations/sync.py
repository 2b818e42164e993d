"""A book sent to W&B after the fact: the rows, x-axes, summary and artifact that its live run would have left there.

What a W&B run has already is asked first, and only what it lacks is sent, so that sending twice changes nothing.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from prequential.bundle import Bundle
from prequential.codelength import REGISTRY
from prequential.errors import BundleError, SyncError
from prequential.integrations import wandb as door
from prequential.integrations.charts import log_charts
from prequential.integrations.program import BUNDLE_NAME
from prequential.integrations.wandb_run import KnownRun, key_of, known_run, own_entity
from prequential.live import Row, replayed
from prequential.run import Run

Progress = Callable[[list[Row]], Iterable[Row]]
T = TypeVar("T")

_DEFAULT_PROJECT = "prequential"
_NAME = re.compile(r"[^/\\#?%:\x00-\x1f]{1,128}")  # what W&B allows
_INIT_S = 60.0
_SEEN_S = 30.0  # for the server to show what it took


class Target(NamedTuple):
    """A W&B run; no entity stands for the account's own."""

    entity: str | None
    project: str
    id: str

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


class Sync(NamedTuple):
    """What came of it.

    Attributes:
        target: The W&B run.
        rows: Log points of the book.
        sent: How many of them were sent now; the others were there.
        attached: Whether book and bundle were sent now.
        folder: The offline run that was written; None if all is on the server.
    """

    target: Target
    rows: int
    sent: int
    attached: bool
    folder: Path | None


def target_of(run: Run, where: str | None = None, project: str | None = None) -> Target:
    """Choose the W&B run for a book: the one named, else a new one in ``project``, else the one of its training.

    A new one has an id made of the first lines of the book, so that it is the same the next time.

    Args:
        run: The run, read from its book.
        where: ``entity/project/id``.
        project: A project.

    Raises:
        SyncError: ``where`` is of another form.
    """
    if where is not None:
        return _target(where.removeprefix("wandb:").strip("/").split("/"))
    trained = run.header.get("wandb")
    if project is None and trained:
        entity = trained.get("entity")
        known = entity not in (None, "", "None")  # an offline run knows none
        return _target([*([entity] if known else []), trained.get("project"), trained.get("id")])
    return _target([project or os.environ.get("WANDB_PROJECT") or _DEFAULT_PROJECT, _id_of(Path(run.path))])


def _target(parts: list[Any]) -> Target:
    if len(parts) not in (2, 3) or not all(isinstance(part, str) and _NAME.fullmatch(part) for part in parts):
        raise SyncError(f"expected entity/project/id, got {parts!r:.80}: copy the run path from its W&B page")
    *entity, project, name = parts
    return Target(entity[0] if entity else None, project, name)


def sync(run: Run, target: Target, *, timeout_s: float, progress: Progress = iter) -> Sync:
    """Send to W&B what it lacks of a book; with ``WANDB_MODE=offline``, write all of it as an offline run, once.

    `wandb sync` appends whatever an offline run holds: there is only one of a book in a folder of W&B's.

    Args:
        run: The run, read from its book.
        target: Where to.
        timeout_s: Seconds for the upload; then it is given up.
        progress: Wraps the rows while they are handed over.

    Raises:
        SyncError: No wandb package, no way to the server, a run of another book, or one that is still training.
    """
    try:
        import wandb
    except ImportError as error:
        raise SyncError("expected the wandb package, to send a book: pip install wandb") from error
    rows = list(replayed(run))
    files = [path for path in (Path(run.path), Path(run.path).with_name(BUNDLE_NAME)) if path.is_file()]
    mode = os.environ.get("WANDB_MODE") or wandb.setup().settings.mode
    if mode == "offline":
        there = sorted(Path(wandb.setup().settings.wandb_dir).glob(f"offline-run-*-{glob.escape(target.id)}"))
        folder = there[0] if there else _written(run, target, rows, files, progress)
        return Sync(target, len(rows), 0 if there else len(rows), not there, folder)
    if mode != "online":
        raise SyncError(f"expected WANDB_MODE online or offline, got {mode}: unset it")
    target = target._replace(entity=target.entity or _asked(target, own_entity))
    known = _asked(target, lambda: known_run(str(target)))
    missing = _missing(run, target, rows, known)
    attached = known is None or not known.has_file(files[0])
    facts = door.headline(run)
    if missing or attached or known is None or not known.shows(facts):
        _asked(target, lambda: _send(run, target, missing, files if attached else [], known, timeout_s, progress))
        _check(target, rows, files[0])
    return Sync(target, len(rows), len(missing), attached, None)


def _missing(run: Run, target: Target, rows: list[Row], known: KnownRun | None) -> list[Row]:
    if known is None:
        return rows
    if run.end is None and known.state == "running":
        raise SyncError(f"expected a run that has ended, W&B says that {target} is running: wait, or name another run")
    if known.keys and not known.keys & {key_of(row) for row in rows}:
        raise SyncError(f"expected the rows of {run.path} in {target}, which has those of another run: name another")
    return [row for row in rows if key_of(row) not in known.keys]


def _send(
    run: Run,
    target: Target,
    rows: list[Row],
    files: list[Path],
    known: KnownRun | None,
    timeout_s: float,
    progress: Progress,
) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options = {"dir": folder, "mode": "online", "resume": "allow"}
        limits = {"init_timeout": _INIT_S, "finish_timeout": timeout_s, "finish_timeout_raises": True}
        sending = _begun(run, target, options, limits, new=known is None)
        for name, more in known.declared.items() if known is not None else ():
            sending.define_metric(name, **more)
        _replay(run, sending, rows, files, progress)
        sending.finish(exit_code=_exit_code(run))


def _written(run: Run, target: Target, rows: list[Row], files: list[Path], progress: Progress) -> Path:
    """Write all rows as an offline run, and tell its folder."""
    sending = _begun(run, target, {"mode": "offline"}, {}, new=True)
    folder = Path(sending.dir).parent
    _replay(run, sending, rows, files, progress)
    sending.finish(exit_code=_exit_code(run))
    return folder


def _begun(run: Run, target: Target, options: Mapping[str, Any], limits: Mapping[str, Any], *, new: bool) -> Any:
    """Open the W&B run; nothing of this machine or this program is logged with it."""
    import wandb

    wanted = {**limits, "console": "off", "silent": True, "disable_git": True, "disable_code": True}
    wanted |= dict.fromkeys(("x_disable_stats", "x_disable_machine_info"), True)
    settings = wandb.Settings(**{name: value for name, value in wanted.items() if name in wandb.Settings.model_fields})
    described: dict[str, Any] = {"name": run.name, "config": _configuration(run)} if new else {}
    return wandb.init(**target._asdict(), settings=settings, **described, **options)


def _replay(run: Run, sending: Any, rows: list[Row], files: list[Path], progress: Progress) -> None:
    door.declare_metrics(sending)
    door.declare(sending, sorted({name for row in replayed(run) for name in row} - set(REGISTRY)))
    for row in progress(rows):
        sending.log(door.prefixed(row))
    facts = door.headline(run)
    door.summarize(sending, facts)
    if files:
        door.attach(sending, files, facts)
        log_charts(sending, run)


def _check(target: Target, rows: list[Row], book: Path) -> None:
    """Hold what the server has against the book: its client says "synced" whatever happened."""
    wanted, end = {key_of(row) for row in rows}, time.monotonic() + _SEEN_S
    while True:
        known = _asked(target, lambda: known_run(str(target)))
        there = wanted & known.keys if known is not None else set()
        if known is not None and there == wanted and known.has_file(book):
            return
        if time.monotonic() > end:
            lacks = "the book" if there == wanted else f"{len(wanted - there):,} of {len(wanted):,} rows"
            raise SyncError(f"expected all of the book in {target}, W&B does not show {lacks}: run the command again")
        time.sleep(1.0)


def _configuration(run: Run) -> dict[str, Any]:
    """The configuration that the bundle holds, with the options of module and data at the top, as loggers show them."""
    path = Path(run.path).with_name(BUNDLE_NAME)
    try:
        found = json.loads(Bundle.read(path).files.get("config.json", b"{}"))
    except (BundleError, OSError, ValueError, RecursionError):
        found = {}
    plain = dict(found) if isinstance(found, dict) else {}
    parts = [plain.pop(name) for name in ("data", "module") if isinstance(plain.get(name), dict)]
    return {**plain, **{name: value for part in parts for name, value in part.items()}}


def _id_of(book: Path) -> str:
    """Name a run by the first two lines of its book, which never change: facts, and the first sums with their time."""
    with book.open("rb") as file:
        first = file.readline() + file.readline()
    return "book-" + hashlib.sha256(first).hexdigest()[:16]


def _exit_code(run: Run) -> int:
    return 0 if run.status in ("completed", "imported") else 1


def _asked(target: Target, ask: Callable[[], T]) -> T:
    """Deal with W&B; whatever its server or its client says is one line."""
    try:
        return ask()
    except SyncError:
        raise
    except Exception as error:  # the client has no common base for what can go wrong
        told = " ".join(str(error).split()) or type(error).__name__
        raise SyncError(
            f"expected to reach {target} on W&B, got {told:.200}: the book has it all, try again"
        ) from error
