"""Every example of a docstring runs, and every public name has one."""

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import pytest

import prunus

#: Need a package that is an extra, or another library's training.
EXTRAS = ("prunus.integrations.",)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def modules() -> Iterator[str]:
    yield "prunus"
    for module in pkgutil.walk_packages(prunus.__path__, "prunus."):
        if not module.name.startswith(EXTRAS) and module.name != "prunus.__main__":
            yield module.name


def examples(module: ModuleType) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


TESTS = [test for name in modules() for test in examples(importlib.import_module(name))]


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.name)
def test_an_example_runs(test: doctest.DocTest) -> None:
    said: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("name", [n for n in prunus.__all__ if n != "__version__"])
def test_a_public_name_has_an_example_that_is_not_skipped(name: str) -> None:
    text = inspect.getdoc(getattr(prunus, name)) or ""
    assert "Example:" in text
    (found,) = [doctest.DocTestParser().get_examples(text)]
    assert found
    assert not any(doctest.SKIP in each.options for each in found)
