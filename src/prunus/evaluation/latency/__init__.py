"""Latency: comparison of whole networks, and a table of layers at every width."""

from prunus.evaluation.latency.compare import Comparison, Estimate, compare_latency
from prunus.evaluation.latency.measure_table import measure_latency_table
from prunus.evaluation.latency.runtimes import (
    RUNTIMES,
    RuntimeUnavailableError,
    compiled_call,
    eager_call,
    onnx_call,
)
from prunus.evaluation.latency.steps import MULTIPLES, WidthSteps, excess_shares
from prunus.evaluation.latency.table import Grid, LatencyTable

__all__ = [
    "MULTIPLES",
    "RUNTIMES",
    "Comparison",
    "Estimate",
    "Grid",
    "LatencyTable",
    "RuntimeUnavailableError",
    "WidthSteps",
    "compare_latency",
    "compiled_call",
    "eager_call",
    "excess_shares",
    "measure_latency_table",
    "onnx_call",
]
