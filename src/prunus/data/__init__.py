"""Data sets by name: a name and a seed give deterministic loaders."""

from prunus.data.load import find_data, load_data
from prunus.data.pairs import rgb_to_luma
from prunus.data.registry import DATASETS, DataEntry
from prunus.data.sampler import ClassBalancedBatches, SeededSampler, balanced_loader
from prunus.data.splits import DataSplits, split_stratified

__all__ = [
    "DATASETS",
    "ClassBalancedBatches",
    "DataEntry",
    "DataSplits",
    "SeededSampler",
    "balanced_loader",
    "find_data",
    "load_data",
    "rgb_to_luma",
    "split_stratified",
]
