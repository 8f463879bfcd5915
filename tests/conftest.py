"""Shared by all tests: few threads (they spin under contention), small networks, random plans."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # tests may import ONNX Runtime themselves

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from prunus.graph import Groups, find_groups
from prunus.plan import Plan, plan_units
from tests import order, warm
from tests.browser import Page

torch.set_num_threads(1)
# The suite draws the same examples each time; `--hypothesis-profile=explore` looks for new ones.
COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("prunus", max_examples=25, derandomize=True, **COMMON)
settings.register_profile("explore", max_examples=300, **COMMON)
settings.load_profile("prunus")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--whole",
        action="store_true",
        help="every network of the registry, not two a family; every damaged folder",
    )
    parser.addoption("--quick", action="store_true", help="only tests that take no time")
    parser.addoption("--durations-file", action="store_true", help="write tests/durations.json")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--durations-file") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(order.Recorder())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `--quick` does, and order what remains for the workers of xdist."""
    durations = order.read()
    if config.getoption("--quick"):
        left_out = [
            item
            for item in items
            if item.get_closest_marker("slow")
            or "browser" in getattr(item, "fixturenames", ())
            or not order.is_quick(item.nodeid, durations)
        ]
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]
    workers: int | None = getattr(config, "workerinput", {}).get("workercount")
    if workers is not None:
        nodeids = [item.nodeid for item in items]
        items[:] = [items[at] for at in order.arrange(nodeids, durations, workers)]


@pytest.fixture(scope="session", autouse=True)
def _warm_parent() -> Iterator[None]:
    yield
    warm.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets and weights, outside the repository; skips without it."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PRUNUS_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"real data are not at {folder}: set PRUNUS_SHARED_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine: the page cannot be looked at")
    page = Page(chromium, tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


def random_plan(groups: Groups, seed: int, most: float = 0.6) -> Plan:
    """Remove a random share, up to `most`, of every group."""
    generator = torch.Generator().manual_seed(seed)
    removed = {}
    for group in groups.values():
        share = float(torch.rand((), generator=generator)) * most
        order = torch.randperm(group.units, generator=generator)
        removed[group.name] = order[
            : min(int(share * group.units), group.units - group.least)
        ].tolist()
    return plan_units(groups, removed)


def randomise_norms_(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give BatchNorms statistics and scales that differ between channels, as training does."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
            ):
                tensor.uniform_(low, high, generator=generator)
    return model


__all__ = ["find_groups", "random_plan", "randomise_norms_"]


def shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    """Return the shape of every tensor that a model holds, by name."""
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
