"""The weights that a run starts from: whether they were learnt before, which they are, and what they cost.

A code length from weights that the receiver does not have is conditional on them, K(D | θ0). It becomes a description
length when their price is charged under a named rule.
"""

from prequential.weights.evidence import Evidence, evidence_of_training
from prequential.weights.pricing import FRESH, Weights, check_rule, find_weights, price, weights_of, weights_sha256

__all__ = [
    "FRESH",
    "Evidence",
    "Weights",
    "check_rule",
    "evidence_of_training",
    "find_weights",
    "price",
    "weights_of",
    "weights_sha256",
]
