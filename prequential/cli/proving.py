"""Commands that give the data of a run back: `decode`, `verify`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prequential.cli.printing import as_json_option, print_json, print_view

if TYPE_CHECKING:
    from prequential.proof import Certificate
    from prequential.run import Run

_prefix = click.option(
    "--prefix", type=click.IntRange(min=1), metavar="STEPS", help="Stop after so many optimiser steps."
)


@click.command()
@click.argument("run", metavar="RUN")
@click.option("-o", "--output", metavar="FILE", required=True, help="Where the data goes.")
@_prefix
def decode(run: str, output: str, prefix: int | None) -> None:
    """Get the data of a run back from its bundle and its bitstream.

    The bundle's main script is started in an empty folder, with its recorded arguments, and trains again on what is
    decoded. It is the program of the run: decode runs of people you trust. Takes a forward pass a position of a row.
    """
    from prequential.sources import load_run

    certificate = _decoded(load_run(run), Path(output), prefix)
    click.echo(_said(certificate), err=True)


@click.command()
@click.argument("run", metavar="RUN")
@_prefix
@as_json_option
def verify(run: str, prefix: int | None, as_json: bool) -> None:
    """Decode a run and print the certificate.

    The data is compared with the hash in the book, which then says that the run was decoded. With --prefix, the
    parameters after the first steps are compared with those of the run, and the book stays as it is.
    """
    from prequential import views
    from prequential.proof import prove
    from prequential.sources import load_run

    loaded = load_run(run)
    with tempfile.TemporaryDirectory(prefix="prequential-") as folder:
        certificate = _decoded(loaded, Path(folder) / "data", prefix)
    if certificate.decoded:
        prove(loaded, certificate)
    record = certificate._asdict()
    print_json({"name": loaded.name, **record}) if as_json else print_view(views.certificate_table(loaded.name, record))


def _decoded(run: Run, output: Path, prefix: int | None) -> Certificate:
    from prequential.proof import decode

    return decode(run, output, prefix=prefix, progress=_progress(run))


def _progress(run: Run) -> Callable[[Mapping[str, Any]], None]:
    """Say first how long it will take, then how far it is."""
    began = False

    def progress(facts: Mapping[str, Any]) -> None:
        nonlocal began
        if not began:
            began = True
            click.echo(
                f"decoding {facts['of']:,} tokens of {run.name}: about {_time(facts['left_s'])} expected", err=True
            )
        if sys.stderr.isatty():
            share = 100 * facts["tokens"] / facts["of"]
            click.echo(f"\r{share:5.1f} %, {_time(facts['left_s'])} left   ", nl=False, err=True)

    return progress


def _said(certificate: Certificate) -> str:
    if certificate.decoded:
        return f"decoded {certificate.raw_bytes:,} bytes, sha256 {certificate.sha256}, as the book says"
    return (
        f"decoded {certificate.tokens:,} of {certificate.all_tokens:,} tokens; "
        "those that follow each other from the first on were written"
    )


def _time(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 100 else f"{seconds:.0f} s"
