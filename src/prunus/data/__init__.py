"""Data by name: a name and a seed in, deterministic loaders out."""

from prunus.data.load import find_data, load_data
from prunus.data.registry import DATASETS, DataEntry
from prunus.data.sampler import SeededSampler
from prunus.data.splits import DataSplits, split_stratified

__all__ = [
    "DATASETS",
    "DataEntry",
    "DataSplits",
    "SeededSampler",
    "find_data",
    "load_data",
    "split_stratified",
]
