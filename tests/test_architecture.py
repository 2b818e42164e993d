"""The rooms: what each may import, and how light the doors are."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import prequential

PACKAGE = Path(prequential.__file__).parent
STANDARD = set(sys.stdlib_module_names)

# Room -> rooms and outside packages that it may import at its top level. The standard library is free to all.
ROOMS = {
    "__init__": {"_version"},
    "_version": set(),
    "errors": set(),
    "codelength": set(),
    "tokenbytes": {"errors", "numpy"},
    "bundle": {"errors"},
    "baselines": {"errors"},
    "coder": {"errors", "hashing", "numpy", "torch"},  # constriction only inside a function
    "bitstream": {"batches", "capture", "causality", "coder", "errors", "tokenbytes", "numpy", "torch"},
    "proof": {"bundle", "errors", "ledger", "run"},
    "intervals": {"codelength"},
    "run": {"codelength", "intervals"},
    "book": {"errors", "codelength", "intervals", "run", "msgspec"},
    "ledger": {"errors", "book", "codelength", "run"},
    "scoring": {"torch"},
    "meter": {"calls", "hashing", "errors", "codelength", "scoring", "torch"},
    "batches": {"torch"},
    "calls": {"hashing", "torch"},
    "hashing": {"torch"},
    "capture": {"errors", "batches", "meter", "scoring", "torch"},
    "route": {"errors", "batches", "capture", "meter", "remarks", "tokenbytes", "torch"},
    "remarks": {"codelength", "meter", "torch"},
    "identity": {"hashing", "numpy", "torch"},
    "columns": {"errors", "batches", "codelength", "hashing", "identity", "meter", "run", "numpy", "torch"},
    "causality": {"batches", "capture", "torch"},
    "weights": {"errors", "torch"},
    "modes": {"torch"},
    "audit": {"errors"},
    "live": {"codelength", "outlook", "run"},
    "panels": set(),
    "rehearsal": {"errors", "numpy", "torch"},
    "rescore": {"codelength", "errors", "meter", "torch"},
    "continuation": {"codelength", "errors", "ledger"},
    "outlook": {"codelength", "curve", "errors", "ledger", "run"},
    "account": {"errors", "codelength", "continuation", "ledger", "live", "outlook"},
    "ranks": {"account", "codelength", "columns", "errors", "meter", "remarks", "numpy", "torch"},
    "recorder": {
        "account",
        "ranks",
        "errors",
        "codelength",
        "capture",
        "columns",
        "meter",
        "remarks",
        "rescore",
        "route",
        "tokenbytes",
        "torch",
    },
    "sources": {"book", "errors", "codelength", "intervals", "ledger", "run", "numpy"},
    "comparison": {"errors", "codelength", "run", "sources", "numpy"},
    "curve": {"errors", "codelength", "run"},
    "forecast": {"errors", "codelength", "numpy"},
    "series": {"codelength", "run", "numpy"},
    "dashboard": {"codelength", "errors", "panels"},
    "progress": {"errors", "run"},
    "views": {"codelength", "comparison", "curve", "progress", "run", "series", "numpy", "rich"},
    "cli": {"errors", "click"},
    "integrations": {
        "account",
        "bitstream",
        "audit",
        "capture",
        "live",
        "meter",
        "causality",
        "modes",
        "panels",
        "series",
        "curve",
        "numpy",
        "weights",
        "errors",
        "rehearsal",
        "rescore",
        "codelength",
        "columns",
        "continuation",
        "ranks",
        "recorder",
        "run",
        "ledger",
        "bundle",
        "tokenbytes",
        "torch",
        "lightning",
        "transformers",
    },
}


def room_of(path: Path) -> str:
    """The room a file belongs to: its module, or the folder it lies in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_at_top(path: Path) -> set[str]:
    """Rooms and outside packages that a file imports when it is loaded; imports for type checkers do not count."""
    tree = ast.parse(path.read_text())
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            # `from prequential import errors` names a room, `from prequential.errors import X` one of its names
            names |= {f"prequential.{a.name}" for a in node.names} if node.module == "prequential" else {node.module}
    return {n.split(".")[1] if n.startswith("prequential.") else n.split(".")[0] for n in names} - STANDARD


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_room_imports_only_what_it_may(path):
    """A room's imports lie inside its row of the table."""
    room = room_of(path)
    assert room in ROOMS, f"{room} has no row in the table of rooms"
    assert imported_at_top(path) - {room} <= ROOMS[room]


def test_every_room_of_the_table_exists():
    """The table has no rows for rooms that are gone."""
    assert {room_of(path) for path in PACKAGE.rglob("*.py")} == set(ROOMS)


LIGHT = """
import sys
{statement}
heavy = {{"torch", "lightning", "wandb", "numpy", "scipy", "pandas", "transformers"}} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "statement",
    [
        "import prequential",
        "import prequential; dir(prequential); prequential.Tally()",
        "from prequential.ledger import read_book",
        "from prequential import load_run",
        "from prequential.cli import main",
        "from click.testing import CliRunner; from prequential.cli import main; CliRunner().invoke(main, ['--help'])",
    ],
)
def test_the_doors_are_light(statement):
    """Importing the package, reading a book and asking for help load no heavy package."""
    subprocess.run([sys.executable, "-c", LIGHT.format(statement=statement)], check=True)


def test_every_public_name_can_be_loaded():
    """Each name in ``__all__`` exists, has a docstring where it is a class or function, and the list is sorted."""
    names = [name for name in prequential.__all__ if not name.startswith("__")]
    assert names == sorted(names, key=lambda name: (name.islower(), name != "REGISTRY", name))
    for name in names:
        thing = getattr(prequential, name)
        if callable(thing):
            assert thing.__doc__, name


def test_an_unknown_name_is_an_attribute_error():
    """A misspelt name fails as it does for any module."""
    with pytest.raises(AttributeError, match="has no attribute 'Metre'"):
        _ = prequential.Metre
