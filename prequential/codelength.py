"""The arithmetic of code lengths: sums that add, and the quantities divided from them.

    description length of D  =  sum of -log2 p(x_t | x_<t)  +  size of the training-code bundle

`Tally` holds sums and counts only, so that intervals, micro-batches and resumed parts can be added; ratios are
divided last, in `quantities`. `REGISTRY` names every quantity once, with its unit: W&B keys, tables, ``--json``
and the reference page all read it. Nothing here knows a framework, a file or a device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

NATS_PER_BIT = math.log(2.0)
FINGERPRINT_MODULUS = 2**64
FINGERPRINTS = ("fingerprint", "rows_fingerprint")


def nats_to_bits(nats: float) -> float:
    """Convert information from nats to bits: ``nats / ln 2``."""
    return nats / NATS_PER_BIT


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums and counts of the token positions of a run, each position in exactly one column.

    Tallies add: ``+`` is associative and commutative (floats up to rounding) and ``Tally()`` is neutral.

    Attributes:
        nats: Sum of -ln p over the coded tokens, each scored just before it was learnt from.
        coded_tokens: Tokens in that sum.
        uncoded_tokens: Tokens of the data that nothing predicted (the first of a row, a dropped tail).
        uncoded_nats: Their charge by the uniform code: ln V each.
        masked_tokens: Target positions that the loss ignores and that are no padding: prompts, other side information.
        padding_tokens: Target positions that the loss ignores and that only fill rows up.
        replayed_tokens: Tokens scored again after their first exposure. Free: the receiver has them already.
        replayed_nats: Sum of -ln p over those, kept apart.
        nonfinite_tokens: Coded tokens of loss calls with an infinite or NaN sum, charged by the uniform code.
        raw_bytes: Bytes of the source data that the coded and uncoded tokens stand for (0 if unknown).
        fingerprint: Identity of the targets and their order: a sum modulo 2**64 of one hash a position.
        rows: Rows at their first exposure (0 if batches do not show them).
        rows_fingerprint: Identity of those rows in any order: a sum modulo 2**64 of one hash a row.
    """

    nats: float = 0.0
    coded_tokens: int = 0
    uncoded_tokens: int = 0
    uncoded_nats: float = 0.0
    masked_tokens: int = 0
    padding_tokens: int = 0
    replayed_tokens: int = 0
    replayed_nats: float = 0.0
    nonfinite_tokens: int = 0
    raw_bytes: int = 0
    fingerprint: int = 0
    rows: int = 0
    rows_fingerprint: int = 0

    def __add__(self, other: Tally) -> Tally:
        if not isinstance(other, Tally):
            return NotImplemented
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        sums.update({name: sums[name] % FINGERPRINT_MODULUS for name in FINGERPRINTS})
        return Tally(**sums)

    @classmethod
    def total(cls, tallies: Iterable[Tally]) -> Tally:
        """Add up tallies; floats are summed without intermediate rounding (`math.fsum`)."""
        parts = list(tallies)
        sums: dict[str, Any] = {}
        for f in fields(cls):
            column = [getattr(part, f.name) for part in parts]
            sums[f.name] = math.fsum(column) if isinstance(f.default, float) else sum(column)
        sums.update({name: sums[name] % FINGERPRINT_MODULUS for name in FINGERPRINTS})
        return cls(**sums)

    def as_replay(self) -> Tally:
        """Move what was coded to the replay column: it is free, and not data again."""
        return replace(
            self,
            nats=0.0,
            coded_tokens=0,
            raw_bytes=0,
            fingerprint=0,
            rows=0,
            rows_fingerprint=0,
            nonfinite_tokens=0,
            replayed_tokens=self.replayed_tokens + self.coded_tokens,
            replayed_nats=self.replayed_nats + self.nats,
        )

    @property
    def tokens(self) -> int:
        """Tokens of the data so far: coded and uncoded."""
        return self.coded_tokens + self.uncoded_tokens

    @property
    def positions(self) -> int:
        """All token positions fed to the model: the balance that the columns add up to."""
        return self.tokens + self.masked_tokens + self.padding_tokens + self.replayed_tokens


class Quantity(NamedTuple):
    """One number of a run: its name, unit, which direction is better, and one sentence."""

    name: str
    unit: Literal["bit", "byte", "nat", "token", "ratio", "bit/byte", "bit/token", "nat/token"]
    better: Literal["lower", "higher", ""]
    sentence: str


