"""LFWA and Adience."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from prunus.core.errors import DataError
from prunus.data import load_data
from prunus.data.files.decode import read_image
from prunus.data.files.mat_files import read_mat
from tests.data.layouts import AGES, ATTRIBUTES, PEOPLE, cells, write_adience, write_lfwa

SHAPE = (3, 8, 6)
PARTS = ("train", "validation", "test")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_lfwa(tmp_path)
    write_adience(tmp_path)
    return tmp_path


def load(name: str, root: Path):
    return load_data(name, data_root=root, input_shape=SHAPE)


def paths(loader) -> tuple[Path, ...]:
    return loader.dataset.files.paths


def people(loader) -> set[str]:
    return {path.parent.name for path in paths(loader)}


def test_lfwa_validates_on_last_names_from_r_to_z(root):
    data = load("lfwa:Smiling", root)
    assert people(data.train) == {"Ann_Berg", "Dan_Quist", "Eve_Adams"}
    assert people(data.validation) == {"Bo_de_Ruiz", "Cem_Zola"}
    assert people(data.test) == {"Flo_Rand", "Gus_Young"}
    assert data.class_names == ("not Smiling", "Smiling")


@pytest.mark.parametrize(
    ("asked", "column"), [("Male", 0), ("smiling", 1), ("5 o clock shadow", 2)]
)
def test_lfwa_labels_by_the_attribute_asked_for(root, asked, column):
    data = load(f"lfwa:{asked}", root)
    assert data.name == f"lfwa:{ATTRIBUTES[column]}"
    for part in PARTS:
        files = getattr(data, part).dataset.files
        for path, label in zip(files.paths, files.labels.tolist(), strict=True):
            i = 4 * PEOPLE.index(path.parent.name) + int(path.stem[-4:]) - 1
            assert label == (i % 2, i // 2 % 2, i % 3 == 0)[column]


def test_faces_are_squeezed_not_cropped(root):
    dataset = load("lfwa:Male", root).test.dataset
    shown = np.asarray(read_image(dataset.files.paths[0], 3).resize((6, 8), Image.BILINEAR)) / 255
    expected = ((shown - MEAN) / STD).transpose(2, 0, 1)
    torch.testing.assert_close(dataset[0][0].double(), torch.tensor(expected), atol=1e-5, rtol=0)


def test_lfwa_lists_its_attributes(root):
    with pytest.raises(DataError, match="no attribute 'Tall': choose one of Male, Smiling, 5_o_C"):
        load("lfwa:Tall", root)
    with pytest.raises(DataError, match="without its ATTRIBUTE: write lfwa:ATTRIBUTE"):
        load("lfwa", root)


def save_indices(root: Path, train, test) -> None:
    savemat(
        root / "lfwa" / "indices_train_test.mat",
        {"indices_img_train": np.array(train), "indices_img_test": np.array(test)},
    )


@pytest.mark.parametrize(
    ("train", "test", "sentence"),
    [
        (range(1, 21), range(20, 29), "names images twice, or images other than the 28"),
        (range(20), range(20, 29), "names images twice, or images other than the 28"),
        (range(1, 21), range(21, 30), "names images twice, or images other than the 28"),
        (range(1, 5), range(21, 29), "images of only one class for validation"),
        (range(1, 21), [21, 23], "images of only one class for test"),
    ],
)
def test_lfwa_with_an_odd_split_is_refused(root, train, test, sentence):
    save_indices(root, list(train), list(test))
    with pytest.raises(DataError, match=sentence):
        load("lfwa:Male", root)


def test_lfwa_with_fewer_labels_is_refused(root):
    path = root / "lfwa" / "lfw_att_40.mat"
    held = read_mat(path, ("name", "label", "AttrName"))
    names, attributes = held["name"].reshape(-1), held["AttrName"].reshape(-1)
    label = held["label"][:, :2]
    savemat(path, {"name": cells(names), "label": label, "AttrName": cells(attributes)})
    with pytest.raises(DataError, match=r"labels of \(28, 2\), expected \(28, 3\)"):
        load("lfwa:Male", root)


def test_a_missing_face_is_named(root):
    (root / "lfwa" / "lfw" / "Cem_Zola" / "Cem_Zola_0002.jpg").unlink()
    with pytest.raises(DataError, match=r"is incomplete .*put lfw/Cem_Zola/Cem_Zola_0002\.jpg"):
        load("lfwa:Male", root)
    next((root / "adience" / "aligned" / "30601258@N03").glob("*.304.*")).unlink()
    with pytest.raises(DataError, match=r"put aligned/30601258@N03/landmark_aligned_face\.304\.4_"):
        load("adience:age", root)


HEAD_73 = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(128) + bytes(400)


def test_a_matlab_73_file_asks_for_h5py(root, monkeypatch):
    (root / "lfwa" / "lfw_att_40.mat").write_bytes(HEAD_73)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"lfw_att_40\.mat is a MATLAB 7\.3 file, .*install h5py"):
        load("lfwa:Male", root)


def test_matlab_73_files_hold_the_same(root):
    h5py = pytest.importorskip("h5py")
    before = load("lfwa:Smiling", root)
    for path in (root / "lfwa").glob("*.mat"):
        held = read_mat(path, ("name", "label", "AttrName") if "att" in path.name else (
            "indices_img_train", "indices_img_test"))  # fmt: skip
        path.unlink()
        with h5py.File(path, "w", userblock_size=512) as file:
            for name, array in held.items():
                if array.dtype.kind != "U":
                    file[name] = array.T
                    continue
                cell = file.create_dataset(name, array.T.shape, dtype=h5py.ref_dtype)
                for i, text in enumerate(array.reshape(-1)):
                    codes = np.array([[ord(c)] for c in text], np.uint16)
                    file[f"#refs#/{name}{i}"] = codes
                    cell[0, i] = file[f"#refs#/{name}{i}"].ref
        content = bytearray(path.read_bytes())
        content[:128] = HEAD_73[:128]
        path.write_bytes(content)
    after = load("lfwa:Smiling", root)
    for part in PARTS:
        assert paths(getattr(before, part)) == paths(getattr(after, part))
        one, two = (getattr(data, part).dataset.files.labels for data in (before, after))
        assert torch.equal(one, two)


@pytest.mark.parametrize("keep", [0, 100, 300])
def test_a_broken_mat_file_is_named(root, keep):
    path = root / "lfwa" / "indices_train_test.mat"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"indices_train_test\.mat (cannot be read|holds no)"):
        load("lfwa:Male", root)


@pytest.mark.parametrize(
    ("suffix", "folds"),
    [("", ([0, 1, 2], [3], [4])), (":5", ([0, 1, 2], [3], [4])), (":1", ([1, 2, 3], [4], [0]))],
)
def test_adience_takes_folds_in_turn(root, suffix, folds):
    data = load(f"adience:age{suffix}", root)
    for part, expected in zip(PARTS, folds, strict=True):
        assert people(getattr(data, part)) == {f"30601258@N0{i}" for i in expected}


def test_adience_by_age_leaves_other_labels_out(root):
    data = load("adience:age", root)
    assert data.class_names == ("0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60+")
    assert data.test.dataset.files.labels.tolist() == list(range(8))
    names = [path.name for path in paths(data.test)]
    assert names == [f"landmark_aligned_face.{400 + i}.{i}_1be5_o.jpg" for i in range(8)]
    assert len(AGES) == data.num_classes


def test_adience_by_gender_leaves_the_unknown_out(root):
    data = load("adience:gender", root)
    assert data.class_names == ("female", "male")
    assert data.test.dataset.files.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("argument", ["height", "age:0", "age:6", "age:12", "age:x", ":1"])
def test_adience_says_how_it_is_named(root, argument):
    with pytest.raises(DataError, match="write adience:age or adience:gender and, for a test fold"):
        load(f"adience:{argument}", root)


def test_odd_fold_files_are_named(root):
    path = root / "adience" / "fold_2_data.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([lines[0], lines[9], "", lines[10]]), encoding="utf-8")
    with pytest.raises(DataError, match=r"fold_2_data\.txt labels no face by age"):
        load("adience:age", root)
    path.write_text("\n".join(lines[1:]), encoding="utf-8")
    with pytest.raises(DataError, match=r"fold_2_data\.txt has no header with age, face_id, orig"):
        load("adience:age", root)


def test_fold_files_with_a_byte_order_mark_and_in_another_encoding(root):
    before = load("adience:age", root).train.dataset.files
    path = root / "adience" / "fold_0_data.txt"
    text = path.read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8-sig")
    assert load("adience:age", root).train.dataset.files.paths == before.paths
    path.write_text(text.replace("age", "\u00e2ge"), encoding="latin-1")
    with pytest.raises(
        DataError, match=r"fold_0_data\.txt is not a text file in UTF-8 .* save it as"
    ):
        load("adience:age", root)
