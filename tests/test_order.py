"""Tests run long modules first, each in one piece, the same share for every worker."""

import itertools
from pathlib import Path

import pytest

from tests.order import Durations, arrange, is_quick, read, summed

MADE: dict[str, Durations] = {
    "a.py": {"all": 9.0, "fixtures": 5.0, "long": {}},
    "b.py": {"all": 5.0, "fixtures": 0.0, "long": {"test_1": 4.0}},
    "c.py": {"all": 4.0, "fixtures": 0.0, "long": {}},
    "gone.py": {"all": 99.0, "fixtures": 0.0, "long": {}},
}
TESTS = [
    f"{module}::test_{number}"
    for module, count in (("new.py", 4), ("c.py", 2), ("b.py", 2), ("tiny.py", 1), ("a.py", 3))
    for number in range(count)
]


def test_each_worker_has_its_long_modules_first_and_as_many_tests() -> None:
    order = [TESTS[at].partition("::")[0] for at in arrange(TESTS, MADE, workers=2)]
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    assert list(dict.fromkeys(first)) == ["a.py", "new.py"]  # 9 s, and nothing known
    assert list(dict.fromkeys(second)) == ["new.py", "b.py", "c.py", "tiny.py"]  # 5 s and 4 s


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_nothing_is_lost_and_modules_stay_whole_and_in_order(workers: int) -> None:
    order = arrange(TESTS, MADE, workers)
    assert sorted(order) == list(range(len(TESTS)))
    modules = [TESTS[at].partition("::")[0] for at in order]
    changes = sum(one != other for one, other in itertools.pairwise(modules))
    assert changes == len(set(modules)) - 1
    for module in set(modules):
        own = [at for at in order if TESTS[at].startswith(f"{module}::")]
        assert own == sorted(own)


def test_quick_leaves_out_long_tests_and_long_fixtures() -> None:
    quick = [test for test in TESTS if is_quick(test, MADE)]
    assert quick == [test for test in TESTS if test[0] != "a" and test != "b.py::test_1"]


def test_durations_are_summed_by_module() -> None:
    reports = [
        *(("m.py::test_1", when, 0.25) for when in ("setup", "teardown")),
        ("m.py::test_1", "call", 2.0),
        ("m.py::test_2[x]", "call", 0.1),
        ("short.py::test", "call", 0.1),
    ]
    expected = {"all": 2.6, "fixtures": 0.5, "long": {"test_1": 2.0}}
    assert summed(reports) == {"m.py": expected}


def test_without_a_file_nothing_is_known(tmp_path: Path) -> None:
    assert read(tmp_path / "none.json") == {}


def test_the_modules_in_the_file_exist() -> None:
    root = Path(__file__).resolve().parents[1]
    gone = [module for module in read() if not (root / module).exists()]
    assert not gone, "run `make durations`, or remove these"
