"""Rows of text that tables and pages share: the balance sheet of a run, its ratios, how far to trust it, runs compared.

A row is plain text as it came; who prints it makes it safe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from prequential.codelength import nats_to_bits
from prequential.comparison import Comparison, Difference, Row, Verdict, known_quantities
from prequential.curve import Floor, catch_up, split
from prequential.run import Run
from prequential.views.figures import UNKNOWN, cost, count, gain

Quantities = dict[str, float | int | None]
Cells = tuple[str, ...]

TOTAL = "total"
THIS_RUN = "this run"
_ESTIMATES = ("estimate", "surrogate")
_FREE = "free"
_BUNDLES_WITHOUT_FILES = {
    True: "a size alone: its files are not known",
    False: "left out: the total lacks the training program",
}
_RAW = {"uniform": "raw"}  # 8 bits a byte: its name among baselines, and for `catch_up`


def headline(run: Run) -> tuple[str, str]:
    """State the total, and the two halves of the formula."""
    values = known_quantities(run)
    data_bits = [values[part] for part in ("data_bits", "uncoded_bits")]
    data = in_bytes(sum(bits for bits in data_bits if bits is not None))
    total = f"{cost(values['compressed_bytes'])} compressed bytes"
    return total, f"{data} data code + {count(values['bundle_bytes'])} bundle{estimate(run)}"


def estimate(run: Run) -> str:
    """A word for runs whose total is not exact."""
    return " (estimate)" if run.grade in _ESTIMATES else ""


def in_bytes(bits: float | int | None) -> str:
    """Write bits as bytes, rounded up."""
    return cost(None if bits is None else bits / 8)


def balance(run: Run) -> list[Cells]:
    """Every column of the accounting (tokens, bits, bytes): positions add up to those fed, charges to the total."""
    tally, rule, values = run.total, run.bundle.get("rule"), known_quantities(run)
    bundle_bytes = values["bundle_bytes"]
    bundle_bits = None if bundle_bytes is None else 8 * bundle_bytes

    def charged(label: str, tokens: str, bits: float | int | None) -> Cells:
        return label, tokens, cost(bits), in_bytes(bits)

    return [
        charged("coded", count(tally.coded_tokens), values["data_bits"]),
        charged("uncoded", count(tally.uncoded_tokens), values["uncoded_bits"]),
        *(charged(name, "", bits) for name, bits in run.charges.items()),
        (f"bundle ({rule})" if rule else "bundle", "", count(bundle_bits), count(bundle_bytes)),
        charged(TOTAL, count(tally.tokens), values["description_bits"]),
        ("replayed", count(tally.replayed_tokens), _FREE, _FREE),
        ("masked", count(tally.masked_tokens), _FREE, _FREE),
        ("padding", count(tally.padding_tokens), _FREE, _FREE),
        ("positions fed", count(tally.positions), "", ""),
        ("non-finite (in coded)", count(tally.nonfinite_tokens), "", ""),
    ]


def ratios(run: Run) -> list[Cells]:
    """What is divided from the sums: name, value, unit."""
    values = known_quantities(run)
    return [
        ("raw bytes", count(values["raw_bytes"]), "of the source data"),
        ("compression ratio", gain(values["compression_ratio"], 3), "raw over compressed bytes"),
        ("bits per byte", cost(values["bits_per_byte"], 4), "coded and uncoded, without the bundle"),
        ("bits per token", cost(values["bits_per_token"], 4), "of coded tokens"),
        ("final loss", cost(values["final_nats_per_token"], 4), "nats a token, last 5 % of the tokens"),
        ("uniform code", cost(values["uniform_bytes"]), "bytes, log2 V bits a token"),
        ("ratio to uniform", gain(values["uniform_ratio"], 3), "uniform over compressed bytes"),
        *_model_bits(run),
    ]


def beside_baselines(run: Run) -> list[Cells]:
    """Sizes of the same data under other codes, this run among them, and from which token on it is shorter."""
    since = {found.name: count(found.tokens) for found in catch_up(run)}
    sizes = [
        (name, float(size), since.get(_RAW.get(name, name), UNKNOWN)) for name, size in run.header["baselines"].items()
    ]
    sizes.append((f"{THIS_RUN}{estimate(run)}", float(run.measured()["compressed_bytes"] or 0), ""))
    return [(name, cost(size), tokens) for name, size, tokens in sorted(sizes, key=lambda row: row[1])]


def _model_bits(run: Run) -> list[Cells]:
    """Say what the area holds above a floor: the final loss, or the lowest so far while the run goes on."""
    if run.final_nats_per_token is None:
        return []
    floor: Floor = "in_sample" if run.end else "running"
    unit = "bits above the final loss" if run.end else "bits above the lowest loss so far"
    return [("model bits", cost(split(run, floor).model_bits), f"{unit} (estimate)")]


def source_headings(run: Run) -> Cells:
    """What the cells of `by_source` are."""
    split = any(event["event"] == "sources_split" for event in run.events)
    rate = f"bits/{'byte' if run.bytes_known else 'token'}"
    return "source (estimates)" if split else "source", "coded", "raw bytes", "data code", rate


def by_source(run: Run) -> list[Cells]:
    """Which data is being learnt and which is noise: a row a source, the costliest first."""
    rows: list[Cells] = []
    for name, tally in sorted(run.sources.items(), key=lambda item: -item[1].nats):
        own = run.measured(tally)
        rate = cost(own["bits_per_byte"] if run.bytes_known else own["bits_per_token"], 4)
        rows.append((name, count(tally.coded_tokens), count(own["raw_bytes"]), in_bytes(own["data_bits"]), rate))
    return rows


def trust(run: Run) -> list[tuple[str, str]]:
    """How far the number is proved."""
    answer, reasons = run.single_pass
    error = run.nats_standard_error
    return [
        ("length", run.length),
        ("grade", run.grade),
        *_bitstream(run),
        *([] if error is None else [("standard error", f"{in_bytes(nats_to_bits(error))} bytes of data code")]),
        *([("given weights", run.given_weights)] if run.given_weights else []),
        ("single pass", answer + (f": {'; '.join(reasons)}" if reasons else "")),
        ("measured by", run.header.get("measure") or UNKNOWN),
        *_modes(run),
        ("bundle", run.bundle.get("sha256") or _BUNDLES_WITHOUT_FILES[bool(run.bundle)]),
        ("book", run.path),
    ]


def _bitstream(run: Run) -> list[tuple[str, str]]:
    """The file that proves the number: its size, beside that of the ideal code."""
    found = run.bitstream
    if found.get("failure"):
        return [("bitstream", f"cannot be decoded: {found['failure']}")]
    if not found.get("bytes"):
        return []
    uniform_bits = found["uniform_tokens"] * math.log2(found["symbols"])
    over = found["bytes"] - (nats_to_bits(run.total.nats) + uniform_bits) / 8
    words = f"{count(found['bytes'])} bytes in {found['file']}, {cost(over)} of them over the ideal"
    if found["uniform_tokens"]:
        words += f"; {count(found['uniform_tokens'])} tokens by the uniform code"
    proof = run.certificate
    decoded = f"to {count(proof.get('raw_bytes'))} bytes, sha256 {proof.get('sha256')}" if proof else ""
    return [("bitstream", words), *([("decoded", decoded)] if proof else [])]


def _modes(run: Run) -> list[tuple[str, str]]:
    """Say in which mode micro-batches were scored, where it was asked for."""
    if run.header.get("rescore") == "eval":
        return [("scored in", "evaluation mode")]
    if run.rescored is None:
        return []
    data, error = (nats_to_bits(run.rescored[name]) / 8 for name in ("nats", "standard_error"))
    drawn = f"from {run.rescored['batches']:,.0f} micro-batches, drawn with probability {run.rescored['share']:g}"
    words = f"an estimate of {cost(data)} bytes of data code, standard error {cost(error, 1)}, {drawn}"
    return [("scored in", "training mode"), ("in evaluation mode", words)]


def comparison_headings(comparison: Comparison) -> Cells:
    """What the cells of `compared` are."""
    unit = "byte" if _raw(comparison) else "token"
    return "run", "bundle", "data code", "total", "ratio", f"bits/\n{unit}", "final\nloss"


def compared(comparison: Comparison) -> list[Cells]:
    """Runs and other codes of the same data, the shortest first."""
    raw = _raw(comparison)
    lines = [(row.quantities["compressed_bytes"] or 0, _compared(row, raw=raw)) for row in comparison.rows]
    codes = comparison.baselines.items()
    lines += [(values["compressed_bytes"] or 0, _code(name, values)) for name, values in codes]
    return [cells for _, cells in sorted(lines, key=lambda line: line[0])]


def comparison_units(comparison: Comparison) -> str:
    """One line on what the figures are."""
    ratio = "raw" if _raw(comparison) else "uniform"
    return f"Bytes, rounded up; ratio of {ratio} to total bytes; final loss in nats a token."


def sentence(best: str, verdict: Verdict) -> str:
    """State the verdict; the difference is rounded down and its interval outwards."""
    interval = "no interval"
    if verdict.interval_bytes is not None:
        low, high = verdict.interval_bytes
        interval = f"95 % interval {gain(low)} to {cost(high)}"
    difference = gain(verdict.difference_bytes)
    if verdict.winner is None:
        return f"Tie: {best} needs {difference} bytes less than {verdict.rival}, within noise ({interval})."
    return f"Winner: {verdict.winner}, by {difference} bytes over {verdict.rival} ({interval})."


def lead(best: str, difference: Difference) -> str:
    """State what the difference is of, and from which token on the first run leads."""
    parts = [f"Area {gain(difference.area_bytes)} bytes", f"bundle {count(difference.bundle_bytes)}"]
    if difference.charges_bytes:
        parts.append(f"other charges {gain(difference.charges_bytes)}")
    since, alone = difference.leads_from_tokens, difference.leads_from_tokens_without_bundle
    where = "does not lead at the last token both books share"
    words = where if since is None else f"leads from token {count(since)} on"
    if alone != since:
        without = where if alone is None else f"from token {count(alone)} on"
        words += f", without the bundle {without}"
    return f"{', '.join(parts)}; {best} {words}."


def verdict_lines(comparison: Comparison) -> list[str]:
    """The verdict in sentences; of a forced comparison, first that it is one."""
    best, verdict = comparison.rows[0].name, comparison.verdict
    lines = [sentence(best, verdict), lead(best, verdict.difference)]
    if comparison.forced:
        lines.insert(0, f"FORCED: these runs are not comparable, they differ in {_and(forced_fields(comparison))}.")
    return lines


def forced_fields(comparison: Comparison) -> list[str]:
    """Names of the fields for which a comparison was refused, but forced."""
    return [mismatch.field for mismatch in comparison.forced]


def forced(comparison: Comparison) -> list[str]:
    """Those fields with the values of all runs."""
    return [
        f"{mismatch.field}: " + ", ".join(f"{value} in {name}" for name, value in mismatch.values.items())
        for mismatch in comparison.forced
    ]


def behind_headings(comparison: Comparison) -> Cells:
    """What the cells of `behind` are."""
    return "run", "behind", "from", "to", "area", "bundle", "behind from\ntoken"


def behind(comparison: Comparison) -> list[Cells]:
    """How far each run is behind the first, with the 95 % interval, where there are more than two."""
    rows: list[Cells] = []
    for found in comparison.differences if len(comparison.differences) > 1 else ():
        low, high = found.interval_bytes or (None, None)
        sizes = gain(found.difference_bytes), gain(low), cost(high), gain(found.area_bytes), count(found.bundle_bytes)
        rows.append((found.rival, *sizes, count(found.leads_from_tokens)))
    return rows


def group_headings(comparison: Comparison) -> Cells:
    """What the cells of `groups` are."""
    return comparison.group_by or "", "runs", "lowest", "median", "highest"


def groups(comparison: Comparison) -> list[Cells]:
    """Runs by a setting: how many, and the compressed bytes of the shortest, the middle and the longest."""
    return [
        (
            group.value,
            count(len(group.runs)),
            cost(group.lowest_bytes),
            cost(group.median_bytes),
            cost(group.highest_bytes),
        )
        for group in comparison.groups
    ]


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _raw(comparison: Comparison) -> bool:
    return any(row.quantities["raw_bytes"] is not None for row in comparison.rows)


def _compared(row: Row, *, raw: bool) -> Cells:
    """Fill a line of the comparison; where raw bytes are unknown, against the uniform code and for each token."""
    values = row.quantities
    return (
        row.name + estimate(row.run),
        count(values["bundle_bytes"]),
        in_bytes(values["data_bits"]),
        cost(values["compressed_bytes"]),
        gain(values["compression_ratio" if raw else "uniform_ratio"], 3),
        cost(values["bits_per_byte" if raw else "bits_per_token"], 4),
        cost(values["final_nats_per_token"], 4),
    )


def _code(name: str, values: Quantities) -> Cells:
    """Write another code of the same data: no bundle, no loss."""
    ratio, rate = gain(values["compression_ratio"], 3), cost(values["bits_per_byte"], 4)
    return name, "", "", cost(values["compressed_bytes"]), ratio, rate, ""