REGISTRY: dict[str, Quantity] = {
    quantity.name: quantity
    for quantity in (
        Quantity(
            "compressed_bytes",
            "byte",
            "lower",
            "The headline: everything a receiver needs to rebuild the data, description_bits / 8.",
        ),
        Quantity("compression_ratio", "ratio", "higher", "raw_bytes over compressed_bytes."),
        Quantity(
            "description_bits",
            "bit",
            "lower",
            "data_bits + uncoded_bits + choice_bits + 8 x bundle_bytes: the description length of the data.",
        ),
        Quantity(
            "data_bits",
            "bit",
            "lower",
            "The prequential code length of the coded tokens, nats / ln 2: the area under the online loss curve.",
        ),
        Quantity("uncoded_bits", "bit", "lower", "The charge for uncoded tokens, log2 V each."),
        Quantity(
            "choice_bits",
            "bit",
            "lower",
            "Named charges: choices made with sight of the data, log2 N for the best of N; weights learnt before.",
        ),
        Quantity("bundle_bytes", "byte", "lower", "Size of the training program, packed under the bundle's rule."),
        Quantity("raw_bytes", "byte", "", "Bytes of the source data that the tokens stand for."),
        Quantity(
            "bits_per_byte", "bit/byte", "lower", "data_bits + uncoded_bits over raw_bytes; the bundle is not in it."
        ),
        Quantity("bits_per_token", "bit/token", "lower", "data_bits over coded_tokens."),
        Quantity("uniform_bytes", "byte", "", "The same tokens under the uniform code, log2 V bits each."),
        Quantity(
            "uniform_ratio",
            "ratio",
            "higher",
            "uniform_bytes over compressed_bytes: a ratio against the uniform code, not against raw bytes.",
        ),
        Quantity("nats", "nat", "lower", "Sum of -ln p over coded tokens, each scored before it is learnt from."),
        Quantity("tokens", "token", "", "Tokens of the data so far, coded and uncoded: the x-axis."),
        Quantity("coded_tokens", "token", "", "Tokens scored at their first exposure."),
        Quantity("uncoded_tokens", "token", "lower", "Tokens of the data that nothing predicted, charged log2 V each."),
        Quantity(
            "masked_tokens",
            "token",
            "",
            "Target positions that the loss ignores and that are no padding: side information, such as prompts.",
        ),
        Quantity("padding_tokens", "token", "", "Target positions that the loss ignores and that only fill rows up."),
        Quantity("replayed_tokens", "token", "", "Tokens scored again after their first exposure: free, kept apart."),
        Quantity(
            "nonfinite_tokens",
            "token",
            "lower",
            "Coded tokens of loss calls with an infinite or NaN sum, charged by the uniform code.",
        ),
        Quantity("interval_bits_per_byte", "bit/byte", "lower", "bits_per_byte since the last log point."),
        Quantity("interval_bits_per_token", "bit/token", "lower", "bits_per_token since the last log point."),
        Quantity(
            "model_bits_estimate",
            "bit",
            "",
            "Area above the lowest loss so far, over 5 % of the tokens: what training put into the weights, estimated.",
        ),
        Quantity(
            "planned_tokens", "token", "", "Tokens of the data that the run is to code, by its options or limits."
        ),
        Quantity(
            "forecast_data_bits", "bit", "lower", "data_bits at the end of the data, forecast from what was seen."
        ),
        Quantity(
            "forecast_compressed_bytes",
            "byte",
            "lower",
            "compressed_bytes at planned_tokens, forecast from what was seen: an estimate.",
        ),
        Quantity("forecast_compressed_bytes_low", "byte", "lower", "Lower end of its 90 % interval."),
        Quantity("forecast_compressed_bytes_high", "byte", "lower", "Upper end of its 90 % interval."),
        Quantity(
            "final_nats_per_token",
            "nat/token",
            "lower",
            "Mean loss at the end of the run: over the last 5 % of the coded tokens.",
        ),
    )
}


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    """Divide, or answer None where either side is unknown or there is nothing to divide by."""
    if numerator is None or not denominator:
        return None
    return numerator / denominator


def quantities(
    tally: Tally,
    *,
    bundle_bytes: int,
    bytes_known: bool,
    vocab_size: int | None,
    choice_bits: float = 0.0,
) -> dict[str, float | int | None]:
    """Divide a tally into the quantities of `REGISTRY`; None where one is unknown.

    ``description_bits = data_bits + uncoded_bits + choice_bits + 8 * bundle_bytes``.

    Args:
        tally: Sums over the run so far.
        bundle_bytes: Size of the training program in bytes.
        bytes_known: Whether ``tally.raw_bytes`` was counted from a table of bytes per token.
        vocab_size: Number V of symbols, for the uniform code; None if unknown.
        choice_bits: What choices made with sight of the data cost, such as log2 N for the best of N runs.

    Returns:
        A dict from quantity name to its value, in the order of `REGISTRY`.
    """
    data_bits = nats_to_bits(tally.nats)
    uncoded_bits = nats_to_bits(tally.uncoded_nats)
    description_bits = data_bits + uncoded_bits + choice_bits + 8 * bundle_bytes
    compressed_bytes = description_bits / 8
    raw_bytes = tally.raw_bytes if bytes_known else None
    uniform_bytes = tally.tokens * math.log2(vocab_size) / 8 if vocab_size else None
    return {
        "compressed_bytes": compressed_bytes,
        "compression_ratio": _ratio(raw_bytes, compressed_bytes),
        "description_bits": description_bits,
        "data_bits": data_bits,
        "uncoded_bits": uncoded_bits,
        "choice_bits": choice_bits,
        "bundle_bytes": bundle_bytes,
        "raw_bytes": raw_bytes,
        "bits_per_byte": _ratio(data_bits + uncoded_bits, raw_bytes),
        "bits_per_token": _ratio(data_bits, tally.coded_tokens),
        "uniform_bytes": uniform_bytes,
        "uniform_ratio": _ratio(uniform_bytes, compressed_bytes),
        "nats": tally.nats,
        "tokens": tally.tokens,
        "coded_tokens": tally.coded_tokens,
        "uncoded_tokens": tally.uncoded_tokens,
        "masked_tokens": tally.masked_tokens,
        "padding_tokens": tally.padding_tokens,
        "replayed_tokens": tally.replayed_tokens,
        "nonfinite_tokens": tally.nonfinite_tokens,
    }
