"""Commands about data alone: `baselines`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from prequential.cli.printing import as_json_option, print_json, print_view

# Data above this size takes so long to compress that a person wants to see it move.
_LONG_BYTES = 5_000_000


@click.command()
@click.argument("file", metavar="FILE")
@as_json_option
def baselines(file: str, as_json: bool) -> None:
    """Show the sizes that a run has to beat.

    FILE (- for standard input) is compressed with gzip, bzip2, xz and zstd.
    """
    from prequential import views
    from prequential.baselines import baselines as sizes_of

    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    progress = (lambda name: click.echo(f"{name} ...", err=True)) if len(data) > _LONG_BYTES else None
    sizes = sizes_of(data, progress=progress)
    print_json({"raw_bytes": len(data), "baselines": sizes}) if as_json else print_view(views.baselines_table(sizes))
