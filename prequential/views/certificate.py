"""The certificate of a decoding: what a receiver got, what came out of it, and on what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from prequential.views.figures import UNKNOWN, cost, count, gain, safe
from prequential.views.table import figures_table, pairs


def certificate_table(name: str, certificate: Mapping[str, Any]) -> RenderableType:
    """Show a certificate.

    Args:
        name: Of the run.
        certificate: `prequential.proof.Certificate`, by the names of its fields.

    Returns:
        Something for `rich` to print; sizes in bytes.
    """
    decoded = certificate["decoded"]
    sizes = [
        (safe("bitstream"), count(certificate["bitstream_bytes"])),
        (safe("bundle"), count(certificate["bundle_bytes"])),
        (safe("charges"), cost(certificate["choice_bits"] / 8)),
        (safe("total"), count(certificate["total_bytes"])),
        (safe("raw"), count(certificate["raw_bytes"])),
    ]
    versions = ", ".join(f"{package} {version}" for package, version in certificate["versions"].items())
    machine = ", ".join(f"{name} {value}" for name, value in certificate["circumstances"].items())
    step = certificate["checked_step"]
    return Group(
        Text.assemble((f"decoded: {'yes' if decoded else 'in part'}", "bold"), "  ", safe(name)),
        pairs(
            [
                ("data sha256", certificate["sha256"]),
                ("bundle sha256", certificate["bundle_sha256"]),
                ("tokens", f"{count(certificate['tokens'])} of {count(certificate['all_tokens'])}"),
                ("parameters", UNKNOWN if step is None else f"those of the run, last compared before step {step:,}"),
                ("ratio", f"{gain(certificate['compression_ratio'], 3)} raw over total bytes"),
                ("machine", machine),
                ("versions", versions),
            ]
        ),
        figures_table(("", "bytes"), sizes, bold="total"),
    )
