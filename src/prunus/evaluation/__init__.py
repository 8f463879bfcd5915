"""Measure a network without changing it."""

from prunus.evaluation.accuracy import accuracy, primary
from prunus.evaluation.latency import Comparison, Estimate, compare_latency
from prunus.evaluation.latency_table import Grid, LatencyTable
from prunus.evaluation.latent import enough_dimensions, latent_curve
from prunus.evaluation.measure_table import measure_latency_table
from prunus.evaluation.quality import measure
from prunus.evaluation.restoration import Quality, psnr, restoration_quality, ssim
from prunus.evaluation.runtimes import (
    RUNTIMES,
    RuntimeUnavailableError,
    compiled_call,
    eager_call,
    onnx_call,
)
from prunus.evaluation.size import count_bytes, count_macs, count_params
from prunus.evaluation.steps import MULTIPLES, Steps, excess_shares

__all__ = [
    "MULTIPLES",
    "RUNTIMES",
    "Comparison",
    "Estimate",
    "Grid",
    "LatencyTable",
    "Quality",
    "RuntimeUnavailableError",
    "Steps",
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
    "measure",
    "measure_latency_table",
    "onnx_call",
    "primary",
    "psnr",
    "restoration_quality",
    "ssim",
]
