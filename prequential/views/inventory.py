"""Tables of what is given beside a run: the files of a bundle, and the sizes of the data under other codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from prequential.views.figures import UNKNOWN, count, safe
from prequential.views.table import figures_table, listed, pairs


def bundle_table(manifest: Mapping[str, Any]) -> RenderableType:
    """Show what is in a training program, what it counts under each size rule, and what is named but free.

    Args:
        manifest: `Bundle.manifest()`, or the one in the header of a book.

    Returns:
        Something for `rich` to print; sizes in bytes.
    """
    counted = str(manifest["rule"])
    files = [(safe(file["name"]), count(file["bytes"])) for file in manifest["files"]]
    sizes = [(safe(rule), count(size)) for rule, size in manifest["sizes"].items()]
    parts: list[RenderableType] = [
        Text.assemble((f"{count(manifest['bundle_bytes'])} bundle bytes", "bold"), " under ", safe(counted)),
        pairs(
            [
                ("sha256", manifest["sha256"]),
                ("python", manifest.get("python") or UNKNOWN),
                ("git", _revision(manifest)),
            ]
        ),
        figures_table(("file", "bytes"), files),
        figures_table(("size rule", "bytes"), sizes, bold=counted),
    ]
    packages = [f"{name} {version}" for name, version in manifest["packages"].items()]
    lists = {"Public packages, named and free": packages, "Warnings": manifest["warnings"]}
    return Group(*parts, *(listed(heading, items) for heading, items in lists.items()))


def baselines_table(sizes: Mapping[str, int]) -> RenderableType:
    """Show sizes of the same data under other codes, smallest first.

    Args:
        sizes: Bytes by the name of the code, as `baselines` gives them.

    Returns:
        Something for `rich` to print.
    """
    rows = [(safe(name), count(size)) for name, size in sorted(sizes.items(), key=lambda item: item[1])]
    return figures_table(("code", "bytes"), rows)


def audit_table(report: Mapping[str, Any]) -> RenderableType:
    """Show what the audit of a script found: the verdict in a line, then what it rests on.

    Args:
        report: What `prequential.audit.audit_script` gives.

    Returns:
        Something for `rich` to print.
    """
    reason = f": {report['reason']}" if report["reason"] else ""
    parts: list[RenderableType] = [Text(safe(f"Audit {report['verdict']}{reason}").plain, style="bold")]
    if report["measure"] is not None:
        parts += [Text(), pairs(_audited(report))]
        parts.append(figures_table(("positions so far", "tokens"), _columns(report["columns"])))
    return Group(*parts, listed("Remarks", report["remarks"]))


def _audited(report: Mapping[str, Any]) -> list[tuple[str, object]]:
    answers = {True: "yes", False: "no", None: "not known"}
    moved = [
        UNKNOWN if value is None else f"{value:.3g} nats" for value in (report["earlier_nats"], report["later_nats"])
    ]
    return [
        ("causal", f"{answers[report['causal']]} (earlier scores moved by {moved[0]}, later ones by {moved[1]})"),
        ("measured by", report["measure"]),
        ("probabilities", "sum to one" if report["sum_to_one"] else "not seen: the script states its sums"),
        ("loss calls", ", ".join(report["loss_calls"]) or "not seen one by one"),
        ("grade", report["grade"]),
    ]


def _columns(columns: Mapping[str, int]) -> list[tuple[Text, str]]:
    return [(safe(name.removesuffix("_tokens")), count(tokens)) for name, tokens in columns.items()]


def _revision(manifest: Mapping[str, Any]) -> str:
    git = manifest.get("git")
    if not git:
        return "no repository"
    return f"{git.get('commit')}{' with changes that are not committed' if git.get('dirty') else ''}"
