"""A comparison as Markdown, for reports on other pages; what comes from outside is text there, and no markup."""

from __future__ import annotations

import re

from prequential.comparison import Comparison
from prequential.views import sheet
from prequential.views.figures import safe

_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~&$])")


def comparison_markdown(comparison: Comparison) -> str:
    """Write the table, what its figures are, the verdict, and the notes.

    Args:
        comparison: What `compare` found.
    """
    headings = [heading.replace("/\n", "/").replace("\n", " ") for heading in sheet.comparison_headings(comparison)]
    rows = [headings, ["---", *(["---:"] * (len(headings) - 1))], *sheet.compared(comparison)]
    table = "\n".join(
        f"| {' | '.join(cells if number == 1 else map(_text, cells))} |" for number, cells in enumerate(rows)
    )
    verdict = sentence_markdown(sheet.sentence(comparison.rows[0].name, comparison.verdict))
    notes = "\n".join(f"- {_text(note)}" for note in comparison.notes)
    return "\n\n".join([f"**{verdict}**", table, _text(sheet.comparison_units(comparison)), notes])


def sentence_markdown(sentence: str) -> str:
    """Write a sentence that may hold names from outside."""
    return _text(sentence)


def _text(text: str) -> str:
    return _MARKUP.sub(r"\\\1", safe(text).plain)
