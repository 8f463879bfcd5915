"""Text is read and written as UTF-8, whatever the platform's encoding is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "benchmarks", "examples", "docs")

#: Calls that open no text file: files of images, of other libraries' formats, of this repository.
OTHERS = {"Image", "os", "kind", "parent"}


def unspecified(source: str) -> Iterator[str]:
    """Yield the calls that read or write text in the platform's encoding."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        called, arguments = node.func, node.args
        method = called.attr if isinstance(called, ast.Attribute) else ""
        if method == "open" and isinstance(called, ast.Attribute):
            owner = called.value
            name = getattr(owner, "attr", getattr(owner, "id", ""))
            text = name not in OTHERS and "b" not in mode(node, 0)
        elif isinstance(called, ast.Name) and called.id == "open":
            text = "b" not in mode(node, 1)
        else:  # Path's methods; `core.read_text(path)` is a function, and always UTF-8
            text = (method == "read_text" and not arguments) or (
                method == "write_text" and len(arguments) < 2
            )
        if text:
            yield f"{node.lineno}: {ast.unparse(node)}"


def mode(call: ast.Call, place: int) -> str:
    """Return the mode that a file is opened in."""
    given = [k.value for k in call.keywords if k.arg == "mode"] or call.args[place : place + 1]
    return str(given[0].value) if given and isinstance(given[0], ast.Constant) else "r"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_text_file_has_an_encoding(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{call}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for call in unspecified(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(['add encoding="utf-8":', *found])


def test_what_is_found() -> None:
    wrong = (
        "open(p)",
        "open(p, 'w')",
        "p.open('a')",
        "p.open()",
        "p.read_text()",
        "(a / b).write_text(text)",
        "open(p, mode='r')",
    )
    right = (
        "open(p, 'rb')",
        "p.open('ab', buffering=0)",
        "p.open(mode='wb')",
        "p.read_text(encoding='utf-8')",
        "p.write_text(text, 'utf-8')",
        "read_text(p)",
        "Image.open(p)",
        "os.open(p, flags)",
    )
    assert len(list(unspecified("\n".join(wrong)))) == len(wrong)
    assert not list(unspecified("\n".join(right)))
