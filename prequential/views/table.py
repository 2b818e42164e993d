"""Tables for the terminal: the balance sheet of one run, and runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from prequential.comparison import Comparison
from prequential.run import Run
from prequential.views import sheet
from prequential.views.figures import safe

# Between columns: a blank of padding and the box's own.
_GAP = 2
_LEAST_TEXT = 6


def run_table(run: Run) -> RenderableType:
    """Draw the balance sheet of a run: where each token and each byte went, what that makes, and how far to trust it.

    Args:
        run: The run, as `load_run` gives it.

    Returns:
        Something for `rich` to print; sizes are rounded up, ratios down, a dash is unknown.
    """
    events = [f"step {event.get('step')}: {event['message']}" for event in run.events]
    balance = _figures(("", "tokens", "bits", "bytes"), sheet.balance(run), bold=sheet.TOTAL)
    parts: list[RenderableType] = [_headline(run), balance, _ratios(run)]
    if run.sources:
        parts.append(_by_source(run))
    if run.header.get("baselines"):
        parts.append(_beside_baselines(run))
    parts += [Text(), pairs(sheet.trust(run)), listed("Events", events), listed("Warnings", run.warnings)]
    return Group(*parts)


def comparison_table(comparison: Comparison) -> RenderableType:
    """Put runs side by side, shortest description first, then the verdict in a sentence and what to know beside it.

    Args:
        comparison: What `compare` found.

    Returns:
        Something for `rich` to print.
    """
    first, *more = (Text(safe(line).plain) for line in sheet.verdict_lines(comparison))
    first.stylize("bold")
    if comparison.forced:
        more[0].stylize("bold")
    parts: list[RenderableType] = [
        _figures(sheet.comparison_headings(comparison), sheet.compared(comparison)),
        Text(sheet.comparison_units(comparison), style="dim"),
        *(_figures(sheet.group_headings(comparison), rows) for rows in [sheet.groups(comparison)] if rows),
        *(_figures(sheet.behind_headings(comparison), rows) for rows in [sheet.behind(comparison)] if rows),
        Text(),
        first,
        *more,
        Text(),
        listed("Forced, in spite of", sheet.forced(comparison)),
        listed("Notes", comparison.notes),
    ]
    return Group(*parts)


class WholeTable(Table):
    """A table that rather grows over the edge of a narrow terminal than lose a digit or a column."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw within the terminal's width, or the least that holds every figure, between blank lines."""
        least = sum((column.min_width or 0) + _GAP for column in self.columns)
        yield Text()
        yield from super().__rich_console__(console, options.update_width(max(options.max_width, least)))
        yield Text()


def figures_table(headings: Sequence[str], rows: Sequence[Sequence[str | Text]], *, bold: str | None = None) -> Table:
    """Draw one column of text, which folds, and columns of figures, which are never cut.

    Args:
        headings: One for each column.
        rows: As many cells each; a cell that may hold text from outside is made by `safe`.
        bold: Text of the first cell of the row to stress.
    """
    table = WholeTable(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, _GAP - 1, 0, 0))
    table.add_column(headings[0], overflow="fold", min_width=_LEAST_TEXT)
    for number, heading in enumerate(headings[1:], start=1):
        width = max(map(len, [*heading.split("\n"), *(row[number] for row in rows)]))
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    for row in rows:
        table.add_row(*row, style="bold" if str(row[0]) == bold else None)
    return table


def listed(heading: str, items: Iterable[str]) -> RenderableType:
    """Give a heading and a line for each item, which is text from outside; nothing if there are none."""
    rows = [Padding(safe(item), (0, 0, 0, 2)) for item in items]
    return Group(Text(heading, style="bold"), *rows) if rows else Group()


def pairs(rows: Iterable[tuple[str, object]]) -> Table:
    """Set labels beside facts, each of which may be text from outside."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, fact in rows:
        table.add_row(safe(label), safe(fact))
    return table


def _figures(headings: Sequence[str], rows: Iterable[sheet.Cells], *, bold: str | None = None) -> Table:
    """Draw rows of plain text, of which the first cell may come from outside."""
    return figures_table(headings, [(safe(first), *rest) for first, *rest in rows], bold=bold)


def _headline(run: Run) -> Text:
    total, halves = sheet.headline(run)
    name, status = safe(run.name), safe(run.status)
    return Text.assemble(name, " (", status, ")\n", Text(total, style="bold"), f" = {halves}")


def _ratios(run: Run) -> Table:
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "left"):
        table.add_column(justify=justify, overflow="fold")
    for row in sheet.ratios(run):
        table.add_row(*row)
    return table


def _by_source(run: Run) -> RenderableType:
    note = Text("First tokens of rows, which nothing predicts, are not in these lines.", style="dim")
    return Group(_figures(sheet.source_headings(run), sheet.by_source(run)), note)


def _beside_baselines(run: Run) -> RenderableType:
    """Show the same data under other codes, this run placed among them by size."""
    table = _figures(
        ("same data under", "bytes", "this run is\nshorter from"), sheet.beside_baselines(run), bold=sheet.THIS_RUN
    )
    note = (
        "Programs that unpack the others are public and not counted; the bundle is. Shorter from that token on, with "
    )
    note += "the bundle: an estimate, since a part of the data is taken to need its share of the other code."
    return Group(table, Text(note, style="dim"))
