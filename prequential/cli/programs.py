"""Commands about training programs: `bundle`, `audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from prequential.cli.printing import as_json_option, print_json, print_view

if TYPE_CHECKING:
    from prequential.bundle import Bundle


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("-o", "--output", metavar="FILE", help="Write the packed bundle there as well.")
@as_json_option
def bundle(paths: tuple[str, ...], output: str | None, as_json: bool) -> None:
    """Pack a training program and count it.

    One .py PATH is a script: what it imports comes with it. Several PATHs or a folder are packed as they are; without
    a PATH, the current folder.
    """
    from prequential import views

    found = _found_bundle(paths)
    if output is not None:
        found.write(Path(output))
    manifest = found.manifest()
    print_json(views.bundle_record(manifest)) if as_json else print_view(views.bundle_table(manifest))


@click.command(context_settings={"allow_interspersed_args": False})
@as_json_option
@click.argument("script", metavar="SCRIPT")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGUMENT]...")
@click.pass_context
def audit(context: click.Context, script: str, arguments: tuple[str, ...], as_json: bool) -> None:
    """Audit a Lightning training SCRIPT up to its first update.

    Does its model see what it codes? Which losses are measured, and where does every position land? The script is run
    as it is, with its ARGUMENTs, and ended after its first optimiser step. Exit code 1 unless it passes.
    """
    from prequential import views
    from prequential.audit import PASSED, audit_script

    report = audit_script(script, arguments)
    print_json(report) if as_json else print_view(views.audit_table(report))
    context.exit(0 if report["verdict"] == PASSED else 1)


def _found_bundle(paths: tuple[str, ...]) -> Bundle:
    from prequential.bundle import Bundle

    if len(paths) == 1 and paths[0].endswith(".py"):
        return Bundle.discover(main=paths[0])
    return Bundle.of([Path(path) for path in paths or (".",)])
