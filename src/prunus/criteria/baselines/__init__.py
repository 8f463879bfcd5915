"""Baseline criteria: weights, activations, gradients, random numbers."""

from prunus.criteria.baselines.activation import ActivationMean, ActivationVariance
from prunus.criteria.baselines.geometric_median import GeometricMedian
from prunus.criteria.baselines.magnitude import Magnitude, Sparsity, han_sparsity
from prunus.criteria.baselines.taylor import Taylor
from prunus.criteria.baselines.weights import L1, BNScale, GroupL2, Random

__all__ = [
    "L1",
    "ActivationMean",
    "ActivationVariance",
    "BNScale",
    "GeometricMedian",
    "GroupL2",
    "Magnitude",
    "Random",
    "Sparsity",
    "Taylor",
    "han_sparsity",
]
