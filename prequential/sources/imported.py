"""From a log to a run: by our own sums if they were logged, else by the area under the loss curve."""

from __future__ import annotations

from dataclasses import asdict

from prequential.run import Run
from prequential.sources.estimated import estimated
from prequential.sources.log import Log
from prequential.sources.reading import Reading
from prequential.sources.recorded import recorded

_UNSEEN = {"answer": "unknown", "reason": "a log does not show whether rows were fed twice"}


def run_from_log(log: Log, reading: Reading) -> Run:
    """Translate a log.

    Returns:
        A run of grade ``estimate`` with ``nats_standard_error`` in its header; or one with the sums that our own
        doors logged, exact where the log keeps numbers exactly.

    Raises:
        SourceError: The log does not say enough, or holds numbers that make no sense.
    """
    made = recorded(log, reading) if log.chosen.sums else estimated(log, reading)
    name = reading.name or log.name
    header = {
        "name": name,
        "data_name": reading.data_name,
        "vocab_size": reading.vocab_size,
        "imported_from": log.path,
        "single_pass": _UNSEEN,
        **made.header,
    }
    totals = asdict(made.intervals.total())
    end = None if log.status == "open" else {"status": log.status, "totals": totals}
    warnings = [*log.warnings, *made.warnings]
    return Run(name, log.path, header, made.intervals, [], end, warnings, made.charges)
