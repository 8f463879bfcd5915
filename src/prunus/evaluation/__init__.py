"""Measure a network without changing it."""

from prunus.evaluation.accuracy import accuracy, primary
from prunus.evaluation.latency import Latency, compare_latency
from prunus.evaluation.size import count_bytes, count_macs, count_params

__all__ = [
    "Latency",
    "accuracy",
    "compare_latency",
    "count_bytes",
    "count_macs",
    "count_params",
    "primary",
]
