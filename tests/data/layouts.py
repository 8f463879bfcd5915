"""Tiny copies of the public layouts, in the true formats, each image of random pixels."""

import hashlib
import io
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

from prunus.data.files import cifar_compact

AGES = ("(0, 2)", "(4, 6)", "(8, 12)", "(15, 20)", "(25, 32)", "(38, 43)", "(48, 53)", "(60, 100)")
ATTRIBUTES = ("Male", "Smiling", "5_o_Clock_Shadow")
WORDNET = {
    "n01440764": ("tench", "Tinca tinca"), "n02012849": ("crane",), "n03126707": ("crane",),
}  # fmt: skip


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    sizes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def save_jpeg(path: Path, seed: int, size: tuple[int, int] = (24, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(*size, 3, seed=seed)).save(path, "JPEG", quality=95)


def pickle_as_python2(value) -> bytes:
    """Pickle as Python 2's cPickle did, protocol 2, NumPy's arrays as NumPy did then."""

    def text(string: str | bytes) -> bytes:
        data = string.encode("latin1") if isinstance(string, str) else string
        if len(data) < 256:
            return b"U" + bytes([len(data)]) + data
        return b"T" + struct.pack("<i", len(data)) + data

    def one(value) -> bytes:
        if isinstance(value, str):
            return text(value)
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, list):
            return b"](" + b"".join(map(one, value)) + b"e"
        if isinstance(value, dict):
            return b"}(" + b"".join(one(k) + one(v) for k, v in value.items()) + b"u"
        dtype = b"cnumpy\ndtype\n" + text("u1") + one(0) + one(1) + b"\x87R"
        dtype += b"(" + one(3) + text("|") + b"NNN" + one(-1) + one(-1) + one(0) + b"tb"
        empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        empty += one(0) + b"\x85" + text("b") + b"\x87R"
        shape = b"(" + b"".join(map(one, value.shape)) + b"t"
        return empty + b"(" + one(1) + shape + dtype + b"\x89" + text(value.tobytes()) + b"tb"

    return b"\x80\x02" + one(value) + b"."


def write_mnist(root: Path) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for seed, (stem, count) in enumerate((("train", 240), ("t10k", 40))):
        images, labels = pixels(count, 28, 28, seed=seed), np.arange(count) % 10
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(idx(labels))


def write_cifar10(root: Path) -> None:
    """Write five batches of 24 images and a test batch of 20."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for seed, name in enumerate(names):
        count = 20 if name == "test_batch" else 24
        labels = [(i + seed) % 10 for i in range(count)]
        batch = {"batch_label": name, "labels": labels, "data": pixels(count, 3072, seed=seed)}
        (folder / name).write_bytes(pickle_as_python2(batch))
    meta = {"num_cases_per_batch": 24, "label_names": list(cifar_compact._CLASSES)}
    (folder / "batches.meta").write_bytes(pickle_as_python2(meta))


def write_compact(root: Path, monkeypatch) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write five parts of 24 images and a test part of 20, in strips of 10; return the images."""
    folder = root / "cifar10"
    folder.mkdir(parents=True)
    written, sums = {}, {}
    for split, names in cifar_compact._PARTS.items():
        count = 20 if split == "test" else 24
        images = pixels(len(names) * count, 32, 32, 3, seed=len(split))
        labels = np.arange(len(images)) % 10
        for i, name in enumerate(names):
            mine = images[i * count : (i + 1) * count]
            strips = []
            for start in range(0, count, 10):
                file = io.BytesIO()
                strip = mine[start : start + 10].reshape(-1, 32, 3)
                Image.fromarray(strip).save(file, "WEBP", lossless=True)
                strips.append(file.getvalue())
            np.savez(
                folder / name,
                data=np.frombuffer(b"".join(strips), np.uint8),
                offsets=np.cumsum([0, *map(len, strips)]),
                labels=labels[i * count : (i + 1) * count].astype(np.uint8),
            )
        sums[split] = tuple(
            hashlib.sha256(a.astype(np.uint8).tobytes()).hexdigest() for a in (images, labels)
        )
        written[split] = images, labels
    monkeypatch.setattr(cifar_compact, "_SHA256", sums)
    return written


