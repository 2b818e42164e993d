"""What a person reads: a run, a comparison, a bundle or baselines in, something to print out.

No view prints, and none computes beyond rounding; the numbers come from the registry of quantities.

- `table`: a run and a comparison; `ahead`: a forecast; `inventory`: a bundle, baselines
  and an audit; `certificate`: a decoding.
- `record`: the same as plain JSON objects.
- `shared`: what one data set says of another, as both; `export`: runs for other programs.
- `figures`: how a number or a stranger's text is written, so that neither shows an untruth.
"""

from prequential.views.ahead import forecast_table
from prequential.views.certificate import certificate_table
from prequential.views.inventory import audit_table, baselines_table, bundle_table
from prequential.views.record import bundle_record, comparison_record, forecast_record, run_record
from prequential.views.shared import shared_record, shared_table
from prequential.views.table import comparison_table, run_table

__all__ = [
    "audit_table",
    "baselines_table",
    "bundle_record",
    "bundle_table",
    "certificate_table",
    "comparison_record",
    "comparison_table",
    "forecast_record",
    "forecast_table",
    "run_record",
    "run_table",
    "shared_record",
    "shared_table",
]
