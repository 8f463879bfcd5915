"""The one way in: a name and a seed."""

from __future__ import annotations

from pathlib import Path

from prunus.core.errors import DataError

# The data sets register themselves when imported.
from prunus.data import digits, folder, mnist  # noqa: F401
from prunus.data.registry import DATASETS, DataSettings
from prunus.data.splits import DataSplits

__all__ = ["load_data"]


def load_data(
    name: str,
    *,
    seed: int = 0,
    data_root: Path = Path("data"),
    batch_size: int = 128,
    input_shape: tuple[int, int, int] | None = None,
    augment: bool = False,
) -> DataSplits:
    """Load the data set `name`: 'digits', 'mnist' or 'folder:PATH'.

    The test split is the same for every seed, so that runs can be compared; `seed` picks the
    validation images out of the rest, and the order of training. The same seed gives the same
    splits. Images are resized to `input_shape` (C, H, W), by default the data set's own; grey
    ones are repeated to C channels. `augment` shifts, or crops and flips, the training images
    (not those of `calibration`), by PyTorch's global generator.

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
    builder = DATASETS[kind]
    if kind == "folder" and not argument:
        raise DataError("folder came without a path: write folder:PATH")
    if kind != "folder" and colon:
        raise DataError(f"{kind} takes no path, but {argument!r} came: write {kind}")
    return builder(
        DataSettings(
            argument=argument,
            seed=seed,
            data_root=Path(data_root),
            batch_size=batch_size,
            input_shape=input_shape,
            augment=augment,
        )
    )
