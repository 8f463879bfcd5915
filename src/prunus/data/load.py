"""The entry point: load a data set by name and seed."""

from __future__ import annotations

import importlib
import pkgutil
from contextlib import nullcontext
from pathlib import Path

from prunus.core import DataError, permitting_downloads
from prunus.data import sets
from prunus.data.registry import DATASETS, DataSettings
from prunus.data.splits import DataSplits

__all__ = ["find_data", "load_data"]

# Each data set registers itself when its file in `sets` is imported.
for _module in pkgutil.iter_modules(sets.__path__):
    importlib.import_module(f"{sets.__name__}.{_module.name}")


def load_data(
    name: str,
    *,
    seed: int = 0,
    data_root: Path = Path("data"),
    batch_size: int = 128,
    input_shape: tuple[int, int, int] | None = None,
    augment: bool = False,
    download: bool = False,
) -> DataSplits:
    """Load the data set `name`, such as 'digits', 'cifar10:cutout' or 'folder:PATH'.

    `DATASETS` lists the data sets, and each builder's docstring says where it is read from and how
    it is split. The test split is the published one and the same for every seed, so that runs can
    be compared; `seed` selects the validation images among the rest (unless they are published as
    well), and the order of training. The same seed gives the same splits. Images are resized to
    `input_shape` (C, H, W), by default the data set's own; grey ones are repeated to C channels.
    `augment` shifts, or crops and flips, the training images (not those of `calibration`), by
    PyTorch's global generator. What is missing is downloaded, over https, only with `download` or
    within `prunus.core.permitting_downloads`, and if torchvision can.

    Raises:
        UnknownNameError: no such data set; the message lists the known ones.
        ConfigError: `batch_size` or `input_shape` is not positive.
        DataError: files are missing, unreadable, or too few for the split.

    Example:
        >>> data = load_data("digits", seed=0)
        >>> data.num_classes, data.input_shape
        (10, (1, 28, 28))
    """
    kind, colon, argument = name.partition(":")
    entry = DATASETS[kind]
    if entry.needs_argument and not argument:
        raise DataError(
            f"{kind} was given without its {entry.argument}: write {kind}:{entry.argument}"
        )
    if colon and not entry.argument:
        raise DataError(
            f"{kind} takes nothing after its name, but was given {argument!r}: write {kind}"
        )
    settings = DataSettings(
        argument=argument,
        seed=seed,
        data_root=Path(data_root),
        batch_size=batch_size,
        input_shape=input_shape,
        augment=augment,
    )
    with permitting_downloads() if download else nullcontext():
        return entry.build(settings)


def find_data(name: str, data_root: Path = Path("data")) -> Path | None:
    """Return the folder of the data set `name`, or None if it is incomplete.

    Only file names are checked, and nothing is downloaded; an existing file may still be broken.

    Raises:
        UnknownNameError: no such data set.
    """
    kind, _, argument = name.partition(":")
    return DATASETS[kind].find(Path(data_root), argument)
