"""Data by name: a name and a seed in, deterministic loaders out."""

from prunus.data.load import load_data
from prunus.data.registry import DATASETS
from prunus.data.sampler import SeededSampler
from prunus.data.splits import DataSplits, split_stratified

__all__ = ["DATASETS", "DataSplits", "SeededSampler", "load_data", "split_stratified"]
