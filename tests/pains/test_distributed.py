"""Pain 11: several processes prune alike, and train on together."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import prunus
from prunus.plan import Plan
from prunus.statistics import collect
from prunus.surgery import replay_
from tests.graph.nets import batches, build, images
from tests.pains.rival import torch_pruning_
from tests.statistics.oracles import assert_close
from tests.two_processes import Digits, digits, results

pytestmark = pytest.mark.slow  # two processes run to their end before the first


def test_11_torch_pruning_takes_other_channels_on_every_rank() -> None:
    """Each looks at its own images and cuts; which channels go is not compared."""
    first, second = (rank["torch_pruning"] for rank in results())
    assert [len(gone) for gone in first] == [len(gone) for gone in second] == [3, 4]
    assert first != second


def test_11_after_a_cut_of_torch_pruning_the_optimiser_moves_nothing() -> None:
    model = build("plain").train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    def step(model: nn.Module) -> None:
        x, y = batches(1)[0]
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    step(model)
    torch_pruning_(model, images(1), ignored_layers=[model.head])
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    step(model)  # no error: it holds the parameters of before the cut
    still = {n for n, p in model.named_parameters() if torch.equal(p, before[n])}
    assert still == set(before) - {"head.bias"}


def test_11_running_statistics_that_differ_are_found() -> None:
    """DistributedDataParallel keeps weights equal, and leaves BatchNorms apart."""
    first, second = (rank["digits"] for rank in results())
    assert not torch.equal(first["running"], second["running"])
    for found in (first, second):
        assert "rank 1 has another 'bn1.running_mean' than rank 0" in found["apart"]
        assert "broadcast_model_" in found["apart"]
    dense = first["dense"], second["dense"]
    assert all(torch.equal(dense[0][name], dense[1][name]) for name in dense[0])


def test_11_statistics_are_those_of_one_process() -> None:
    found = results()[0]["digits"]
    model, data = Digits(), digits()
    model.load_state_dict(found["dense"])
    model.double()
    groups = prunus.find_groups(model, data[0][0][None].double())
    loader = [(x.double(), y) for x, y in DataLoader(data, 64)]
    whole = collect(model, loader, groups)
    assert found["double"].images == whole.images == 640
    for name, scatter in whole.items():
        assert_close(found["double"][name], scatter, rtol=1e-10)


def test_11_every_rank_has_the_same_plan_byte_for_byte() -> None:
    first, second = (rank["digits"] for rank in results())
    assert first["mine"] == second["mine"]  # equal statistics make equal plans
    assert first["plan"] == second["plan"] == first["mine"]  # and rank 0's counts in any case
    assert Plan.from_json(first["plan"]).groups


def test_11_pipelines_of_one_process_refuse_ranks() -> None:
    for rank in results():
        for name in ("prune", "run_prune"):
            assert rank[name].startswith("ConfigError: prune runs in one process, found 2 ranks")
            assert "broadcast_plan and prunus.apply_ on every rank" in rank[name]


def test_11_after_the_cut_all_ranks_train_on_together() -> None:
    """A new wrapper and a new optimiser over the parameters that the cut left."""
    first, second = (rank["digits"] for rank in results())
    cut = replay_(Digits(), Plan.from_json(first["plan"]))
    cut.load_state_dict(first["cut"])
    shapes = {n: p.shape for n, p in cut.named_parameters()}
    for name, parameter in first["parameters"].items():
        assert torch.equal(parameter, second["parameters"][name])
        assert parameter.shape == shapes[name]
    assert shapes["conv2.weight"] != first["dense"]["conv2.weight"].shape
    assert not torch.equal(first["cut"]["head.bias"], first["repaired"]["head.bias"])  # it trained
