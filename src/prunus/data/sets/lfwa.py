"""LFWA: the 13 143 faces of Labeled Faces in the Wild with 40 attributes, one at a time."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

import torch

from prunus.core import DataError
from prunus.data.file_splits import split_files
from prunus.data.files import Files, Recipe, read_mat
from prunus.data.registry import DataSettings, missing, register_data
from prunus.data.splits import DataSplits

__all__ = ["load_lfwa"]

_ATTRIBUTES, _INDICES = "lfw_att_40.mat", "indices_train_test.mat"


def _find(data_root: Path, argument: str) -> Path | None:
    folder = data_root / "lfwa"
    whole = all((folder / name).is_file() for name in (_ATTRIBUTES, _INDICES))
    return folder if whole and (folder / "lfw").is_dir() else None


@register_data(
    "lfwa",
    source="Liu et al.: Deep learning face attributes in the wild, 2015; images: Huang et al. 2007",
    terms="non-commercial research only",
    input_shape=(3, 224, 224),
    num_classes=2,
    sizes={"train": 6_263, "test": 6_880},
    argument="ATTRIBUTE",
    find=_find,
    place="lfwa",
    get="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (LFWA)",
)
def load_lfwa(settings: DataSettings) -> DataSplits:
    """Load LFWA for one of its 40 attributes: `lfwa:Male` or `lfwa:Smiling`, for example.

    Read from `data_root`/lfwa: lfw/PERSON/PERSON_0001.jpg, lfw_att_40.mat (name, label, AttrName)
    and indices_train_test.mat (indices_img_train, indices_img_test, from 1). The classes are
    "not ATTRIBUTE" and ATTRIBUTE. The published files are of MATLAB's version 7.3 and need the
    package h5py; saved again as version 7 they do not need it.

    Test: the published half. Validation: those of the other half whose last name begins with R to
    Z, as in [Tian, section 3.3.2], so that no person is in two splits and the seed has no effect on
    them. Images are resized to 224×224 without keeping the aspect ratio (same section);
    augmented: a random crop of 80 to 100 % of the area, flipped at random (ours).

    Source: [LFWA]; the images are those of [LFW].

    Raises:
        DataError: files are missing or broken, or the attribute does not exist.
    """
    folder = _find(settings.data_root, "")
    if folder is None:
        raise missing("lfwa", settings.data_root, f"the folder lfw, {_ATTRIBUTES} and {_INDICES}")
    held = read_mat(folder / _ATTRIBUTES, ("name", "label", "AttrName"))
    attributes = [str(name).strip() for name in held["AttrName"].reshape(-1)]
    known = {_plain(name): column for column, name in enumerate(attributes)}
    column = known.get(_plain(settings.argument))
    if column is None:
        raise DataError(
            f"lfwa has no attribute {settings.argument!r}: choose one of {', '.join(attributes)}"
        )
    names = [PureWindowsPath(str(name).strip()) for name in held["name"].reshape(-1)]
    if held["label"].shape != (len(names), len(attributes)):
        raise DataError(
            f"{folder / _ATTRIBUTES} holds labels of {held['label'].shape}, expected "
            f"({len(names)}, {len(attributes)}): put the original file there"
        )
    labels = torch.from_numpy((held["label"][:, column] > 0).astype("int64"))
    files = Files(tuple(folder / "lfw" / Path(*name.parts) for name in names), labels)
    train, test = _indices(folder / _INDICES, len(names))
    late = torch.tensor(
        ["R" <= _last_name(names[i])[:1] <= "Z" for i in train.tolist()], dtype=torch.bool
    )
    parts = {"train": train[~late], "validation": train[late], "test": test}
    for part, index in parts.items():
        if len(set(files.labels[index].tolist())) < 2:
            raise DataError(
                f"{folder} has images of only one class for {part}: put the original files there"
            )
    lost = next((path for path in files.paths if not path.is_file()), None)
    if lost is not None:
        raise missing("lfwa", settings.data_root, str(lost.relative_to(folder)))
    attribute = attributes[column]
    return split_files(
        settings,
        name=f"lfwa:{attribute}",
        parts={part: files.select(index) for part, index in parts.items()},
        class_names=(f"not {attribute}", attribute),
        recipe=Recipe(squash=True, least_area=0.8),
    )


def _plain(name: str) -> str:
    """Return an attribute's name for comparison: `5_o_Clock_Shadow`, "5 o clock shadow"."""
    return name.replace(" ", "_").lower()


def _last_name(image: PureWindowsPath) -> str:
    """Return the last name of the person in an image, whose folder is FIRST_LAST."""
    return image.parts[0].rpartition("_")[2].upper()


def _indices(path: Path, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the positions, from 0, of the images for training and for testing."""
    held = read_mat(path, ("indices_img_train", "indices_img_test"))
    train, test = (torch.from_numpy(held[name].reshape(-1).astype("int64")) - 1 for name in held)
    every = [*train.tolist(), *test.tolist()]
    if len(set(every)) < len(every) or not set(every) <= set(range(count)):
        raise DataError(
            f"{path} names images twice, or images other than the {count} with attributes: "
            "put the original file there"
        )
    return train, test
