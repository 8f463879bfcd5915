"""One name for one thing: no two classes share one, and no function is named like a room."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import prunus

ROOT = Path(prunus.__file__).parent

#: Classes that may be defined more than once, each with the reason.
SHARED_CLASSES = {
    "PruningCallback": "the same role for two trainers, named as users of either look for it",
}

#: Functions that may be named like a package elsewhere: the verbs of `prunus`, which are called as
#: the commands are; the packages of these names hold what the verbs do, or pages about it.
VERBS = {"export", "grow", "score", "search"}


def top_level() -> list[tuple[Path, ast.stmt]]:
    """Return every statement at the top level of a file of the package."""
    files = sorted(ROOT.rglob("*.py"))
    return [(f, s) for f in files for s in ast.parse(f.read_text(encoding="utf-8")).body]


def test_no_two_classes_share_a_name() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for file, statement in top_level():
        if isinstance(statement, ast.ClassDef):
            found[statement.name].append(file.relative_to(ROOT).as_posix())
    shared = {name: files for name, files in found.items() if len(files) > 1}
    assert set(shared) == set(SHARED_CLASSES), shared


def test_no_type_alias_is_named_like_a_class() -> None:
    classes = {s.name for _, s in top_level() if isinstance(s, ast.ClassDef)}
    assigned = [
        (file.relative_to(ROOT).as_posix(), target.id)
        for file, statement in top_level()
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    ]
    assert not [(file, name) for file, name in assigned if name in classes]


def test_no_function_is_named_like_a_package_elsewhere() -> None:
    """Commands (`cli/verbs`) are named as a user types them, and are left out."""
    packages = {file.parent.name for file in ROOT.rglob("__init__.py")}
    found = {
        statement.name: file.relative_to(ROOT).as_posix()
        for file, statement in top_level()
        if isinstance(statement, ast.FunctionDef)
        and statement.name in packages
        and ROOT / "cli" / "verbs" not in file.parents
    }
    assert set(prunus.__all__) >= VERBS
    assert set(found) == VERBS, found
