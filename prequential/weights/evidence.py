"""Were these parameters learnt before? Evidence in the values themselves, as nothing can be asked of their past.

Fresh parameters have one of two looks. Vectors of normalisation layers are constant. Matrices are drawn entry by entry,
so that no row and no column of theirs is unlike the others; training moves whole rows and columns. A matrix is ranked
by value and by size, and for its rows and its columns the Kruskal-Wallis statistic

``H = (N - 1) * sum over groups of n * (mean rank - mean)**2 / sum over entries of (rank - mean)**2``

is held against chi-squared. Ranks make this free of the distribution: uniform, normal, truncated and any other
independent draw share one null, and orthogonal, sparse and identity starts vary less than it.

A matrix is called trained below a probability of 1e-12. There are four statistics a matrix and at most 256 matrices, so
that by chi-squared fewer than one in 10**8 fresh models raises a false alarm by chance. Starts that are neither
constant nor drawn entry by entry (normalisation weights drawn at random, filter banks in convolutions), and random
layers that stay frozen and are the larger part, are called trained too: say ``weights="fresh"`` there. Sinusoidal
tables are known.

What cannot be seen: a few steps at a small learning rate where there are no normalisation layers, sparse changes,
parameters of modules other than normalisation, linear, convolution and embedding layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

FALSE_ALARM = 1e-12  # for one statistic of one matrix
_SAMPLE = 128  # rows and columns of a matrix that are looked at
_MATRICES = 256  # matrices that are looked at
_FEWEST = 16  # entries of a matrix that can tell anything
_DRY_RUNS = 10  # batches that a forward pass for the sake of shapes may leave in running statistics
_MATRIX_LAYERS = ("Linear", "Conv", "Embedding")
_LISTED = 3


class Evidence(NamedTuple):
    """Why parameters look trained.

    Attributes:
        names: Of the parameters and buffers that do.
        why: One sentence.
    """

    names: tuple[str, ...]
    why: str


class _Look(NamedTuple):
    """Values of one parameter or buffer that are looked at."""

    name: str
    values: Tensor


def evidence_of_training(module: nn.Module) -> Evidence | None:
    """Look for parameters that were learnt, or loaded, before; None if all look freshly drawn.

    Deterministic. Small samples travel to the host, in one transfer a device.

    Args:
        module: Any module; nothing of it is changed.
    """
    kinds = {
        "loaded by transformers": _loaded(module),
        "normalisation vectors that are not constant": _uneven(_norm_vectors(module)),
        "running statistics of more than a dry run": _running(module),
        "matrices whose rows or columns differ more than fresh ones": _structured(module),
        "frozen parameters, the larger part of all": _frozen(module),
    }
    found = {kind: names for kind, names in kinds.items() if names}
    if not found:
        return None
    listed = "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in found.items())
    every = sorted({name for names in found.values() for name in names})
    return Evidence(tuple(every), f"weights look learnt before the run: {listed}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")


def _loaded(module: nn.Module) -> list[str]:
    """Parameters with the mark of ``from_pretrained``; a path in the configuration proves nothing."""
    return [name for name, parameter in module.named_parameters() if getattr(parameter, "_is_hf_initialized", False)]


def _frozen(module: nn.Module) -> list[str]:
    """Parameters without gradient, where they are the larger part and something else learns."""
    parameters = _filled(module.named_parameters())
    frozen = {name: p for name, p in parameters.items() if not p.requires_grad and not _is_sinusoidal(p)}
    size, total = (sum(p.numel() for p in some.values()) for some in (frozen, parameters))
    return list(frozen) if total < 2 * size and any(p.requires_grad for p in parameters.values()) else []


# -- normalisation ------------------------------------------------------------------------------------------------


def _norm_vectors(module: nn.Module) -> Iterator[_Look]:
    for name, layer in module.named_modules():
        own = _filled(layer.named_parameters(recurse=False))
        known = isinstance(layer, (nn.LayerNorm, nn.GroupNorm, _NormBase))
        named = "norm" in type(layer).__name__.lower() and all(p.dim() == 1 for p in own.values())
        # Running statistics decide where there are any: some recipes draw the weights of batch norms at random.
        if (known or named) and not _has_statistics(layer):
            yield from (_Look(_joined(name, key), parameter.detach()) for key, parameter in own.items())


def _uneven(looks: Iterable[_Look]) -> list[str]:
    return [name for name, values in _on_the_host(looks) if values.numel() and (values != values.flatten()[0]).any()]


def _running(module: nn.Module) -> list[str]:
    """Running means that have seen more batches than a dry run, or that vary without having counted any."""
    means, counts = [], []
    for name, layer in module.named_modules():
        if _has_statistics(layer):
            means.append(_Look(_joined(name, "running_mean"), layer.get_buffer("running_mean")))
            count = getattr(layer, "num_batches_tracked", None)
            counts += [_Look(means[-1].name, count)] if isinstance(count, Tensor) else []
    seen, uneven = dict(_on_the_host(counts)), set(_uneven(means))
    return [name for name, _ in means if seen.get(name, 0) > _DRY_RUNS or (name in uneven and not seen.get(name, 0))]


def _has_statistics(layer: nn.Module) -> bool:
    return "running_mean" in _filled(layer.named_buffers(recurse=False))


# -- matrices -----------------------------------------------------------------------------------------------------


def _structured(module: nn.Module) -> list[str]:
    """Weights of linear, convolution and embedding layers that no independent draw gives; tied ones once."""
    looks = []
    for name, parameter in _filled(module.named_parameters()).items():
        owner, _, key = name.rpartition(".")
        layer = type(module.get_submodule(owner)).__name__
        if key == "weight" and parameter.dim() > 1 and any(kind in layer for kind in _MATRIX_LAYERS):
            looks.append(_Look(name, _sample(parameter.detach())))
    looks = looks[:: max(1, math.ceil(len(looks) / _MATRICES))]
    unlike = [name for name, values in _on_the_host(looks) if chance(values) < FALSE_ALARM]
    return [name for name in unlike if not _is_sinusoidal(module.get_parameter(name))]


def _sample(matrix: Tensor) -> Tensor:
    """Take at most 128 rows and columns, evenly spread; all dimensions but the first are columns."""
    matrix = matrix.flatten(1)
    rows, columns = (max(1, size // _SAMPLE) for size in matrix.shape)
    return matrix[::rows, ::columns][:_SAMPLE, :_SAMPLE]


def chance(matrix: Tensor) -> float:
    """Give the probability of a matrix as uneven as this one, if its entries were drawn independently; at most 1.

    Args:
        matrix: Shape (rows, columns), floating point.

    Returns:
        The smallest of four: rows and columns, by value and by size. 1 where there is too little to tell.
    """
    matrix = _varied(matrix)
    if matrix.numel() < _FEWEST:
        return 1.0
    return min(_chance_of_groups(_ranks(entries), dim) for entries in (matrix, matrix.abs()) for dim in (0, 1))


def _varied(matrix: Tensor) -> Tensor:
    """Leave out rows and columns of one value (padding, zero starts) and rows that stand there twice."""
    matrix = torch.unique(matrix, dim=0)
    matrix = matrix[(matrix != matrix[:, :1]).any(1)]
    return matrix[:, (matrix != matrix[:1]).any(0)]


def _ranks(entries: Tensor) -> Tensor:
    """Rank among all entries, the mean rank for equal ones, in float64."""
    _, places, counts = torch.unique(entries, return_inverse=True, return_counts=True)
    ranks: Tensor = (counts.cumsum(0) - (counts - 1) / 2).double()
    return ranks[places]


def _chance_of_groups(ranks: Tensor, dim: int) -> float:
    """Probability of a Kruskal-Wallis statistic at least as large, by chi-squared; groups run along ``dim``."""
    groups, size = ranks.shape[dim], ranks.shape[1 - dim]
    ranks = ranks - ranks.mean()
    spread = ranks.square().sum()
    if min(groups, size) < 2 or spread == 0:
        return 1.0
    between = size * ranks.mean(1 - dim).square().sum()
    statistic = (ranks.numel() - 1) * between / spread
    degrees = torch.tensor(groups - 1, dtype=torch.float64)
    return float(torch.special.gammaincc(degrees / 2, statistic / 2))


def _is_sinusoidal(table: Tensor) -> bool:
    """Whether each row consists of sines and cosines in pairs: its squares sum to half its width."""
    if table.dim() != 2 or not table.is_floating_point():
        return False
    rows = table.detach()[:: max(1, len(table) // _SAMPLE)].double()
    squares, width = rows.square().sum(1), table.shape[1]
    paired = (squares - width / 2).abs()[squares > 0] <= 0.5 + width / 100  # a row of zeros is padding
    return bool(paired.all() and rows.abs().max() <= 1)


# -- transfer -----------------------------------------------------------------------------------------------------


def _on_the_host(looks: Iterable[_Look]) -> list[tuple[str, Tensor]]:
    """Move all values to the host as float32, in one transfer a device."""
    looks = list(looks)
    moved: dict[str, Tensor] = {}
    for device in {look.values.device for look in looks}:
        here = [look for look in looks if look.values.device == device]
        flat = torch.cat([look.values.float().flatten() for look in here]).cpu()
        parts = torch.split(flat, [look.values.numel() for look in here])
        moved |= {look.name: part.view(look.values.shape) for look, part in zip(here, parts, strict=True)}
    return [(look.name, moved[look.name]) for look in looks]


def _filled(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Leave out tensors without values: lazy ones, and those of the device ``meta``."""
    return {name: tensor for name, tensor in named if not is_lazy(tensor) and not tensor.is_meta}


def _joined(layer: str, key: str) -> str:
    return f"{layer}.{key}" if layer else key
