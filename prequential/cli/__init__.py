"""The command line: arguments, exit codes, and nothing else.

Exit code 0; 1 with one line on stderr for input that cannot be used; 2 for a wrong call. Each command imports what it
needs when it runs, so that ``prequential --help`` answers at once.

- `viewing`: commands that look at runs; `watching`: at one that is going on; `records`: that write books; `programs`:
  about training programs; `sizes`: about figures without a run; `dashboards`: that make pages on W&B; `syncing`: that
  send runs there; `proving`: that give the data back.
- `printing`: what they all print with.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from prequential.cli import dashboards, programs, proving, records, sizes, syncing, viewing, watching
from prequential.errors import PrequentialError

_COMMANDS = (
    viewing.show,
    viewing.compare,
    viewing.shared,
    viewing.report,
    viewing.forecast,
    watching.watch,
    records.import_,
    records.charge,
    programs.bundle,
    programs.audit,
    proving.decode,
    proving.verify,
    sizes.baselines,
    sizes.estimate,
    dashboards.dashboard,
    syncing.sync,
)


class _Commands(click.Group):
    """Turns what can go wrong with input into one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors of this package and of the file system end in one line."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader has seen enough; click ends the program quietly
            raise
        except PrequentialError as error:
            raise click.ClickException(_one_line(str(error))) from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(_one_line(f"{where}{error.strerror or error}")) from error
        except MemoryError as error:
            raise click.ClickException("expected input that fits into memory, ran out of it") from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="prequential", prog_name="prequential")
def main() -> None:
    """Measure how well a training run compresses its data.

    RUN is a book, or a folder with one book in or below it; or a log: a CSV file, TensorBoard events, a W&B offline
    directory, wandb:entity/project/id.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot write a dash gets a question mark, not a crash
            stream.reconfigure(errors="replace")


for _command in _COMMANDS:
    main.add_command(_command)


def _one_line(message: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
