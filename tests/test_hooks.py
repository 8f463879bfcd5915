"""The hooks that run before a commit are the linters of `make test`, each defined once."""

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / ".pre-commit-config.yaml"


def hooks() -> list[dict[str, object]]:
    [local] = yaml.safe_load(CONFIG.read_text())["repos"]
    assert local["repo"] == "local"  # no other repository is downloaded
    return local["hooks"]


def test_the_hooks_are_valid() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-config", str(CONFIG)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_hooks_are_the_linters_of_make_test() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    [targets] = [line.removeprefix("test:").split() for line in lines if line.startswith("test:")]
    assert [hook["entry"] for hook in hooks()] == [f"make {t}" for t in targets if t != "unit"]


def test_a_hook_is_named_after_the_commands_of_its_target() -> None:
    for hook in hooks():
        target = str(hook["entry"]).removeprefix("make ")
        found = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for command in str(hook["name"]).split(", "):
            assert f"/{command}" in found.stdout
