"""Adience: 26 580 unfiltered photographs of faces, labelled by age group and by gender."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import torch

from prunus.core import DataError, read_text
from prunus.data.file_splits import split_files
from prunus.data.files import Files, Recipe
from prunus.data.registry import DataSettings, missing, register_data
from prunus.data.splits import DataSplits

__all__ = ["load_adience"]

_FOLDS = tuple(f"fold_{i}_data.txt" for i in range(5))
_CLASSES = {  # the text of the fold files → the name of the class, in the order of labels
    "age": {
        "(0, 2)": "0-2",
        "(4, 6)": "4-6",
        "(8, 12)": "8-13",
        "(15, 20)": "15-20",
        "(25, 32)": "25-32",
        "(38, 43)": "38-43",
        "(48, 53)": "48-53",
        "(60, 100)": "60+",
    },
    "gender": {"f": "female", "m": "male"},
}


def _find(data_root: Path, argument: str) -> Path | None:
    folder = data_root / "adience"
    whole = (folder / "aligned").is_dir() and all((folder / name).is_file() for name in _FOLDS)
    return folder if whole else None


@register_data(
    "adience",
    source="Eidinger, Enbar, Hassner: Age and gender estimation of unfiltered faces, 2014",
    terms="research only, after registration; images are Creative Commons of their owners",
    input_shape=(3, 224, 224),
    argument="age|gender[:FOLD]",
    sizes={"all": 26_580},
    find=_find,
    place="adience",
    get="https://talhassner.github.io/home/projects/Adience/Adience-data.html (registration)",
)
def load_adience(settings: DataSettings) -> DataSplits:
    """Load Adience by age or gender: `adience:age`, `adience:gender`, `adience:age:2`.

    Read from `data_root`/adience: fold_0_data.txt … fold_4_data.txt (tab-separated, with a header:
    user_id, original_image, face_id, age, gender, …) and, from aligned.tar.gz,
    aligned/USER/landmark_aligned_face.FACE.IMAGE. No person is in two folds. Ages are the eight
    published groups; faces with another label (single years, a few other intervals, "None") or of
    unknown gender are excluded from that task.

    The fold after the second colon, 1 to 5, is the test split, the one before it (5 before 1) the
    validation, the other three the training. By default it is 5, so that folds 1 to 3 are for
    training, 4 for validation, 5 for testing, as in [Tian, section 3.3.2]. The random seed has no
    effect on the splits.

    Images are resized to 224×224 (aligned faces are square); augmented: a random crop of 80 to 100
    % of the area, flipped at random (ours).

    Source: [Adience].

    Raises:
        DataError: files are missing or broken, or the name has an unknown label or fold.
    """
    attribute, _, number = settings.argument.partition(":")
    if attribute not in _CLASSES or number not in ("", *"12345"):
        raise DataError(
            f"adience was given {settings.argument!r}: write adience:age or adience:gender and, "
            "for a test fold other than 5, its number, as in adience:age:1"
        )
    folder = _find(settings.data_root, "")
    if folder is None:
        raise missing(
            "adience", settings.data_root, f"the unpacked folder aligned, {', '.join(_FOLDS)}"
        )
    folds = [_read(folder, name, attribute) for name in _FOLDS]
    test = int(number or 5) - 1
    validation = (test - 1) % 5
    rest = [folds[i] for i in range(5) if i not in (test, validation)]
    train = Files(
        tuple(path for fold in rest for path in fold.paths),
        torch.cat([fold.labels for fold in rest]),
    )
    for path in (path for fold in folds for path in fold.paths):
        if not path.is_file():
            raise missing("adience", settings.data_root, str(path.relative_to(folder)))
    return split_files(
        settings,
        name=f"adience:{settings.argument}",
        parts={"train": train, "validation": folds[validation], "test": folds[test]},
        class_names=tuple(_CLASSES[attribute].values()),
        recipe=Recipe(squash=True, least_area=0.8),
    )


def _read(folder: Path, name: str, attribute: str) -> Files:
    """Return the labelled faces of one fold file."""
    labels = {text: label for label, text in enumerate(_CLASSES[attribute])}
    paths, found = [], []
    text = read_text(folder / name, raising=DataError).removeprefix("\ufeff")  # of an editor
    lines = io.StringIO(text, newline="")
    rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    needed = {"user_id", "original_image", "face_id", attribute}
    if not needed <= set(rows.fieldnames or ()):
        raise DataError(
            f"{folder / name} has no header with {', '.join(sorted(needed))}: put the original "
            "file there"
        )
    for row in rows:
        label = labels.get(row[attribute])
        if label is not None:
            face = f"landmark_aligned_face.{row['face_id']}.{row['original_image']}"
            paths.append(folder / "aligned" / row["user_id"] / face)
            found.append(label)
    if not found:
        raise DataError(f"{folder / name} labels no face by {attribute}: put the original there")
    return Files(tuple(paths), torch.tensor(found))
