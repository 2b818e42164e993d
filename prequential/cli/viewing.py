"""Commands that look at runs: `show`, `compare`, `report`, `forecast`."""

from __future__ import annotations

from pathlib import Path

import click

from prequential.cli.printing import as_json_option, print_json, print_view


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
@click.option(
    "--common-prefix", is_flag=True, help="Compare the tokens that all runs have seen, where their books allow."
)
@as_json_option
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
    print_json(views.comparison_record(comparison)) if as_json else print_view(views.comparison_table(comparison))


@click.command()
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
    from prequential.sources import load_run

    loaded = load_run(run)
    total_tokens = loaded.planned_tokens if tokens is None else tokens
    if total_tokens is None:
        raise CurveError(f"expected --tokens N: {loaded.path} does not say how many tokens the run is to code")
    found = forecast_run(loaded, total_tokens, raw_bytes=raw_bytes, **options)
    print_json(views.forecast_record(loaded, found)) if as_json else print_view(views.forecast_table(loaded, found))
