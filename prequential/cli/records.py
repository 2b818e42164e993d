"""Commands that write books: `import`, `charge`."""

from __future__ import annotations

from typing import Any

import click

from prequential.cli.printing import as_json_option, print_json, print_view


@click.command("import")
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
@as_json_option
def import_(log: str, output: str, as_json: bool, **said: Any) -> None:
    """Write the run of a LOG as a book.

    LOG is a CSV file, TensorBoard events, a W&B offline directory, or wandb:entity/project/id. A run that was never
    instrumented is estimated from its loss curve, and the table says how far the estimate may be off.
    """
    from prequential.sources import import_run
    from prequential.sources.reading import Reading

    loaded = import_run(log, output, Reading.of_options(**said))
    from prequential import views

    print_json(views.run_record(loaded)) if as_json else print_view(views.run_table(loaded))


@click.command()
@click.argument("run")
@click.argument("name")
@click.argument("bits", type=float)
@as_json_option
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
    print_json(views.run_record(loaded)) if as_json else print_view(views.run_table(loaded))
