"""CONTRIBUTING.md shows the tree of the source as it is, every room, and one checklist."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "prunus"
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
[TREE] = re.findall(r"^```\n(core/.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def folders(below: Path) -> list[str]:
    return sorted(path.parent.name for path in below.glob("*/__init__.py"))


def drawn() -> dict[str, list[str]]:
    """Return each room of the tree with the folders in it, which are indented."""
    rooms: dict[str, list[str]] = {}
    for line in TREE.splitlines():
        names = re.findall(r"\w+", re.match(r"\s*(?:\w+/ ?)+", line)[0])
        if line.startswith(" "):
            rooms[next(reversed(rooms))] += names
        else:
            [room] = names
            rooms[room] = []
    return rooms


def test_the_tree_is_that_of_the_source() -> None:
    rooms = drawn()
    assert sorted(rooms) == folders(SOURCE)
    for room, inside in rooms.items():
        assert sorted(inside) == folders(SOURCE / room), room


def test_the_table_has_the_rooms_in_the_order_of_their_layers() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(c["layers"] for c in settings["contracts"] if c["type"] == "layers")
    order = [re.split(r"\s*[:|]\s*", layer) for layer in layers if layer != "__main__"]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", TEXT, re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(listed) == sum(map(len, order))
    for layer in order:
        here, listed = listed[: len(layer)], listed[len(layer) :]
        assert sorted(here) == sorted(layer)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([\w./]+/[\w./]*)`", TEXT))))
def test_a_file_or_folder_that_it_names_exists(path: str) -> None:
    assert any((base / path).exists() for base in (ROOT, SOURCE)), path


def test_the_checklist_is_that_of_the_template() -> None:
    template = (ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md").read_text()
    points = [" ".join(p.split()) for p in re.split(r"^- \[ \] ", template, flags=re.MULTILINE)[1:]]
    assert len(points) == 10
    assert all(f"- {point}" in " ".join(TEXT.split()) for point in points)
