"""The command line: arguments, exit codes, and nothing else.

Exit code 0; 1 with one line on stderr for input that cannot be used; 2 for a wrong call. Each command imports what it
needs when it runs, so that ``prequential --help`` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prequential.errors import PrequentialError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from prequential.bundle import Bundle

# Data above this size takes so long to compress that a person wants to see it move.
_LONG_BYTES = 5_000_000
# Without a terminal there is no width to keep to: as wide as names need.
_PIPED_WIDTH = 120


class _Commands(click.Group):
    """Turns what can go wrong with input into one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors of this package and of the file system end in one line."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader has seen enough; click ends the program quietly
            raise
        except PrequentialError as error:
            raise click.ClickException(_one_line(str(error))) from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(_one_line(f"{where}{error.strerror or error}")) from error
        except MemoryError as error:
            raise click.ClickException("expected input that fits into memory, ran out of it") from error


_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="prequential", prog_name="prequential")
def main() -> None:
    """Measure how well a training run compresses its data.

    RUN is a book, or a folder with one book in or below it; or a log: a CSV file, TensorBoard events, a W&B offline
    directory, wandb:entity/project/id.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot write a dash gets a question mark, not a crash
            stream.reconfigure(errors="replace")


@main.command()
@click.argument("run")
@_as_json
def show(run: str, as_json: bool) -> None:
    """Show the balance sheet of a RUN.

    What was coded, what it cost, and how far to trust it.
    """
    from prequential.sources import load_run

    loaded = load_run(run)
    from prequential import views

    _print(views.run_record(loaded)) if as_json else _show(views.run_table(loaded))


@main.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...")
@click.option(
    "--common-prefix", is_flag=True, help="Compare the tokens that all runs have seen, where their books allow."
)
@_as_json
def compare(runs: tuple[str, ...], common_prefix: bool, as_json: bool) -> None:
    """Compare runs on the same data.

    Which describes it in fewer bytes, and whether the difference is noise.
    """
    if len(runs) < 2:
        raise click.UsageError("expected two runs or more, got one: name what to compare it with")
    from prequential import views
    from prequential.comparison import compare as compared
    from prequential.sources import load_run

    comparison = compared([load_run(run) for run in runs], common_prefix=common_prefix)
    _print(views.comparison_record(comparison)) if as_json else _show(views.comparison_table(comparison))


@main.command("import")
@click.argument("log")
@click.option("-o", "--output", required=True, metavar="FOLDER", help="Where to write the book.")
@click.option("--loss-column", metavar="NAME", help="Column of the loss, in nats a token.")
@click.option("--tokens-column", metavar="NAME", help="Column of the tokens up to and including the step.")
@click.option("--step-column", metavar="NAME", help="Column of the optimiser steps.")
@click.option("--tokens-per-step", type=int, metavar="N", help="Tokens of one step.")
@click.option("--measured-share", type=float, metavar="S", help="Share of a step that the loss was measured on.")
@click.option("--averaged", is_flag=True, help="A logged loss is the mean since the row before.")
@click.option("--bytes-per-token", type=float, metavar="B", help="Raw bytes that a token stands for.")
@click.option("--vocab-size", type=int, metavar="V", help="Number of symbols, for the uniform code.")
@click.option("--name", metavar="NAME", help="Name of the run in tables.")
@click.option("--data-name", metavar="NAME", help="Declared name of the data, to compare by.")
@_as_json
def import_(log: str, output: str, as_json: bool, **said: Any) -> None:
    """Write the run of a LOG as a book.

    LOG is a CSV file, TensorBoard events, a W&B offline directory, or wandb:entity/project/id. A run that was never
    instrumented is estimated from its loss curve, and the table says how far the estimate may be off.
    """
    from prequential.sources import import_run
    from prequential.sources.reading import Reading

    loaded = import_run(log, output, Reading.of_options(**said))
    from prequential import views

    _print(views.run_record(loaded)) if as_json else _show(views.run_table(loaded))


@main.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("-o", "--output", required=True, metavar="FILE", help="Where to write: .html, .png, .svg or .pdf.")
@click.option("--common-prefix", is_flag=True, help="Compare the tokens that all runs have seen.")
def report(runs: tuple[str, ...], output: str, common_prefix: bool) -> None:
    """Write RUNs as one page with charts, or as a picture.

    A .html file holds everything and opens without a network; .png, .svg and .pdf hold the charts.
    """
    from prequential.comparison import compare as compared
    from prequential.sources import load_run
    from prequential.views.page import page, picture

    kind = Path(output).suffix.removeprefix(".")
    if kind not in ("html", "png", "svg", "pdf"):
        raise click.UsageError(f"expected a file that ends in .html, .png, .svg or .pdf, got {output}: name one")
    loaded = [load_run(run) for run in runs]
    comparison = compared(loaded, common_prefix=common_prefix) if len(loaded) > 1 else None
    ranked = loaded if comparison is None else [row.run for row in comparison.rows]
    content = page(ranked, comparison).encode() if kind == "html" else picture(ranked, kind)
    Path(output).write_bytes(content)


@main.command()
@click.argument("run")
@click.argument("name")
@click.argument("bits", type=float)
@_as_json
def charge(run: str, name: str, bits: float, as_json: bool) -> None:
    """Charge a RUN for a choice made with sight of the data.

    NAME says what was chosen, BITS what it costs: prequential charge RUN "best of 8 runs" 3
    """
    from prequential import views
    from prequential.ledger import charge_book
    from prequential.sources import load_run

    path = load_run(run).path
    charge_book(path, name, bits)
    loaded = load_run(path)
    _print(views.run_record(loaded)) if as_json else _show(views.run_table(loaded))


@main.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("-o", "--output", metavar="FILE", help="Write the packed bundle there as well.")
@_as_json
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
    _print(views.bundle_record(manifest)) if as_json else _show(views.bundle_table(manifest))


@main.command(context_settings={"allow_interspersed_args": False})
@_as_json
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
    _print(report) if as_json else _show(views.audit_table(report))
    context.exit(0 if report["verdict"] == PASSED else 1)


@main.command()
@click.argument("file", metavar="FILE")
@_as_json
def baselines(file: str, as_json: bool) -> None:
    """Show the sizes that a run has to beat.

    FILE (- for standard input) is compressed with gzip, bzip2, xz and zstd.
    """
    from prequential import views
    from prequential.baselines import baselines as sizes_of

    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    progress = (lambda name: click.echo(f"{name} ...", err=True)) if len(data) > _LONG_BYTES else None
    sizes = sizes_of(data, progress=progress)
    _print({"raw_bytes": len(data), "baselines": sizes}) if as_json else _show(views.baselines_table(sizes))


def _found_bundle(paths: tuple[str, ...]) -> Bundle:
    from prequential.bundle import Bundle

    if len(paths) == 1 and paths[0].endswith(".py"):
        return Bundle.discover(main=paths[0])
    return Bundle.of([Path(path) for path in paths or (".",)])


def _print(record: dict[str, Any]) -> None:
    click.echo(json.dumps(record, indent=2, allow_nan=False))


def _show(renderable: RenderableType) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPED_WIDTH
    console.print(renderable, crop=False)


def _one_line(message: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
