"""What every command prints with: one JSON object, or a view as wide as the terminal."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

# Without a terminal there is no width to keep to: as wide as names need.
_PIPED_WIDTH = 120

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")


def print_json(record: dict[str, Any]) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(record, indent=2, allow_nan=False))


def print_view(renderable: RenderableType) -> None:
    """Print tables."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPED_WIDTH
    console.print(renderable, crop=False)
