"""Two processes of one gloo group, once for all tests that ask: what each rank found, on disk.

Compared in tests/statistics/test_ranks.py and tests/pains/test_distributed.py.
"""

import copy
import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch_pruning as tp
from torch import Tensor, nn
from torch.multiprocessing import start_processes
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import prunus
from prunus.core.errors import PrunusError
from prunus.graph import Groups
from prunus.pipelines import RunConfig, run_prune
from prunus.plan import Plan, broadcast_plan
from prunus.statistics import broadcast_model_, collect, sampling
from tests import warm
from tests.graph.nets import CLASSES, batches, build, images

RANKS = 2
#: name → what `collect` is asked for.
CASES: dict[str, dict[str, Any]] = {
    "pixel": {},
    "patch": {"sampling": "patch"},
    "few blocks": {"blocks": 2},
    "uneven blocks": {"blocks": 32},  # 30 on one rank, 24 on the other
    "balance": {"balance": True},
    "outputs": {"gradients": True, "ranges": True},
    "targets": {"teacher": "targets"},
    "logits": {"teacher": "logits"},
    "dual": {"sampling": "dual"},
}


@functools.cache
def results() -> list[dict[str, Any]]:
    """Run both ranks to their end; return what each saved."""
    with tempfile.TemporaryDirectory() as folder:
        warm.run("-c", f"from tests.two_processes import both; both({folder!r})")
        # made by ourselves a moment ago, and it holds `Statistics`
        return [torch.load(Path(folder, f"{r}.pt"), weights_only=False) for r in range(RANKS)]


def cases() -> dict[str, tuple[nn.Module, Groups, list[list[tuple[Tensor, Tensor]]]]]:
    """Return the network of every case, and the batches of each rank: five and four."""
    sampling.LEAST_SAMPLES = sampling.SAMPLES_A_FEATURE = 10  # positions are drawn, not all taken
    made = {}
    for name in CASES:
        model = build("concat").double()
        generator = torch.Generator().manual_seed(1)
        shares: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(RANKS)]
        for number in range(9):
            x = torch.randn(6, *images(1).shape[1:], generator=generator).double()
            y = torch.randint(0, CLASSES, (6,), generator=generator)
            target = torch.randn(6, 3, generator=generator)
            shares[number % RANKS].append((x, target if name == "targets" else y))
        made[name] = model, prunus.find_groups(model, images(1).double()), shares
    return made


class Digits(nn.Module):
    """A small convolutional network for 8×8 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.head(x.mean((2, 3)))


def digits() -> TensorDataset:
    """Return 640 of scikit-learn's digits, 1×8×8."""
    from sklearn import datasets

    bunch = datasets.load_digits()
    x = torch.from_numpy(bunch.images[:640]).float()[:, None] / 8 - 1
    return TensorDataset(x, torch.from_numpy(bunch.target[:640]).long())


def said_by(failing: Any) -> str:
    try:
        failing()
    except PrunusError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def pruned_while_training(rank: int) -> dict[str, Any]:
    """Train on digits, prune, train on: what every rank has at the end."""
    torch.manual_seed(rank)  # other weights on each rank, as DistributedDataParallel allows
    model, data = Digits(), digits()
    sampler = DistributedSampler(data, RANKS, rank, shuffle=False)
    loader = DataLoader(data, 32, sampler=sampler)

    def steps(model: nn.Module, count: int) -> None:
        wrapped = DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        for (x, y), _ in zip(loader, range(count), strict=False):
            loss = F.cross_entropy(wrapped(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    steps(model, 10)
    found: dict[str, Any] = {"running": model.bn1.running_mean.clone()}
    groups = prunus.find_groups(model, data[0][0][None])
    found["apart"] = said_by(lambda: collect(model, loader, groups))
    broadcast_model_(model)
    found["dense"] = copy.deepcopy(model.state_dict())
    double = copy.deepcopy(model).double()
    found["double"] = collect(double, [(x.double(), y) for x, y in loader], groups)
    statistics = collect(model, loader, groups)
    scores = prunus.score(groups, statistics)
    mine = prunus.make_plan(groups, scores, "macs=50%")
    other = Plan() if rank else mine  # what rank 1 thinks does not count
    plan = broadcast_plan(other)
    found |= {"mine": mine.to_json(), "plan": plan.to_json()}
    prunus.apply_(model, plan, statistics)
    found["repaired"] = copy.deepcopy(model.state_dict())
    steps(model, 5)
    model.eval()
    found["cut"] = model.state_dict()
    found["parameters"] = {n: p.detach() for n, p in model.named_parameters()}
    return found


def torch_pruning(rank: int) -> list[list[int]]:
    """Return the channels that Torch-Pruning takes on this rank, by its own images' gradients."""
    model, (x, y) = build("plain"), batches(RANKS)[rank]
    F.cross_entropy(model(x), y).backward()
    pruner = tp.pruner.BasePruner(
        model,
        images(1),
        tp.importance.TaylorImportance(),
        pruning_ratio=0.5,
        ignored_layers=[model.head],
    )
    return [sorted(group[0].idxs) for group in pruner.step(interactive=True)]


def main(rank: int, folder: str) -> None:
    """Be one rank."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS
    )
    found: dict[str, Any] = {}
    for name, (model, groups, shares) in cases().items():
        found[name] = collect(model, shares[rank], groups, **CASES[name])
    model, groups, shares = cases()["pixel"]
    found["alone"] = collect(model, shares[rank], groups, all_reduce=False)
    found["no batch"] = said_by(lambda: collect(model, shares[0] if rank else [], groups))
    found["wrapped"] = said_by(lambda: collect(DistributedDataParallel(model), shares[0], groups))
    ways = ("pixel", "patch")
    found["two ways"] = said_by(lambda: collect(model, shares[rank], groups, sampling=ways[rank]))
    found["no labels"] = said_by(
        lambda: collect(model, shares[0] if rank else [images(4).double()], groups, balance=True)
    )
    found["no plan"] = said_by(lambda: broadcast_plan(Plan() if rank else None))
    found["prune"] = said_by(lambda: prunus.prune(model, shares[rank], "macs=50%"))
    config = RunConfig(model="lenet5", data="digits", budget="macs=50%")
    found["run_prune"] = said_by(lambda: run_prune(config, Path(folder, "run")))
    found["torch_pruning"] = torch_pruning(rank)
    found["digits"] = pruned_while_training(rank)
    torch.save(found, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def both(folder: str) -> None:
    """Be both ranks, from a process that has imported everything and started no thread."""
    start_processes(main, (folder,), nprocs=RANKS, start_method="fork")
