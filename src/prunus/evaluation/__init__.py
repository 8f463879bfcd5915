"""Measure a network without changing it."""

from prunus.evaluation.accuracy import accuracy, primary
from prunus.evaluation.latency import Latency, compare_latency
from prunus.evaluation.latency_table import Grid, LatencyTable
from prunus.evaluation.measure_table import measure_latency_table
from prunus.evaluation.size import count_bytes, count_macs, count_params

__all__ = [
    "Grid",
    "Latency",
    "LatencyTable",
    "accuracy",
    "compare_latency",
    "count_bytes",
    "count_macs",
    "count_params",
    "measure_latency_table",
    "primary",
]
