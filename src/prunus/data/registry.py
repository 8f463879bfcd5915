"""The registry of data sets: metadata of each name, whether it is present, how it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from prunus.core import ConfigError, DataError, Registry, Task
from prunus.data.splits import DataSplits

__all__ = [
    "DATASETS",
    "DataEntry",
    "DataSettings",
    "DatasetBuilder",
    "DatasetFinder",
    "Shape",
    "find_nothing",
    "missing",
    "register_data",
]

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The settings of every data set; `argument` is the text after the name's colon.

    Raises:
        ConfigError: the batch is empty, or `input_shape` is not three positive numbers.
    """

    argument: str = ""
    seed: int = 0
    data_root: Path = Path("data")
    batch_size: int = 128
    input_shape: Shape | None = None
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
        """Return the loaders for `settings`."""
        ...


class DatasetFinder(Protocol):
    """Checks whether a data set is present, by its file names alone."""

    def __call__(self, data_root: Path, argument: str) -> Path | None:
        """Return the folder of the data set, or None if something is missing."""
        ...


@dataclass(frozen=True, kw_only=True)
class DataEntry:
    """A data set by name: its source, content, location and loader.

    | field | meaning |
    | --- | --- |
    | build | makes the loaders |
    | find | where it is, without reading it; None if not present |
    | task | classification, or restoration: pairs of images, no classes |
    | source | its authors and reference, one line |
    | terms | its licence or terms of use, one line |
    | input_shape | its default (C, H, W) |
    | num_classes | 0: not known before the data are read, or restoration |
    | sizes | images of each published split, by its name; empty: the user's own |
    | argument | what follows the colon of its name; "" if nothing, "[…]" if optional |
    | place | the folder of its files in data_root; "" if none |
    | get | where to get them |
    """

    build: DatasetBuilder
    find: DatasetFinder
    task: Task
    source: str
    terms: str
    input_shape: Shape
    num_classes: int = 0
    sizes: Mapping[str, int] = field(default_factory=dict)
    argument: str = ""
    place: str = ""
    get: str = ""

    @property
    def needs_argument(self) -> bool:
        """Whether the name needs an argument, as `folder` needs its path."""
        return bool(self.argument) and not self.argument.startswith("[")


DATASETS = Registry[DataEntry]("data set", hint=" (folder as folder:PATH)")

B = TypeVar("B", bound=DatasetBuilder)


def find_nothing(data_root: Path, argument: str) -> Path | None:
    """Find a data set without files, because it comes with a package: `data_root` itself."""
    return data_root


def register_data(
    name: str,
    *,
    source: str,
    terms: str,
    input_shape: Shape,
    find: DatasetFinder = find_nothing,
    task: Task = "classification",
    num_classes: int = 0,
    sizes: Mapping[str, int] | None = None,
    argument: str = "",
    place: str = "",
    get: str = "",
) -> Callable[[B], B]:
    """Return a decorator that registers a builder under `name`; see `DataEntry` for the rest."""

    def file(build: B) -> B:
        DATASETS.register(name)(
            DataEntry(
                build=build,
                find=find,
                task=task,
                source=source,
                terms=terms,
                input_shape=input_shape,
                num_classes=num_classes,
                sizes=dict(sizes or {}),
                argument=argument,
                place=place,
                get=get,
            )
        )
        return build

    return file


def missing(name: str, data_root: Path, files: str, reason: str = "") -> DataError:
    """Return the error that a data set is missing, with where to get it and where to put it.

    `files` says what is missing; `reason`, why it was not downloaded, if it can be.
    """
    entry = DATASETS[name]
    why = f" {reason}" if reason else ""
    return DataError(
        f"{name} is incomplete in {data_root / entry.place}{why}: get it from {entry.get}, "
        f"put {files} there, or name another data_root"
    )
