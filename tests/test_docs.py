"""The pages: their code runs, their commands exist, their links lead somewhere, generated ones are up to date."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from reference_pages import FOLDER, PAGES

from prequential.cli import main

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language on a page."""
    return [code for name, code in BLOCK.findall(page.read_text(encoding="utf-8")) if name == language]


def commands(page: Path) -> list[str]:
    """What a page shows somebody typing after a ``$``, comments left out."""
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    return [line[2:].split("  #")[0].strip() for line in lines if line.startswith("$ ")]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", [p for p in DOCUMENTS if blocks(p, "python")], ids=name_of)
def test_the_code_of_a_page_runs_from_top_to_bottom(page):
    """Python blocks run in one namespace, then the page's own commands succeed on what they left."""
    namespace = {"__name__": "__main__"}
    for number, code in enumerate(blocks(page, "python"), start=1):
        exec(compile(code, f"{page.name}, block {number}", "exec"), namespace)
    for command in commands(page):
        program, *arguments = shlex.split(command)
        if program == "prequential":
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code == 0, f"{command}: {result.output}"


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_every_command_of_a_page_exists(page):
    """A command that a page shows is known to the command line, with its options."""
    for command in commands(page):
        program, *arguments = shlex.split(command)
        if program == "prequential" and arguments:
            assert arguments[0] in main.commands or arguments[0].startswith("-"), command


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_links_between_pages_lead_somewhere(page):
    """Relative links name files that exist."""
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_up_to_date(name):
    """A page written from the code is what the code would write now."""
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name](), "run: python tests/reference_pages.py"


def test_every_quantity_named_on_a_page_is_registered():
    """`prequential/<name>` keys on pages are names of the registry."""
    from prequential import REGISTRY

    for page in DOCUMENTS:
        for name in re.findall(r"`prequential/([a-z_]+)`", page.read_text(encoding="utf-8")):
            assert name in REGISTRY, f"{name_of(page)} names prequential/{name}"