def write_cifar100(root: Path) -> None:
    """Write 1 000 + 100 images; fine class f is of the coarse class 7·f mod 20."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for seed, (name, count) in enumerate((("train", 1000), ("test", 100))):
        fine = [i % 100 for i in range(count)]
        coarse = [7 * label % 20 for label in fine]
        held = {"data": pixels(count, 3072, seed=seed), "fine_labels": fine}
        (folder / name).write_bytes(pickle_as_python2(held | {"coarse_labels": coarse}))
    meta = {
        "fine_label_names": [f"fine {i}" for i in range(100)],
        "coarse_label_names": [f"coarse {i}" for i in range(20)],
    }
    (folder / "meta").write_bytes(pickle_as_python2(meta))


def write_svhn(root: Path) -> None:
    """Write 240 + 30 images; the labels are 1 … 9 and 10 for the digit 0."""
    root.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate((("train", 240), ("test", 30))):
        labels = (np.arange(count) % 10 + 1).astype(np.uint8).reshape(-1, 1)
        savemat(
            root / f"{split}_32x32.mat", {"X": pixels(32, 32, 3, count, seed=seed), "y": labels}
        )


def write_flowers(root: Path) -> None:
    """Write 306 images, three of each class: one for training, one for validation, one to test."""
    folder = root / "flowers-102"
    for i in range(1, 307):
        save_jpeg(folder / "jpg" / f"image_{i:05d}.jpg", seed=i)
    order = np.random.default_rng(0).permutation(306)
    labels = np.empty(306, np.uint8)
    labels[order] = np.arange(306) % 102 + 1
    savemat(folder / "imagelabels.mat", {"labels": labels.reshape(1, -1)})
    parts = np.split((order + 1).astype(np.uint16), 3)
    names = ("trnid", "valid", "tstid")
    savemat(folder / "setid.mat", {n: p.reshape(1, -1) for n, p in zip(names, parts, strict=True)})


def write_imagenet(root: Path) -> None:
    """Write 12 + 4 images of each of three classes, and torchvision's meta.bin."""
    for c, name in enumerate(WORDNET):
        for i in range(16):
            part = f"train/{name}/{name}_{i}" if i < 12 else f"val/{name}/ILSVRC2012_val_{c}{i}"
            save_jpeg(root / "imagenet" / f"{part}.JPEG", seed=16 * c + i)
    torch.save((WORDNET, ["n01440764"]), root / "imagenet" / "meta.bin")


def cells(texts) -> np.ndarray:
    """Return a column of MATLAB cells."""
    column = np.empty((len(texts), 1), dtype=object)
    column[:, 0] = list(texts)
    return column


PEOPLE = ("Ann_Berg", "Bo_de_Ruiz", "Cem_Zola", "Dan_Quist", "Eve_Adams", "Flo_Rand", "Gus_Young")


def write_lfwa(root: Path) -> None:
    """Write four images of each of seven people; the last two are for testing."""
    folder = root / "lfwa"
    names = [f"{person}\\{person}_{i:04d}.jpg" for person in PEOPLE for i in range(1, 5)]
    for seed, name in enumerate(names):
        save_jpeg(folder / "lfw" / name.replace("\\", "/"), seed=seed)
    labels = np.array([[i % 2, i // 2 % 2, i % 3 == 0] for i in range(28)], dtype=float)
    savemat(
        folder / "lfw_att_40.mat",
        {"name": cells(names), "label": labels, "AttrName": cells(ATTRIBUTES)},
    )
    indices = np.arange(1.0, 29.0).reshape(-1, 1)
    savemat(
        folder / "indices_train_test.mat",
        {"indices_img_train": indices[:20], "indices_img_test": indices[20:]},
    )


def write_adience(root: Path) -> None:
    """Write five folds of eight faces, one of each age, and two that are excluded."""
    folder = root / "adience"
    for fold in range(5):
        head = "user_id\toriginal_image\tface_id\tage\tgender\tx\ty\tdx\tdy\ttilt_ang\t"
        lines = [head + "fiducial_yaw_angle\tfiducial_score"]
        for i, age in enumerate((*AGES, "35", "None")):
            gender = "u" if i == 9 else "fm"[i % 2]
            user, face, image = f"30601258@N0{fold}", 100 * fold + i, f"{i}_1be5_o.jpg"
            lines.append(f"{user}\t{image}\t{face}\t{age}\t{gender}\t0\t0\t9\t9\t115\t30\t17")
            name = f"landmark_aligned_face.{face}.{image}"
            save_jpeg(folder / "aligned" / user / name, seed=face, size=(20, 20))
        (folder / f"fold_{fold}_data.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_fruit(root: Path) -> None:
    """Write 10, 20 and 30 images of three classes into root/fruit."""
    for label, name in enumerate(("apple", "cherry", "plum")):
        (root / "fruit" / name).mkdir(parents=True)
        for i in range(10 + 10 * label):
            image = pixels(12, 14, 3, seed=100 * label + i)
            Image.fromarray(image).save(root / "fruit" / name / f"{i}.png")


WRITERS = {
    "mnist": write_mnist,
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "svhn": write_svhn,
    "flowers102": write_flowers,
    "imagenet": write_imagenet,
    "lfwa": write_lfwa,
    "adience": write_adience,
    "folder": write_fruit,
}
