"""Commands that look at runs: `show`, `compare`, `shared`, `report`, `forecast`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prequential.cli.printing import as_json_option, print_json, print_view

if TYPE_CHECKING:
    from prequential.comparison import Comparison
    from prequential.run import Run

_ENDINGS = ("html", "png", "svg", "pdf", "csv", "json")


def comparing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `compare`."""
    options = (
        click.option("--common-prefix", is_flag=True, help="Compare the tokens that all runs have seen."),
        click.option("--force", is_flag=True, help="Compare what is not comparable, and mark the result."),
        click.option(
            "--best-of",
            type=int,
            metavar="N",
            help="Charge the first for having been chosen among N runs: log2 N bits.",
        ),
        click.option(
            "--group-by", metavar="KEY", help="Group runs by a setting of the book's head or the bundle: module.width."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("run")
@as_json_option
def show(run: str, as_json: bool) -> None:
    """Show the balance sheet of a RUN.

    What was coded, what it cost, and how far to trust it.
    """
    from prequential.sources import load_run

    loaded = load_run(run)
    from prequential import views

    print_json(views.run_record(loaded)) if as_json else print_view(views.run_table(loaded))


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...")
@comparing_options
@as_json_option
def compare(runs: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Compare runs on the same data.

    Which describes it in fewer bytes, whether the difference is noise, from which token on it leads, and how much of it
    is program.
    """
    if len(runs) < 2:
        raise click.UsageError("expected two runs or more, got one: name what to compare it with")
    comparison = _compared([_loaded(run) for run in runs], options)
    assert comparison is not None
    from prequential import views

    print_json(views.comparison_record(comparison)) if as_json else print_view(views.comparison_table(comparison))


@click.command()
@click.argument("alone")
@click.argument("after")
@click.option("--source", "sources", multiple=True, metavar="NAME", help="A source of D2, where AFTER has several.")
@click.option("--from-token", type=int, metavar="N", help="Token of AFTER at which D2 begins.")
@as_json_option
def shared(alone: str, after: str, sources: tuple[str, ...], from_token: int | None, as_json: bool) -> None:
    """Measure how much of data D2 a model knows that has learnt from D1.

    ALONE is a run on D2, AFTER one on D1, then D2: K(D2) - K(D2 | D1) is the information that they share. Which part of
    AFTER is D2 is known by the sources of its rows, or by its rows after as many tokens; else say --from-token.
    """
    if sources and from_token is not None:
        raise click.UsageError("expected --source or --from-token, got both: give the one by which D2 is known")
    from prequential import views
    from prequential.comparison import shared as shared_by

    found = shared_by(_loaded(alone), _loaded(after), sources=sources or None, from_token=from_token)
    print_json(views.shared_record(found)) if as_json else print_view(views.shared_table(found))


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    help="Where to write: .html, .png, .svg, .pdf, .csv or .json.",
)
@comparing_options
def report(runs: tuple[str, ...], output: str, **options: Any) -> None:
    """Write RUNs as one page with charts, as a picture, or as numbers.

    A .html file holds everything and opens without a network; .png, .svg and .pdf hold the charts, .csv the curves,
    .json the curves and all that tables show.
    """
    kind = Path(output).suffix.removeprefix(".")
    if kind not in _ENDINGS:
        listed = ", ".join(f".{ending}" for ending in _ENDINGS[:-1])
        raise click.UsageError(f"expected a file that ends in {listed} or .{_ENDINGS[-1]}, got {output}: name one")
    loaded = [_loaded(run) for run in runs]
    comparison = _compared(loaded, options)
    ranked = loaded if comparison is None else [row.run for row in comparison.rows]
    Path(output).write_bytes(_written(kind, ranked, comparison))


def _written(kind: str, runs: list[Run], comparison: Comparison | None) -> bytes:
    if kind == "csv":
        from prequential.views.export import curves_csv

        return curves_csv(runs).encode()
    if kind == "json":
        import json

        from prequential.views.export import report_record

        return json.dumps(report_record(runs, comparison), allow_nan=False).encode()
    from prequential.views.page import page, picture

    return page(runs, comparison).encode() if kind == "html" else picture(runs, kind, comparison)


@click.command()
@click.argument("run")
@click.option("--tokens", type=int, metavar="N", help="Tokens at the end of the data. Default: as planned, if known.")
@click.option("--raw-bytes", type=int, metavar="N", help="Raw bytes of the whole data. Default: in proportion.")
@click.option("--confidence", type=float, default=0.9, show_default=True, metavar="P", help="Of the interval.")
@click.option(
    "--decay-share", type=float, metavar="S", help="Last share of the run over which the rate decays, if any."
)
@as_json_option
def forecast(run: str, tokens: int | None, raw_bytes: int | None, as_json: bool, **options: float | None) -> None:
    """Forecast the size of a RUN's data at its end.

    What was seen is a sum; the rest is an estimate with an interval, from a law fitted to the loss curve.
    """
    from prequential import views
    from prequential.errors import CurveError
    from prequential.forecast import forecast_run

    loaded = _loaded(run)
    total_tokens = loaded.planned_tokens if tokens is None else tokens
    if total_tokens is None:
        raise CurveError(f"expected --tokens N: {loaded.path} does not say how many tokens the run is to code")
    found = forecast_run(loaded, total_tokens, raw_bytes=raw_bytes, **options)
    print_json(views.forecast_record(loaded, found)) if as_json else print_view(views.forecast_table(loaded, found))


def _loaded(run: str) -> Run:
    from prequential.sources import load_run

    return load_run(run)


def _compared(runs: list[Run], options: dict[str, Any]) -> Comparison | None:
    """Compare several runs; one is no comparison."""
    from prequential.comparison import compare as compared

    return compared(runs, **options) if len(runs) > 1 else None
