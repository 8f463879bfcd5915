"""The registry of data sets: a builder takes the seed and the settings of its loaders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prunus.core import Registry
from prunus.core.errors import ConfigError
from prunus.data.splits import DataSplits

__all__ = ["DATASETS", "DataSettings", "DatasetBuilder"]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What every data set is asked for; `argument` is the text after the name's colon.

    Raises:
        ConfigError: the batch is empty, or `input_shape` is not three positive numbers.
    """

    argument: str = ""
    seed: int = 0
    data_root: Path = Path("data")
    batch_size: int = 128
    input_shape: tuple[int, int, int] | None = None
    augment: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}, expected at least 1")
        shape = self.input_shape
        if shape is not None and (len(shape) != 3 or min(shape) < 1):
            raise ConfigError(
                f"input_shape is {tuple(shape)}, expected three positive numbers: "
                "channels, height, width"
            )


class DatasetBuilder(Protocol):
    """Builds the loaders of one data set."""

    def __call__(self, settings: DataSettings) -> DataSplits:
        """Return the loaders that `settings` ask for."""
        ...


DATASETS = Registry[DatasetBuilder]("data set", hint=" (folder as folder:PATH)")
