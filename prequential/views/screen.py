"""A run that is going on, as one screen of a terminal: how far it is, what it costs, what it will come to, its curve.

Weight and dimness are all that tells things apart, so that it is read on a dark and on a light ground.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from prequential.progress import Progress
from prequential.run import Run
from prequential.series import series
from prequential.views import ahead, sheet
from prequential.views.braille import characters, dots
from prequential.views.figures import UNKNOWN, cost, gain, safe
from prequential.views.table import figures_table

_CHART_LINES = 8
_LEAST_CHART_LINES = 3
_AROUND_CHART = 2
_LABEL = 7
_BAR = 16
_QUIET_S = 60.0


class Screen:
    """One screen for `rich` to draw, as high as the terminal.

    Args:
        run: The run so far.
        progress: What `progress_of` makes of it.
        quiet_s: Seconds since its book last grew.
        fill: Whether to be as high as the terminal; else all lines are drawn, and a small curve.
    """

    def __init__(self, run: Run, progress: Progress, quiet_s: float = 0.0, *, fill: bool = False) -> None:
        self.run, self.progress, self.quiet_s, self.fill = run, progress, quiet_s, fill

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the lines of fixed height first; the curve takes what they leave."""
        above, events = _lines(console, options, self._above()), _lines(console, options, self._events())
        below = console.render_lines(self._balance(), options.update(height=None), pad=False)
        room, height = _CHART_LINES, None
        if self.fill:
            height = options.max_height
            room = height - len(above) - len(below) - _AROUND_CHART
            events = events[-min(len(events), max(1, room - 2 * _CHART_LINES)) :]
            room -= len(events)
        chart = _lines(console, options, self._chart(options.max_width, room)) if room >= _LEAST_CHART_LINES else []
        for number, line in enumerate([*above, *chart, *below, *events][:height]):
            yield from [Segment.line()] * (number > 0)
            yield from line

    def _balance(self) -> Table:
        """Draw the rows of the balance sheet that have tokens or bytes in them."""
        rows: list[list[str | Text]] = [[safe(row[0]), *row[1:]] for row in sheet.balance(self.run) if row[1] != "0"]
        return figures_table(("", "tokens", "bits", "bytes"), rows, bold=sheet.TOTAL)

    def _above(self) -> list[Text]:
        run = self.run
        total, halves = sheet.headline(run)
        quiet = f", nothing new for {duration(self.quiet_s)}" if run.end is None and self.quiet_s >= _QUIET_S else ""
        values = {name: (value, unit) for name, value, unit in sheet.ratios(run)}
        rate = "bits per byte" if run.bytes_known else "bits per token"
        ratio = "compression ratio" if run.bytes_known else "ratio to uniform"
        lines = [
            Text.assemble(safe(run.name), f" ({safe(run.status)}{quiet})", (f"  {safe(run.path)}", "dim")),
            Text.assemble((total, "bold"), f" = {halves}"),
            Text(f"{ratio} {values[ratio][0]}, {rate} {values[rate][0]}, final loss {values['final loss'][0]}"),
            self._way(),
        ]
        if self.progress.forecast is not None:
            lines.append(Text(f"at the end: {ahead.sentence(self.progress.forecast)}"))
        elif self.progress.why_not is not None and run.end is None:
            lines.append(Text(f"no forecast: {safe(self.progress.why_not)}", style="dim"))
        return lines

    def _way(self) -> Text:
        """Say how far the run is."""
        progress = self.progress
        words = f"{short(progress.tokens)} tokens in {duration(progress.elapsed_s)}"
        if progress.planned_tokens is None:
            return Text(words)
        share = min(1.0, progress.tokens / progress.planned_tokens)
        full = math.floor(_BAR * share)
        words = (
            f" {ahead.percent(progress.tokens, progress.planned_tokens)}, {words} of {short(progress.planned_tokens)}"
        )
        if progress.remaining_s is not None and self.run.end is None:
            words += f", about {duration(progress.remaining_s)} left"
        return Text.assemble("━" * full, ("─" * (_BAR - full), "dim"), words)

    def _events(self) -> list[Text]:
        notes = [f"step {event.get('step')}: {event['message']}" for event in self.run.events]
        return [
            Text(safe(note).plain, style="dim", overflow="ellipsis", no_wrap=True)
            for note in [*self.run.warnings, *notes]
        ]

    def _chart(self, width: int, height: int) -> list[Text]:
        """Draw bits a byte, or a token, over the logarithm of the tokens."""
        columns = series(self.run)
        kept = np.isfinite(columns.bits_per_unit) & np.isfinite(columns.running_bits_per_unit)
        unit = "byte" if self.run.bytes_known else "token"
        title = Text.assemble(f"bits per {unit}: ", ("all so far", "bold"), ", ", ("each interval", "dim"))
        if not kept.any():
            return [title, *[Text()] * (height + 1)]
        places = np.log(columns.tokens[kept])
        curves = columns.running_bits_per_unit[kept], columns.bits_per_unit[kept]
        low, high = float(min(map(np.min, curves))), float(max(map(np.max, curves)))
        box, inner = (float(places[0]), float(places[-1]), low, high), width - _LABEL
        drawn = [dots(places, curve, box, inner, height) for curve in curves]
        bold, both = characters(drawn[0]), characters(drawn[0] | drawn[1])
        labels = [cost(high, 2), *[""] * (height - 2), gain(low, 2)]
        lines = [_chart_line(*line) for line in zip(labels, bold, both, strict=True)]
        ends = short(columns.tokens[kept][0]), f"{short(columns.tokens[kept][-1])} tokens (log)"
        return [title, *lines, Text(" " * _LABEL + ends[0] + ends[1].rjust(inner - len(ends[0])), style="dim")]


def duration(seconds: float) -> str:
    """Write seconds as hours, minutes and seconds."""
    minutes, rest = divmod(math.floor(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def short(number: float | None) -> str:
    """Write a number of tokens in three digits."""
    if number is None:
        return UNKNOWN
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g}{letter}"
    return f"{number:g}"


def _chart_line(label: str, bold: str, both: str) -> Text:
    line = Text(label.rjust(_LABEL - 1)[: _LABEL - 1] + " ")
    for main, character in zip(bold, both, strict=True):
        line.append(character, "bold" if main != " " else "dim")
    return line


def _lines(console: Console, options: ConsoleOptions, texts: Sequence[Text]) -> list[list[Segment]]:
    fixed = options.update(height=None)
    return [line for text in texts for line in console.render_lines(text, fixed, pad=False)]
