"""Which tests run first, and which `--quick` leaves out, by how long they took once.

`durations.json` holds, for each module of tests that took a second or more in all, the seconds of
all of it, those of its fixtures, and those of each test of `LONG` seconds or more. `make durations`
writes it. What it does not know counts as short, so a new or renamed test needs no entry.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import pytest

PATH = Path(__file__).parent / "durations.json"
#: Seconds from which a test has a line of its own, and `--quick` leaves it out.
LONG = 0.2
#: Seconds of fixtures from which `--quick` leaves out a module: its first test would wait for them.
LONG_FIXTURES = 0.5


class Durations(TypedDict):
    """Seconds of a module: of everything, of its fixtures, and of each long test by its name."""

    all: float
    fixtures: float
    long: dict[str, float]


def read(path: Path = PATH) -> dict[str, Durations]:
    """Return the durations by module, none without a file."""
    return json.loads(path.read_text()) if path.exists() else {}


def module_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def arrange(nodeids: list[str], durations: Mapping[str, Durations], workers: int) -> list[int]:
    """Return the order in which to run: modules whole, one run of long to short for each worker.

    `worksteal` deals every worker an equal number of consecutive tests, and takes from the end of
    another's when one has no more. So the order is one share after the other, each as long in
    seconds and in tests, and short modules at its end.
    """
    modules: dict[str, list[int]] = defaultdict(list)
    for at, nodeid in enumerate(nodeids):
        modules[module_of(nodeid)].append(at)
    seconds = {name: durations[name]["all"] if name in durations else 0.0 for name in modules}
    shares: list[list[str]] = [[] for _ in range(workers)]
    known = [name for name in modules if seconds[name]]
    for name in sorted(known, key=lambda name: -seconds[name]):
        min(shares, key=lambda share: sum(seconds[n] for n in share)).append(name)
    others = [name for name in modules if not seconds[name]]
    for name in sorted(others, key=lambda name: -len(modules[name])):
        min(shares, key=lambda share: sum(len(modules[n]) for n in share)).append(name)
    return [at for share in shares for name in share for at in modules[name]]


def is_quick(nodeid: str, durations: Mapping[str, Durations]) -> bool:
    """Return whether a test is one for `--quick`."""
    module, _, name = nodeid.partition("::")
    known = durations.get(module)
    return known is None or (known["fixtures"] < LONG_FIXTURES and name not in known["long"])


class Recorder:
    """Writes `durations.json` at the end of a run of all tests."""

    def __init__(self, path: Path = PATH) -> None:
        self.path = path
        self.reports: list[tuple[str, str, float]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.reports.append((report.nodeid, report.when, report.duration))

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(summed(self.reports), indent=1, sort_keys=True) + "\n")


def summed(reports: list[tuple[str, str, float]]) -> dict[str, Durations]:
    """Return the durations of modules from (test, "setup", "call" or "teardown", seconds)."""
    found: dict[str, Durations] = {}
    for nodeid, when, seconds in reports:
        module, _, name = nodeid.partition("::")
        known = found.setdefault(module, {"all": 0.0, "fixtures": 0.0, "long": {}})
        known["all"] += seconds
        if when != "call":
            known["fixtures"] += seconds
        elif seconds >= LONG:
            known["long"][name] = round(seconds, 1)
    rounded: dict[str, Any] = {
        module: {**known, "all": round(known["all"], 1), "fixtures": round(known["fixtures"], 1)}
        for module, known in found.items()
        if known["all"] >= 1 or known["long"]
    }
    return rounded
