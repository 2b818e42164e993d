"""Pages of docs/reference that are written from the code: run this file to write them again."""

import inspect
from pathlib import Path

from click.testing import CliRunner

import prequential
from prequential import REGISTRY
from prequential.cli import main

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
WRITTEN = "Written from the code by `python tests/reference_pages.py`."


def quantities_page() -> str:
    """The registry as a table."""
    rows = [f"| `{q.name}` | {q.unit} | {q.better or '-'} | {q.sentence} |" for q in REGISTRY.values()]
    return "\n".join(
        [
            "# Quantities",
            "",
            WRITTEN
            + " Loggers show them as `prequential/<name>` over `prequential/tokens`; `--json` uses the bare names.",
            "",
            "| name | unit | better | what it is |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def commands_page() -> str:
    """The help of every command."""
    parts = ["# Commands\n", WRITTEN + " Bad input is one line and exit code 1, wrong usage is exit code 2.\n"]
    for command in ["", *sorted(main.commands)]:
        arguments = [*command.split(), "--help"]
        shown = CliRunner().invoke(main, arguments, prog_name="prequential", terminal_width=100).output
        parts.append(f"## prequential {command}".rstrip() + f"\n\n```text\n{shown.strip()}\n```\n")
    return "\n".join(parts)


def python_page() -> str:
    """Signature and docstring of every public name."""
    parts = ["# Python\n", WRITTEN + " Names are imported from `prequential`.\n"]
    for name in prequential.__all__:
        thing = getattr(prequential, name)
        if callable(thing):
            signature = str(inspect.signature(thing)).replace("prequential.", "")
            parts.append(f"## {name}\n\n```text\n{name}{signature}\n\n{inspect.getdoc(thing)}\n```\n")
            parts += [_method_part(name, *method) for method in _methods(thing)]
    return "\n".join(parts)


def _methods(thing: object) -> list[tuple[str, object]]:
    """Public methods that a class itself defines, with a docstring; hooks of a framework are left out."""
    if not inspect.isclass(thing):
        return []
    names = [name for name in vars(thing) if not name.startswith(("_", "on_")) and name != "setup"]
    return [(name, getattr(thing, name)) for name in names if _is_method(getattr(thing, name))]


def _is_method(member: object) -> bool:
    return inspect.isfunction(member) or inspect.ismethod(member)


def _method_part(owner: str, name: str, method: object) -> str:
    signature = str(inspect.signature(method)).replace("prequential.", "")  # type: ignore[arg-type]
    return f"### {owner}.{name}\n\n```text\n{name}{signature}\n\n{inspect.getdoc(method)}\n```\n"


PAGES = {"quantities.md": quantities_page, "commands.md": commands_page, "python.md": python_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
