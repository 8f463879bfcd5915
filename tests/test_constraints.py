"""Lower bounds exclude releases with known holes, and what CI ran is pinned."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

#: The last release of each dependency that has a hole known to us, and the hole.
HOLES = [
    ("jinja2", "3.1.5", "CVE-2025-27516: code execution from a template"),
    ("lightning", "2.6.0", "CVE-2026-31221: code execution from a checkpoint"),
    ("lightning", "2.6.3", "a malicious upload"),
    ("lightning-fabric", "2.6.3", "a malicious upload"),
    ("onnx", "1.20.1", "CVE-2026-34446: files outside the model's folder are read"),
    ("pillow", "10.1.0", "CVE-2023-50447: code execution by ImageMath"),
    ("pillow", "10.2.0", "CVE-2024-28219: buffer overflow"),
    ("pillow", "12.1.0", "CVE-2026-25990: write beyond a buffer from a PSD file"),
    ("pillow", "12.2.0", "CVE-2026-55798, -59197 to -59200"),
    ("protobuf", "6.33.4", "CVE-2026-0994: recursion without limit"),
    ("pydantic", "2.3.0", "CVE-2024-3772: a regular expression that takes forever"),
    ("pytorch-lightning", "2.6.0", "CVE-2026-31221: code execution from a checkpoint"),
    ("pyyaml", "5.3.1", "CVE-2020-14343: code execution from a YAML file"),
    ("scikit-learn", "1.4.2", "CVE-2024-5206: training data in a stored vocabulary"),
    ("setuptools", "78.1.0", "CVE-2025-47273: a package writes outside its folder"),
    ("torch", "2.9.1", "CVE-2026-24747: memory corruption from weights alone"),
    ("transformers", "5.2.0", "CVE-2026-4372: code execution from a configuration"),
]


def requirements() -> Iterator[Requirement]:
    """Yield what the package, its extras and its build require."""
    project = PROJECT["project"]
    optional = project["optional-dependencies"].values()
    for listed in (project["dependencies"], *optional, PROJECT["build-system"]["requires"]):
        for text in listed:
            requirement = Requirement(text)
            if canonicalize_name(requirement.name) != "prunus":
                yield requirement


def pins() -> dict[str, Requirement]:
    """Return the constraints by the name of the package."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if not line.startswith("#")]
    assert pinned == sorted(pinned, key=lambda pin: canonicalize_name(pin.name))
    return {canonicalize_name(pin.name): pin for pin in pinned}


def version_of(pin: Requirement) -> str:
    """Return the one version that a constraint admits."""
    (exactly,) = pin.specifier
    assert exactly.operator == "==", pin
    return exactly.version


@pytest.mark.parametrize(("name", "release", "hole"), HOLES)
def test_a_release_with_a_hole_is_excluded(name: str, release: str, hole: str) -> None:
    found = [r for r in requirements() if canonicalize_name(r.name) == name]
    assert found, name
    for requirement in found:
        assert not requirement.specifier.contains(release), f"{requirement}: {hole}"
    assert Version(version_of(pins()[name])) > Version(release)


def test_every_bound_holds_what_is_pinned() -> None:
    known = pins()
    for requirement in requirements():
        pinned = version_of(known[canonicalize_name(requirement.name)])
        assert requirement.specifier.contains(pinned), f"{requirement} does not admit {pinned}"


def test_what_dependencies_require_is_pinned_too() -> None:
    """Of the packages that are installed here, on the system that the pins are for."""
    known = pins()
    environment = {**default_environment(), "extra": ""}
    if not all(pin.marker and pin.marker.evaluate(environment) for pin in known.values()):
        pytest.skip("constraints.txt is for another system or another version of Python")
    for name, pin in known.items():
        try:
            installed = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for text in installed.requires or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate(environment):
                assert canonicalize_name(needed.name) in {*known, "pip"}, f"{pin}: {needed}"


def test_pins_are_for_one_system_and_can_be_had_from_the_index() -> None:
    markers = {str(pin.marker) for pin in pins().values()}
    assert len(markers) == 1  # elsewhere no pin applies
    assert re.fullmatch(
        r'sys_platform == "linux" and platform_machine == "x86_64" and python_version == "3\.\d+"',
        *markers,
    )
    assert not any("+" in version_of(pin) for pin in pins().values())


def test_every_install_of_the_makefile_uses_the_pins() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "CONSTRAINTS ?= constraints.txt" in text
    assert text.count("pip install") == 1
    assert len(re.findall(r"^\t\$\(BIN\)/python \$\(INSTALL\) ", text, re.MULTILINE)) == 2

    def install(*settings: str) -> str:
        command = ("make", "--dry-run", "--directory", str(ROOT), "VENV=no-such", *settings)
        done = subprocess.run(
            [*command, "no-such/.dev"], capture_output=True, encoding="utf-8", check=True
        )
        return done.stdout

    assert install().count("--constraint constraints.txt") == 2
    assert "--constraint" not in install("CONSTRAINTS=")


def test_the_pins_are_written_from_what_is_installed() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "pin.py"], capture_output=True, encoding="utf-8", check=True
    )
    head, *lines = done.stdout.splitlines()
    assert head.startswith("# What CI ran")
    written = {pin.name: version_of(pin) for pin in map(Requirement, lines)}
    assert written["torch"] == importlib.metadata.version("torch").partition("+")[0]
    assert not {"prunus", "pip"} & written.keys()
