"""Measure a network without changing it."""

from prunus.batches import primary
from prunus.evaluation.accuracy import accuracy
from prunus.evaluation.latency import (
    MULTIPLES,
    RUNTIMES,
    Comparison,
    Estimate,
    Grid,
    LatencyTable,
    RuntimeUnavailableError,
    WidthSteps,
    compare_latency,
    compiled_call,
    eager_call,
    excess_shares,
    measure_latency_table,
    onnx_call,
)
from prunus.evaluation.latent import enough_dimensions, latent_curve
from prunus.evaluation.layer_costs import layer_rows
from prunus.evaluation.quality import measure
from prunus.evaluation.restoration import Quality, psnr, restoration_quality, ssim
from prunus.evaluation.size import count_bytes, count_params
from prunus.graph import count_macs

__all__ = [
    "MULTIPLES",
    "RUNTIMES",
    "Comparison",
    "Estimate",
    "Grid",
    "LatencyTable",
    "Quality",
    "RuntimeUnavailableError",
    "WidthSteps",
    "accuracy",
    "compare_latency",
    "compiled_call",
    "count_bytes",
    "count_macs",
    "count_params",
    "eager_call",
    "enough_dimensions",
    "excess_shares",
    "latent_curve",
    "layer_rows",
    "measure",
    "measure_latency_table",
    "onnx_call",
    "primary",
    "psnr",
    "restoration_quality",
    "ssim",
]
