"""Every verb leaves the caller's random numbers and settings alone, and does not depend on them."""

from __future__ import annotations

import importlib
import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import prunus

BRIEF = prunus.TrainConfig(epochs=1)
ONE_STEP = prunus.PruneConfig(iterations=1, finetune=BRIEF, final=BRIEF, blocks=2)


def process() -> dict[str, Any]:
    """Return what the process holds that a call could change."""
    return {
        "PyTorch": torch.get_rng_state().numpy().tobytes(),
        "devices": [torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())],
        "NumPy": str(np.random.get_state()),
        "Python": random.getstate(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "types": (torch.get_default_dtype(), torch.get_default_device()),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
            torch.utils.deterministic.fill_uninitialized_memory,
        ),
        "precision": torch.get_float32_matmul_precision(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "anomalies": torch.is_anomaly_enabled(),
        "attention": torch.backends.mha.get_fastpath_enabled(),
        "compiler": (torch._dynamo.config.save_config(), torch._inductor.config.save_config()),
        "modes": torch._C._len_torch_function_stack() + torch._C._len_torch_dispatch_stack(),
        "filters": (id(warnings.filters), list(warnings.filters), warnings.showwarning),
        "logging": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "environment": dict(os.environ),
        "path": (list(sys.path), str(Path.cwd())),
        "signals": [signal.getsignal(each) for each in signal.valid_signals()],
        "NumPy's errors": (np.geterr(), np.get_printoptions()),
        "recursion": (sys.getrecursionlimit(), sys.excepthook),
    }


class Net(nn.Module):
    """Dropout in training, and noise in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.head = nn.Linear(6, 12), nn.Dropout(0.2), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(self.drop(self.a(x)).relu())
        return made + 1e-9 * torch.rand(len(x), 3) * float(np.random.rand()) * random.random()


class Example:
    """What the verbs are called with; the loader shuffles with PyTorch's global generator."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.x = folder, torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
        images = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
        labels = (images[:, 0] > 0).long() + (images[:, 1] > 0).long()
        self.loader = DataLoader(TensorDataset(images, labels), 16, shuffle=True)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = Net()

    @property
    def known(self) -> tuple[prunus.Groups, prunus.Statistics, prunus.Scores, prunus.Plan]:
        groups = prunus.find_groups(self.net, self.x)
        statistics = prunus.collect(self.net, self.loader, groups, gradients=True)
        scores = prunus.score(groups, statistics, "random")
        return groups, statistics, scores, prunus.make_plan(groups, scores, "macs=60%")


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def applied(given: Example) -> Any:
    _, statistics, _, plan = given.known
    receipt = prunus.apply_(given.net, plan, statistics, loader=given.loader)
    small = tensors(given.net)
    prunus.undo_(given.net, receipt)
    return small, tensors(given.net)


def pruned(given: Example) -> Any:
    net, report = prunus.prune(
        given.net, given.loader, "macs=60%", config=ONE_STEP, device="cpu", seed=3
    )
    return report.plan.to_json(), tensors(net)


def fitted(given: Example) -> Any:
    rows = prunus.fit_(given.net, given.loader, BRIEF, seed=3)
    return [row["loss"] for row in rows], tensors(given.net)


def trained(given: Example) -> Any:
    return tensors(prunus.train(given.net, given.loader, BRIEF, device="cpu", seed=3)[0])


def pushed(given: Example) -> Any:
    return tensors(prunus.push(given.net, given.loader, training=BRIEF, device="cpu", seed=3)[0])


def traced(given: Example) -> Any:
    groups, statistics, _, _ = given.known
    chosen = prunus.latent_utility(groups, statistics).otsu()
    traces = prunus.trace_utility(given.net, given.loader, groups, chosen)
    return repr(traces), [float(v) for v in prunus.latent_utility(groups, statistics).values]


def timed(given: Example) -> Any:
    groups = given.known[0]
    table = prunus.measure_latency_table(given.net, groups, given.x, repeats=1, grid=(0.5, 1.0))
    return sorted(table.layers)


def exported(given: Example) -> Any:
    plain = nn.Sequential(nn.Flatten(), given.net.a)
    return prunus.export(plain, given.x, given.folder / "model.pt2").images


def scored(given: Example) -> Any:
    groups, statistics, scores, plan = given.known
    ranks = prunus.rank_layers(groups, statistics)
    predicted = prunus.predict_loss(scores, plan, groups)
    return plan.to_json(), repr(ranks), predicted.total, prunus.unsound_groups(groups, given.x)


#: What each verb is called in; a verb that is missing fails `test_every_verb_is_called`.
CALLS: dict[str, tuple[Callable[[Example], Any], str]] = {
    "steps": (scored, "find_groups collect score make_plan predict_loss rank_layers"),
    "trial": (scored, "unsound_groups"),
    "surgery": (applied, "apply_ undo_"),
    "prune": (pruned, "prune"),
    "fit": (fitted, "fit_"),
    "train": (trained, "train"),
    "push": (pushed, "push"),
    "evaluate": (lambda e: repr(prunus.evaluate(e.net, e.loader)), "evaluate"),
    "diagnose": (lambda e: repr(prunus.diagnose(e.net, e.x)), "diagnose"),
    "traces": (traced, "latent_utility trace_utility"),
    "latency": (timed, "measure_latency_table"),
    "export": (exported, "export"),
}
#: The first three are in a test of their own; `read` hands out the caller's own batches.
ELSEWHERE = {"grow", "load", "search", "read"}


def test_every_verb_is_called() -> None:
    verbs = {n for n in prunus.__all__ if n.islower() and not n.startswith("__")}
    assert verbs == {v for _, names in CALLS.values() for v in names.split()} | ELSEWHERE


@cache
def warmed() -> None:
    """Import what PyTorch imports by itself, so that its settings can be compared."""


@pytest.mark.parametrize("name", [name for name in CALLS if name != "trial"])
def test_states_are_left_alone_and_do_not_matter(name: str, tmp_path: Path) -> None:
    warmed()
    found = []
    for caller in (1, 2):
        random.seed(caller)
        np.random.seed(caller)
        torch.manual_seed(caller)
        torch.rand(caller)
        given = Example(tmp_path)
        before = process()
        found.append(CALLS[name][0](given))
        after = process()
        changed = [key for key in before if not same(before[key], after[key])]
        assert not changed, {key: (before[key], after[key]) for key in changed}
    assert same(*found)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize(
    ("verb", "inside"),
    [
        (lambda out: prunus.grow("resnet20", "digits", out), "pipelines.verbs.run_grow"),
        (
            lambda out: prunus.search("resnet20", "digits", "params=50%", out),
            "pipelines.verbs.run_search",
        ),
        (prunus.load, "runs.load.require_finished"),
    ],
    ids=["grow", "search", "load"],
)
def test_runs_leave_states_alone(
    verb: Callable[[Path], Any], inside: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What their work draws, up to where it is interrupted here, is their own."""
    warmed()
    found = []

    def drawing(*_: Any, **__: Any) -> None:
        found.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
        raise KeyboardInterrupt

    module, _, name = f"prunus.{inside}".rpartition(".")
    importlib.import_module(module)
    monkeypatch.setattr(sys.modules[module], name, drawing)
    for caller in (1, 2):
        random.seed(caller)
        np.random.seed(caller)
        torch.manual_seed(caller)
        before = process()
        with pytest.raises(KeyboardInterrupt):
            verb(tmp_path)
        after = process()
        assert not [key for key in before if not same(before[key], after[key])]
    assert found[0] == found[1]
