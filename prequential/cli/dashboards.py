"""The command about W&B's own pages: `dashboard`."""

from __future__ import annotations

import click


@click.command()
@click.argument("project", metavar="ENTITY/PROJECT")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--report", "with_report", is_flag=True, help="Write a report that compares the RUNs as well.")
def dashboard(project: str, runs: tuple[str, ...], with_report: bool) -> None:
    """Save a W&B workspace that shows how well runs compress.

    A section with sizes, rates, ratio, model bits and forecast over tokens, and a runs table with the totals. RUN is
    the id of a run of the project. Needs pip install "prequential[dashboard]" and a W&B login.
    """
    if runs and not with_report:
        raise click.UsageError("expected --report beside RUNs: the workspace shows all runs of the project")
    from prequential import dashboard as building
    from prequential.errors import DashboardError
    from prequential.views.wandb_chart import wandb_charts

    where = building.Project.parse(project)
    server = building.Server()
    templates = wandb_charts(server.baselines(where))
    try:
        charts = server.create_charts(where.entity, templates)
    except DashboardError as error:
        charts = {}
        click.echo(f"plain lines take the place of custom charts: {error}", err=True)
    click.echo(f"workspace {server.save(building.workspace(where, charts))}")
    if with_report:
        found = building.report(where, charts, runs, _comparison(project, runs))
        click.echo(f"report {server.save(found)}")


def _comparison(project: str, runs: tuple[str, ...]) -> str:
    """The verdict as Markdown, or why there is none."""
    from prequential.comparison import compare
    from prequential.errors import ComparisonError
    from prequential.sources import load_run
    from prequential.views.markdown import comparison_markdown, sentence_markdown

    if len(runs) < 2:
        return ""
    loaded = [load_run(f"wandb:{project}/{run}") for run in runs]
    try:
        return comparison_markdown(compare(loaded))
    except ComparisonError as error:
        return sentence_markdown(f"These runs are not compared: {error}")
