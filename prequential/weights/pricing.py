"""What weights cost and which they are: a size under a named rule, and a hash."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prequential.errors import MeasureError
from prequential.weights.evidence import evidence_of_training

FRESH = "fresh"  # no rule, but the user's word that nothing was learnt before
_CHUNK = 2**24  # elements, or bytes of a file, that are on the host at a time


@dataclass(frozen=True)
class Weights:
    """The weights that a run starts from.

    Attributes:
        sha256: Over name, type, shape and bytes of all parameters and persistent buffers, sorted by name.
        parameters: Number of parameters; tied ones count once.
        bytes: Their size under the rule; None if they are not priced.
        rule: Name of the rule; None if they are not priced, and the result is K(D | weights).
        evidence: Why they look learnt before the run, one sentence; None if they look fresh.
    """

    sha256: str
    parameters: int
    bytes: int | None = None
    rule: str | None = None
    evidence: str | None = None

    @property
    def charges(self) -> dict[str, float]:
        """Bits by name, for the balance sheet; empty if they are not priced."""
        return {} if self.bytes is None else {f"weights, {self.rule}": 8.0 * self.bytes}

    def record(self) -> dict[str, Any]:
        """Plain values for the head of the book."""
        return asdict(self)


def find_weights(module: nn.Module, rule: str | None = None) -> Weights | None:
    """Look for weights learnt before the run, or price those there are.

    Args:
        module: The module before its first update.
        rule: None looks for evidence, ``"fresh"`` does not look, anything else is a rule of `price`.

    Returns:
        None where nothing looks learnt and no rule is given; hashes are only taken otherwise.
    """
    if rule == FRESH:
        return None
    if rule is not None:
        return price(module, rule)
    evidence = evidence_of_training(module)
    return None if evidence is None else weights_of(module, evidence.why)


def weights_of(module: nn.Module, evidence: str) -> Weights:
    """Identify weights that are known to be learnt before the run, unpriced.

    Args:
        module: The module before its first update.
        evidence: How that is known, one sentence.
    """
    return Weights(weights_sha256(module), _parameters(module), evidence=evidence)


def price(module: nn.Module, rule: str) -> Weights:
    """Price all weights of a module, those that look fresh as well.

    Args:
        module: The module before its first update.
        rule: ``"2 bytes a parameter"`` (Deletang et al. 2023, "Language Modeling Is Compression"); ``"bytes"``,
            elements times their size, of parameters and persistent buffers; ``"xz"``, those bytes under ``xz -9e``; or
            the path of a weight file, for its size under ``xz -9e``. The last two take about a second a megabyte.

    Raises:
        MeasureError: No such rule, and no such file.
    """
    check_rule(rule)
    evidence = evidence_of_training(module)
    size_of = _RULES.get(rule)
    size = _xz_bytes(_file_chunks(Path(rule))) if size_of is None else size_of(module)
    return Weights(
        weights_sha256(module),
        _parameters(module),
        size,
        rule if size_of is not None else f"xz of {Path(rule).name}",
        None if evidence is None else evidence.why,
    )


def check_rule(rule: str | None) -> None:
    """Refuse a rule that there is not, before anything begins.

    Raises:
        MeasureError: Neither None, ``"fresh"``, a rule, nor a file.
    """
    if rule is None or rule == FRESH or rule in _RULES or Path(rule).is_file():
        return
    known = ", ".join(repr(name) for name in (FRESH, *_RULES))
    raise MeasureError(f"expected weights to be {known} or the path of a weight file, got {rule!r}: name a rule")


def weights_sha256(module: nn.Module) -> str:
    """Hash all parameters and persistent buffers, sorted by name; the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in _tensors(module):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for chunk in _chunks(tensor):
            digest.update(chunk)
    return digest.hexdigest()


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and persistent buffers, sorted by name; tied ones once, and the same with and without a compiler."""
    kept = set(module.state_dict(keep_vars=True))
    named = [*module.named_parameters(), *(pair for pair in module.named_buffers() if pair[0] in kept)]
    return sorted(((name.replace("_orig_mod.", ""), tensor.detach()) for name, tensor in named), key=itemgetter(0))


def _chunks(tensor: Tensor) -> Iterator[bytes]:
    """The bytes of a tensor, row by row, a part at a time."""
    for part in torch.split(tensor.reshape(-1), _CHUNK):
        yield part.contiguous().view(torch.uint8).cpu().numpy().tobytes()


def _file_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _raw_bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for _, tensor in _tensors(module))


def _xz_bytes(chunks: Iterable[bytes]) -> int:
    compressor = lzma.LZMACompressor(check=lzma.CHECK_CRC32, preset=9 | lzma.PRESET_EXTREME)
    return sum(len(compressor.compress(chunk)) for chunk in chunks) + len(compressor.flush())


_RULES: dict[str, Callable[[nn.Module], int]] = {
    "2 bytes a parameter": lambda module: 2 * _parameters(module),
    "bytes": _raw_bytes,
    "xz": lambda module: _xz_bytes(chunk for _, tensor in _tensors(module) for chunk in _chunks(tensor)),
}
