"""Flowers-102: 8 189 photographs of flowers of 102 species, with published splits."""

from __future__ import annotations

from pathlib import Path

import torch

from prunus.core import DataError, imported
from prunus.data.download import download
from prunus.data.file_splits import split_files
from prunus.data.files import Files, Recipe, read_mat
from prunus.data.registry import DataSettings, missing, register_data
from prunus.data.splits import DataSplits

__all__ = ["load_flowers102"]

_SPLITS = {"train": "trnid", "validation": "valid", "test": "tstid"}
_MATS = ("imagelabels.mat", "setid.mat")


def _find(data_root: Path, argument: str) -> Path | None:
    folder = data_root / "flowers-102"
    whole = (folder / "jpg").is_dir() and all((folder / name).is_file() for name in _MATS)
    return folder if whole else None


@register_data(
    "flowers102",
    source="Nilsback, Zisserman: Automated flower classification over a large number of classes, "
    "2008",
    terms="none stated; the photographs are their owners'",
    input_shape=(3, 224, 224),
    num_classes=102,
    sizes={"train": 1_020, "validation": 1_020, "test": 6_149},
    find=_find,
    place="flowers-102",
    get="https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
)
def load_flowers102(settings: DataSettings) -> DataSplits:
    """Load Flowers-102 from `data_root`/flowers-102: jpg/, imagelabels.mat, setid.mat.

    If missing, it is downloaded if permitted. All three splits are the published ones, with ten
    training and ten validation images per class, so the seed has no effect on them. (Some work
    trains on the large test split instead; this does not.)

    Images as for ImageNet: shorter side resized to 256, centre crop of 224×224 (in proportion for
    other sizes); augmented: a random crop of 8 to 100 % of the area, resized, flipped at random.

    Source: [Flowers]; the order of names in torchvision's `Flowers102.classes`.

    Raises:
        DataError: files are broken, or missing and cannot be downloaded.
    """
    root = settings.data_root
    if _find(root, "") is None:
        download(
            "flowers102",
            root,
            f"the unpacked folder jpg, {_MATS[0]} and {_MATS[1]}",
            lambda datasets: datasets.Flowers102(root, download=True),
        )
    folder = root / "flowers-102"
    labels = read_mat(folder / _MATS[0], ("labels",))["labels"].reshape(-1)  # of image 1, 2, …
    if set(labels.tolist()) != set(range(1, 103)):
        raise DataError(
            f"{folder / _MATS[0]} holds labels other than 1 to 102: put the original file there"
        )
    numbers = read_mat(folder / _MATS[1], _SPLITS.values())
    parts = {}
    for part, name in _SPLITS.items():
        chosen = torch.from_numpy(numbers[name].reshape(-1).astype("int64")) - 1
        if not 0 <= int(chosen.min()) <= int(chosen.max()) < len(labels):
            raise DataError(
                f"{folder / _MATS[1]} names images that {_MATS[0]} has no labels for, which has "
                f"{len(labels)}: put the original files there"
            )
        paths = tuple(folder / "jpg" / f"image_{i + 1:05d}.jpg" for i in chosen.tolist())
        lost = next((path for path in paths if not path.is_file()), None)
        if lost is not None:
            raise missing("flowers102", root, f"jpg/{lost.name}")
        parts[part] = Files(paths, torch.from_numpy(labels.astype("int64"))[chosen] - 1)
    return split_files(
        settings,
        name="flowers102",
        parts=parts,
        class_names=tuple(imported("torchvision.datasets").Flowers102.classes),
        recipe=Recipe(margin=256 / 224, least_area=0.08),
    )
