"""The sdist and the wheel made of it: what they hold, and that the wheel works elsewhere."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RUN = """
import sys
from prunus.cli import main

try:
    main()
finally:
    for name, module in sys.modules.items():
        if name.partition(".")[0] == "prunus":
            print("imported", module.__file__)
"""


def process(folder: Path, *command: str | Path) -> str:
    """Run a command there, with the wheel's prunus alone in front of what is installed."""
    path = {"PYTHONPATH": str(folder / "installed"), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        command, cwd=folder, env=os.environ | path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Build an sdist of the checkout, a wheel of the sdist, and install it: nothing is downloaded.

    The build is of a copy, for it would write into the source and read an old list of its files.
    """
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    waste = shutil.ignore_patterns("*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "src", copy / "src", ignore=waste)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    python = (sys.executable, "-m")
    process(folder, *python, "build", "--no-isolation", "--outdir", "dist", copy)
    [wheel] = (folder / "dist").glob("*.whl")
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")
    process(folder, *python, "pip", "install", *quiet, "--target", "installed", wheel)
    yield folder
    shutil.rmtree(folder)


def test_the_wheel_and_the_sdist_hold_every_file_of_the_source(folder: Path) -> None:
    source = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "prunus").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"prunus/py.typed", "prunus/__main__.py"} < source
    assert any(name.endswith("page.html") for name in source)
    [wheel] = (folder / "dist").glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == source
    [sdist] = (folder / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml"} < packed
    assert {f"src/{name}" for name in source} < packed


def test_the_wheel_says_its_licence_and_its_extras(folder: Path) -> None:
    [metadata] = (folder / "installed").glob("*.dist-info/METADATA")
    lines = metadata.read_text().splitlines()
    assert "License-Expression: Apache-2.0" in lines
    assert "License-File: LICENSE" in lines
    assert "Provides-Extra: torch-pruning" in lines
    needs = [line for line in lines if line.startswith("Requires-Dist: torch-pruning")]
    assert needs
    assert all("extra ==" in line for line in needs)


def test_the_command_of_the_wheel_helps_and_tells_its_version(folder: Path) -> None:
    command = (sys.executable, folder / "installed" / "bin" / "prunus")
    assert "Learn the structure of neural networks" in process(folder, *command, "--help")
    assert process(folder, *command, "--version").startswith("prunus 0.")


@pytest.mark.slow
def test_the_wheel_prunes_digits(folder: Path) -> None:
    network = ("--model", "lenet300", "--data", "digits", "--budget", "params=20%", "--out", "run")
    quick = ("--epochs", "1", "--iterations", "1", "--finetune-epochs", "0", "--final-epochs", "0")
    cheap = ("--criterion", "l1", "--compensate", "none", "--device", "cpu")
    printed = process(folder, sys.executable, "-c", RUN, "prune", *network, *quick, *cheap)
    files = [Path(line.split()[1]) for line in printed.splitlines() if line.startswith("imported ")]
    assert len(files) > 100
    assert all(file.is_relative_to(folder / "installed" / "prunus") for file in files)
    for name in ("plan.json", "model.safetensors", "model.onnx", "report.html"):
        assert (folder / "run" / name).is_file(), name
