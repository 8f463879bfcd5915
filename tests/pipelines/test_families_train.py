"""One epoch of every family, as `prunus train` runs it, on a tiny folder of images."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import prunus
from prunus.models import MODELS
from prunus.pipelines import RunConfig, run_train
from prunus.training import TrainConfig
from tests.models.test_contract import SIDE, asked

SMALLEST = {family: names[0] for family, names in asked().items()}


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of ten small images, told apart by their colour."""
    root = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    for label in range(3):
        (root / str(label)).mkdir()
        for index in range(10):
            pixels = rng.integers(0, 120, (40, 40, 3), dtype=np.uint8)
            pixels[..., label] += 120
            Image.fromarray(pixels).save(root / str(label) / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven smooth images of two sizes."""
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(1)
    for index in range(7):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 8, 3), dtype=np.uint8))
        coarse.resize((112 + 8 * (index % 2), 120), Image.Resampling.BICUBIC).save(
            root / f"{index}.png"
        )
    return root


@pytest.mark.parametrize("family", SMALLEST)
def test_an_epoch_of_every_family(
    family: str, classes: Path, photographs: Path, tmp_path: Path
) -> None:
    name = SMALLEST[family]
    entry = MODELS[name]
    channels, height, width = entry.input_shape
    data = f"folder:{classes}"
    if entry.task == "restoration":
        kind = f"sr:{entry.scale}" if entry.scale > 1 else "denoise:25"
        data = f"{kind}:{photographs}"
    config = RunConfig(
        model=name,
        data=data,
        batch_size=8,
        augment=True,
        input_shape=(channels, min(height, SIDE), min(width, SIDE)),
        device="cpu",
        train=TrainConfig(epochs=1, lr=1e-3),
    )
    rows = run_train(config, tmp_path / "run").record.rows
    [epoch] = next(row["epochs"] for row in rows if row["event"] == "fit")
    assert math.isfinite(epoch["loss"])
    trained = next(row for row in rows if row["event"] == "trained")
    measure = "test_accuracy" if entry.task == "classification" else "test_psnr"
    assert math.isfinite(trained[measure])
    assert sum(p.numel() for p in prunus.load(tmp_path / "run").parameters()) == trained["params"]
