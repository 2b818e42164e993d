"""Tables for the terminal: the balance sheet of one run, and runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from prequential.codelength import nats_to_bits
from prequential.comparison import Comparison, Row, Verdict, known_quantities
from prequential.run import Run
from prequential.views.figures import UNKNOWN, cost, count, gain, safe

Quantities = dict[str, float | int | None]

_ESTIMATES = ("estimate", "surrogate")
_FREE = "free"
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
    values = known_quantities(run)
    events = [f"step {event.get('step')}: {event['message']}" for event in run.events]
    parts: list[RenderableType] = [_headline(run, values), _balance(run, values), _ratios(values)]
    if run.sources:
        parts.append(_by_source(run))
    if run.header.get("baselines"):
        parts.append(_beside_baselines(run, values))
    parts += [Text(), _trust(run), listed("Events", events), listed("Warnings", run.warnings)]
    return Group(*parts)


def comparison_table(comparison: Comparison) -> RenderableType:
    """Put runs side by side, shortest description first, then the verdict in a sentence and what to know beside it.

    Args:
        comparison: What `compare` found.

    Returns:
        Something for `rich` to print.
    """
    rows = comparison.rows
    raw = any(row.quantities["raw_bytes"] is not None for row in rows)
    headings = ("run", "bundle", "data code", "total", "ratio", f"bits/\n{'byte' if raw else 'token'}", "final\nloss")
    lines = [(row.quantities["compressed_bytes"] or 0, _compared(row, raw=raw)) for row in rows]
    lines += [(values["compressed_bytes"] or 0, _code(name, values)) for name, values in comparison.baselines.items()]
    table = figures_table(headings, [cells for _, cells in sorted(lines, key=lambda line: line[0])])
    ratio = "raw" if raw else "uniform"
    units = Text(f"Bytes, rounded up; ratio of {ratio} to total bytes; final loss in nats a token.", style="dim")
    sentence = _sentence(rows[0].name, comparison.verdict)
    return Group(table, units, Text(), sentence, Text(), listed("Notes", comparison.notes))


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


def _headline(run: Run, values: Quantities) -> Text:
    """State the total and the two halves of the formula."""
    name, status = safe(run.name), safe(run.status)
    data_bits = [values[part] for part in ("data_bits", "uncoded_bits")]
    data = _bytes(sum(bits for bits in data_bits if bits is not None))
    total = Text(f"{cost(values['compressed_bytes'])} compressed bytes", style="bold")
    halves = f" = {data} data code + {count(values['bundle_bytes'])} bundle{_estimate(run)}"
    return Text.assemble(name, " (", status, ")\n", total, halves)


def _estimate(run: Run) -> str:
    return " (estimate)" if run.grade in _ESTIMATES else ""


def _bytes(bits: float | int | None) -> str:
    return cost(None if bits is None else bits / 8)


def _balance(run: Run, values: Quantities) -> RenderableType:
    """Show every column of the accounting: the token positions add up to those fed, the charges to the total."""
    tally, rule = run.total, run.bundle.get("rule")
    bundle_bytes = values["bundle_bytes"]
    bundle_bits = None if bundle_bytes is None else 8 * bundle_bytes

    def charged(label: str, tokens: str, bits: float | int | None) -> tuple[str, str, str, str]:
        return label, tokens, cost(bits), _bytes(bits)

    rows: list[Sequence[str | Text]] = [
        charged("coded", count(tally.coded_tokens), values["data_bits"]),
        charged("uncoded", count(tally.uncoded_tokens), values["uncoded_bits"]),
        *((safe(name), "", cost(bits), _bytes(bits)) for name, bits in run.charges.items()),
        (safe(f"bundle ({rule})" if rule else "bundle"), "", count(bundle_bits), count(bundle_bytes)),
        charged("total", count(tally.tokens), values["description_bits"]),
        ("replayed", count(tally.replayed_tokens), _FREE, _FREE),
        ("masked", count(tally.masked_tokens), _FREE, _FREE),
        ("padding", count(tally.padding_tokens), _FREE, _FREE),
        ("positions fed", count(tally.positions), "", ""),
        ("non-finite (in coded)", count(tally.nonfinite_tokens), "", ""),
    ]
    return figures_table(("", "tokens", "bits", "bytes"), rows, bold="total")


def _ratios(values: Quantities) -> Table:
    """List what is divided from the sums, each with its unit."""
    rows = [
        ("raw bytes", count(values["raw_bytes"]), "of the source data"),
        ("compression ratio", gain(values["compression_ratio"], 3), "raw over compressed bytes"),
        ("bits per byte", cost(values["bits_per_byte"], 4), "coded and uncoded, without the bundle"),
        ("bits per token", cost(values["bits_per_token"], 4), "of coded tokens"),
        ("final loss", cost(values["final_nats_per_token"], 4), "nats a token, last 5 % of the tokens"),
        ("uniform code", cost(values["uniform_bytes"]), "bytes, log2 V bits a token"),
        ("ratio to uniform", gain(values["uniform_ratio"], 3), "uniform over compressed bytes"),
    ]
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "left"):
        table.add_column(justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _beside_baselines(run: Run, values: Quantities) -> RenderableType:
    """Show the same data under other codes, this run placed among them by size."""
    this_run = f"this run{_estimate(run)}"
    sizes = [(safe(name), float(size)) for name, size in run.header["baselines"].items()]
    sizes.append((Text(this_run), float(values["compressed_bytes"] or 0)))
    rows = [(name, cost(size)) for name, size in sorted(sizes, key=lambda pair: pair[1])]
    note = Text("Programs that unpack the others are public and not counted; the bundle is.", style="dim")
    return Group(figures_table(("same data under", "bytes"), rows, bold=this_run), note)


def _by_source(run: Run) -> RenderableType:
    """Show which data is being learnt and which is noise: a line a source, the costliest first."""
    rows = []
    for name, tally in sorted(run.sources.items(), key=lambda item: -item[1].nats):
        own = run.measured(tally)
        rate = cost(own["bits_per_byte"] if run.bytes_known else own["bits_per_token"], 4)
        raw = count(own["raw_bytes"])
        rows.append((safe(name), count(tally.coded_tokens), raw, _bytes(own["data_bits"]), rate))
    unit = "byte" if run.bytes_known else "token"
    note = Text("First tokens of rows, which nothing predicts, are not in these lines.", style="dim")
    return Group(figures_table(("source", "coded", "raw bytes", "data code", f"bits/{unit}"), rows), note)


def _trust(run: Run) -> Table:
    """Tell how far the number is proved."""
    answer, reasons = run.single_pass
    return pairs(
        [
            ("length", run.length),
            ("grade", run.grade),
            *([("given weights", run.given_weights)] if run.given_weights else []),
            ("single pass", answer + (f": {'; '.join(reasons)}" if reasons else "")),
            ("measured by", run.header.get("measure") or UNKNOWN),
            *_modes(run),
            ("bundle", run.bundle.get("sha256") or "left out: the total lacks the training program"),
            ("book", run.path),
        ]
    )


def _modes(run: Run) -> list[tuple[str, str]]:
    """Say in which mode micro-batches were scored, where it was asked for."""
    if run.header.get("rescore") == "eval":
        return [("scored in", "evaluation mode")]
    if run.rescored is None:
        return []
    data, error = (nats_to_bits(run.rescored[name]) / 8 for name in ("nats", "standard_error"))
    drawn = f"from {run.rescored['batches']:,.0f} micro-batches, drawn with probability {run.rescored['share']:g}"
    words = f"an estimate of {cost(data)} bytes of data code, standard error {cost(error, 1)}, {drawn}"
    return [("scored in", "training mode"), ("in evaluation mode", words)]


def _compared(row: Row, *, raw: bool) -> tuple[str | Text, ...]:
    """Fill a line of the comparison; where raw bytes are unknown, against the uniform code and for each token."""
    values = row.quantities
    return (
        safe(row.name + _estimate(row.run)),
        count(values["bundle_bytes"]),
        _bytes(values["data_bits"]),
        cost(values["compressed_bytes"]),
        gain(values["compression_ratio" if raw else "uniform_ratio"], 3),
        cost(values["bits_per_byte" if raw else "bits_per_token"], 4),
        cost(values["final_nats_per_token"], 4),
    )


def _code(name: str, values: Quantities) -> tuple[str | Text, ...]:
    """Write another code of the same data: no bundle, no loss."""
    ratio, rate = gain(values["compression_ratio"], 3), cost(values["bits_per_byte"], 4)
    return safe(name), "", "", cost(values["compressed_bytes"]), ratio, rate, ""


def _sentence(best: str, verdict: Verdict) -> Text:
    """State the verdict; the difference is rounded down and its interval outwards."""
    interval = "no interval"
    if verdict.interval_bytes is not None:
        low, high = verdict.interval_bytes
        interval = f"95 % interval {gain(low)} to {cost(high)}"
    difference = gain(verdict.difference_bytes)
    if verdict.winner is None:
        words = f"Tie: {best} needs {difference} bytes less than {verdict.rival}, within noise ({interval})."
    else:
        words = f"Winner: {verdict.winner}, by {difference} bytes over {verdict.rival} ({interval})."
    return Text(safe(words).plain, style="bold")
