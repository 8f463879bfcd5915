"""`prunus.prune` on the user's own network, and the seven lines of the design."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import prunus
from prunus.core.errors import BudgetError, DataError, PlanError, RunFolderError
from prunus.data import DataSplits, load_data
from prunus.evaluation import accuracy, count_macs, count_params
from prunus.evaluation.layer_costs import layer_rows
from prunus.surgery import reestimate_batchnorm_


class Net(nn.Module):
    """A small residual network with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.left = nn.Conv2d(16, 16, 3, 2, 1)
        self.right = nn.Conv2d(16, 16, 1, 2)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x)).relu()
        x = (self.left(x).relu() + self.right(x)).relu()
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


@pytest.fixture(scope="module")
def data() -> DataSplits:
    return load_data("digits", batch_size=64)


@pytest.fixture(scope="module")
def trained(data: DataSplits) -> nn.Module:
    torch.manual_seed(0)
    model = Net()
    prunus.fit_(model, data.train, prunus.TrainConfig(epochs=15, lr=1e-2))
    assert accuracy(model, data.validation) > 0.9
    return model


ONE_SHOT = prunus.PruneConfig(
    iterations=1,
    finetune=prunus.TrainConfig(epochs=0),
    final=prunus.TrainConfig(epochs=0),
)


def test_prune_returns_a_smaller_model_and_leaves_the_original(
    trained: nn.Module, data: DataSplits
) -> None:
    before = copy.deepcopy(trained.state_dict())
    mode = trained.training
    settings = prunus.PruneConfig(
        iterations=2,
        finetune=prunus.TrainConfig(epochs=1, distill=0.5),
        final=prunus.TrainConfig(epochs=3, distill=0.5),
    )
    small, report = prunus.prune(
        trained,
        data.train,
        budget="macs=50%",
        validation=data.validation,
        test=data.test,
        config=settings,
        device="cpu",
    )
    x = torch.zeros(1, 1, 28, 28)
    assert 0.35 * count_macs(trained, x) < count_macs(small, x) <= 0.5 * count_macs(trained, x)
    assert accuracy(small, data.test) > 0.85
    assert trained.training is mode
    for name, tensor in trained.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    text = str(report).replace("\u00a0", " ")
    assert "Test accuracy" in text
    assert f"{count_params(small):,}".replace(",", " ") in text


def test_a_report_can_be_saved_and_the_model_loaded(
    trained: nn.Module, data: DataSplits, tmp_path: Path
) -> None:
    small, report = prunus.prune(trained, data.train, "params=60%", config=ONE_SHOT, device="cpu")
    parity = report.save(tmp_path / "small")
    assert parity.largest_difference < 1e-4
    loaded = prunus.load(tmp_path / "small", model=Net())
    x = torch.randn(5, 1, 28, 28)
    assert torch.equal(loaded(x), small(x))
    assert "<html" in (tmp_path / "small/report.html").read_text()[:200]
    with pytest.raises(RunFolderError, match="pass model="):
        prunus.load(tmp_path / "small")
    with pytest.raises(PlanError):
        prunus.load(tmp_path / "small", model=nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(RunFolderError, match=r"there is no folder"):
        prunus.load(tmp_path / "nothing", model=Net())


def test_equal_seeds_give_equal_plans(trained: nn.Module, data: DataSplits) -> None:
    plans = [
        prunus.prune(
            trained, data.calibration, "macs=40%", config=ONE_SHOT, seed=seed, device="cpu"
        )[1].plan.to_json()
        for seed in (1, 1)
    ]
    assert plans[0] == plans[1]


def test_repair_saves_accuracy_that_a_bare_cut_loses(trained: nn.Module, data: DataSplits) -> None:
    x = torch.zeros(1, 1, 28, 28)
    groups = prunus.find_groups(trained, x)
    statistics = prunus.collect(trained, data.calibration, groups)
    scores = prunus.score(groups, statistics, "stacked")
    plan = prunus.make_plan(groups, scores, "macs=60%")
    found = {}
    for compensate in ("none", "pointwise"):
        model = copy.deepcopy(trained)
        prunus.apply_(model, plan, statistics, compensate=compensate)
        found[compensate] = accuracy(model, data.validation)
    assert found["pointwise"] > found["none"] + 0.02
    assert reestimate_batchnorm_(copy.deepcopy(model), data.calibration) == 1


def test_a_budget_out_of_reach_is_said_before_training(
    trained: nn.Module, data: DataSplits
) -> None:
    with pytest.raises(BudgetError, match="the least is"):
        prunus.prune(trained, data.train, "params=10", config=ONE_SHOT, device="cpu")


def test_an_empty_loader(trained: nn.Module) -> None:
    empty = DataLoader(TensorDataset(torch.zeros(0, 1, 28, 28), torch.zeros(0).long()))
    with pytest.raises(DataError, match="no batch"):
        prunus.prune(trained, empty, "macs=50%", device="cpu")


def test_unsound_channels_are_pruned_around(data: DataSplits) -> None:
    class Softmaxed(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.stem(x)).softmax(dim=1)
            x = (self.left(x).relu() + self.right(x)).relu()
            return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))

    torch.manual_seed(0)
    small, report = prunus.prune(
        Softmaxed(), data.train, "params=70%", config=ONE_SHOT, device="cpu"
    )
    graph = report.record.find("graph")
    assert graph is not None
    assert any(u["module"] == "stem" and "softmax" in u["reason"] for u in graph["unprunable"])
    assert small.stem.out_channels == 16
    assert small.left.out_channels < 16


class Tokens(nn.Module):
    """Rows of an image attend to each other; places are a raw parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.places = nn.Parameter(torch.randn(8, 8))
        self.encode = nn.TransformerEncoderLayer(8, 4, 12, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encode(self.embed(x) + self.places).mean(1))


def test_layers_of_a_transformer_cut_to_one_head_and_one_channel() -> None:
    """What counts heads is no layer; what cannot be cut any more still has its row."""
    torch.manual_seed(0)
    dense, x = Tokens().eval(), torch.randn(1, 8, 8)
    pruned = copy.deepcopy(dense)
    groups = prunus.find_groups(dense, x)
    gone = {
        g.name: range(g.units - 1)
        for g in groups.values()
        if not g.name.endswith(("features", "inputs"))
    }
    prunus.apply_(pruned, prunus.plan.plan_units(groups, gone))
    rows = {row["module"]: row for row in layer_rows(dense, pruned, x)}
    assert "encode.self_attn:num_heads" not in rows
    assert rows["encode.self_attn.in_proj"]["out"] == [24, 6]
    assert rows["places:1"]["params"] == [64, 8]
    order = [name for name in rows if name in ("embed", "encode.self_attn.in_proj", "head")]
    assert order == ["embed", "encode.self_attn.in_proj", "head"]


def test_layers_are_told_in_running_order() -> None:
    class Backwards(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = torch.nn.Linear(5, 2), torch.nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x).relu())

    net = Backwards()
    assert [row["module"] for row in layer_rows(net, net, torch.zeros(1, 4))] == ["first", "last"]
