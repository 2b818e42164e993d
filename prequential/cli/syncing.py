"""The command that sends a book to W&B: `sync`."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from prequential.cli.printing import as_json_option, print_json
from prequential.errors import SyncError

if TYPE_CHECKING:
    from prequential.integrations.sync import Sync

_LONG_ROWS = 200
_END_S = 20


@click.command()
@click.argument("run")
@click.option("--run", "where", metavar="ENTITY/PROJECT/ID", help="The W&B run to send to, new or existing.")
@click.option("--project", metavar="P", help="Send to a run of its own in this project.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(1), default=600, show_default=True, metavar="SECONDS")
@as_json_option
def sync(run: str, where: str | None, project: str | None, timeout_s: float, as_json: bool) -> None:
    """Send to W&B what it lacks of a RUN.

    RUN is a book. Its rows, summary, book and bundle go to the W&B run of its training, unless told otherwise: what
    that run has already is not sent again. The upload is given up after --timeout. With WANDB_MODE=offline an offline
    run is written, for `wandb sync`.
    """
    if where is not None and project is not None:
        raise click.UsageError("expected --run or --project, got both: give one of them")
    os.environ.setdefault("WANDB_SILENT", "true")  # what its client says of success is not checked
    from prequential.integrations.sync import sync as send
    from prequential.integrations.sync import target_of
    from prequential.sources.book import find_book, run_from_book

    book = run_from_book(find_book(run))
    try:
        sent = send(book, target_of(book, where, project), timeout_s=timeout_s, progress=_shown)
    except SyncError:
        atexit.register(_end_soon)  # now, so that it comes before what W&B has registered
        raise
    if as_json:
        print_json(_record(sent))
    else:
        click.echo(_sentence(sent))


def _end_soon() -> None:
    """Bound the end of the program: W&B waits for its own process, which after failed requests does not always end."""
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
        signal.alarm(_END_S)


def _shown(rows: list[Any]) -> Iterable[Any]:
    return _counted(rows) if len(rows) > _LONG_ROWS else rows


def _counted(rows: list[Any]) -> Iterator[Any]:
    """Show on stderr how far it is."""
    with click.progressbar(rows, label="rows", file=sys.stderr) as bar:
        yield from bar


def _record(sent: Sync) -> dict[str, Any]:
    return {
        "run": str(sent.target),
        "rows": sent.rows,
        "sent_rows": sent.sent,
        "attached": sent.attached,
        "offline_folder": None if sent.folder is None else str(sent.folder),
    }


def _sentence(sent: Sync) -> str:
    if sent.folder is not None:
        was = "was written before, to" if not sent.sent else f"of {sent.rows:,} rows is in"
        return f"the offline run {was} {sent.folder}: wandb sync {sent.folder} sends it"
    if not sent.sent and not sent.attached:
        return f"W&B has all of it: {sent.rows:,} rows and the book are in {sent.target}"
    attached = "book and bundle" if sent.attached else "the book was there"
    return f"sent {sent.sent:,} of {sent.rows:,} rows, {attached}: W&B has all of it in {sent.target}"
