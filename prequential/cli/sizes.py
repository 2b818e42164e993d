"""Commands about figures without a run: `baselines` of a file, `estimate` of what was published."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import click

from prequential.cli.printing import as_json_option, print_json, print_view

# Data above this size takes so long to compress that a person wants to see it move.
_LONG_BYTES = 5_000_000


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--run", metavar="RUN", help="A decoded run over the file, to be put beside them with its whole total.")
@as_json_option
def baselines(file: str, run: str | None, as_json: bool) -> None:
    """Show the sizes that a run has to beat.

    FILE (- for standard input) is compressed with gzip, bzip2, xz and zstd, and with brotli and PPMd where their
    packages are installed. None is charged for its program; a run is charged for its bundle.
    """
    from prequential import views
    from prequential.baselines import baselines as sizes_of

    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    progress = (lambda name: click.echo(f"{name} ...", err=True)) if len(data) > _LONG_BYTES else None
    sizes = sizes_of(data, progress=progress, more=True)
    if run is not None:
        sizes |= _decoded_size(run, data)
    print_json({"raw_bytes": len(data), "baselines": sizes}) if as_json else print_view(views.baselines_table(sizes))


def _decoded_size(place: str, data: bytes) -> dict[str, int]:
    """The certified total of a run over just these bytes, by its name."""
    from prequential.errors import ComparisonError
    from prequential.sources import load_run

    run = load_run(place)
    proof = run.certificate
    if proof is None:
        raise ComparisonError(f"expected a decoded run, got {run.name} of grade {run.grade}: verify it first")
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != proof["sha256"]:
        raise ComparisonError(
            f"expected the data of {run.name}, sha256 {proof['sha256'][:12]}, got a file with {sha256[:12]}: give the "
            "bytes that it coded"
        )
    return {f"{run.name}, decoded, with its bundle": proof["total_bytes"]}


@click.command()
@click.option("--tokens", type=float, required=True, metavar="N", help="Tokens trained on, once each, as 1.4e12.")
@click.option("--nats-per-token", type=float, required=True, metavar="L", help="Mean online loss, in nats.")
@click.option("--bundle-bytes", type=float, metavar="B", help="Size of the training program.")
@click.option("--raw-bytes", type=float, metavar="B", help="Size of the source data.")
@click.option("--name", metavar="NAME", help="Name of the run in tables.")
@click.option("--data-name", metavar="NAME", help="Declared name of the data, to compare by.")
@click.option("-o", "--output", metavar="FOLDER", help="Write a book there, for the other commands.")
@as_json_option
def estimate(output: str | None, as_json: bool, **figures: Any) -> None:
    """Estimate a description length from published figures.

    N tokens at L nats each, and the training program: no log, no curve, no proof.
    """
    from prequential.sources.published import published_run

    run = published_run(**figures)
    if output is not None:
        from prequential.sources.writing import write_book

        write_book(run, output)
    from prequential import views

    print_json(views.run_record(run)) if as_json else print_view(views.run_table(run))
