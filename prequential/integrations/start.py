"""What a run starts from: weights learnt before or not, priced or not, and the modes of its module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from prequential.errors import Harmless, MeasureError
from prequential.modes import Modes, modes_of
from prequential.run import START
from prequential.weights import FRESH, Weights, find_weights, weights_of


class Start(NamedTuple):
    """Facts about a module before its first update.

    Attributes:
        facts: For the head of the book.
        charges: Bits by name.
        remarks: Sentences by event.
    """

    facts: dict[str, Any]
    charges: dict[str, float]
    remarks: dict[str, str]


def resumed(account: Mapping[str, Any]) -> Start:
    """What a run started from that is resumed now: its weights were learnt by itself since.

    Args:
        account: What the checkpoint holds of it.
    """
    header = account["header"]
    return Start({name: header.get(name) for name in ("weights", "modes")}, {}, {})


def start_of(module: Any, rule: str | None, *, scored_as_trained: bool = True, learnt: str | None = None) -> Start:
    """Look at a module before its first update; only a price that was asked for may fail.

    Args:
        module: What is trained, or None if the door does not know it.
        rule: The option ``weights``.
        scored_as_trained: Whether its training mode is what is scored; in evaluation mode rows share no statistics.
        learnt: Why its weights are known to be learnt before, in a sentence; None if that is not known.

    Raises:
        MeasureError: Weights are to be priced, and there is no module.
    """
    weights, modes = _weights(module, rule, learnt), _modes(module)
    declared = {"rule": FRESH} if rule == FRESH else None
    facts = {
        "weights": declared if weights is None else weights.record(),
        "modes": None if modes is None else modes.record(),
    }
    sentences = {
        "pretrained": None if weights is None or weights.rule is not None else _conditional(weights),
        "cross_row": None if modes is None or not scored_as_trained else modes.warning,
    }
    remarks = {event: sentence for event, sentence in sentences.items() if sentence is not None}
    return Start(facts, {} if weights is None else weights.charges, remarks)


def _weights(module: Any, rule: str | None, learnt: str | None) -> Weights | None:
    if rule not in (None, FRESH):
        if module is None:
            raise MeasureError(
                f"expected a module whose weights to price, got none with weights={rule!r}: pass module="
            )
        return find_weights(module, rule)
    with Harmless("whether weights were learnt before was not looked for"):
        found = None if module is None else find_weights(module, rule)
        if found is None and learnt is not None and rule is None and module is not None:
            return weights_of(module, learnt)
        return found if found is None or learnt is None else replace(found, evidence=f"{learnt}; {found.evidence}")
    return None


def _conditional(weights: Weights) -> str:
    return (
        f"{weights.evidence}: the result is K(D | {START}), the data given these weights, as for a fit that resumes; "
        'price them with weights="2 bytes a parameter", or say weights="fresh" if they are'
    )


def _modes(module: Any) -> Modes | None:
    with Harmless("modes were not read"):
        return None if module is None else modes_of(module)
    return None
