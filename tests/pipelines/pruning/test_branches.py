"""A run in which whole branches go: deep LDA, one threshold, two cuts, folder, export, report."""

import json
from io import StringIO
from pathlib import Path

import onnxruntime
import pytest
import torch
from rich.console import Console
from torch import nn

import prunus
from prunus.core.errors import ConfigError
from prunus.core.record import read_rows
from prunus.data import load_data
from prunus.evaluation.layer_costs import layer_rows
from prunus.graph import collapsed_modules
from prunus.pipelines import PruneConfig, RunConfig, Watch, load, run_prune
from prunus.pipelines.pruning.measure import result_row
from prunus.plan import Plan, plan_units
from prunus.reports import print_headline, render_page
from prunus.reports.run import words
from prunus.runs.config import LatentConfig
from prunus.surgery import replay_
from prunus.training import TrainConfig

MODEL = f"{Path(__file__).parents[1] / 'branching_net.py'}:Net"
SETTINGS = PruneConfig(
    criterion="deep_lda",
    latent=LatentConfig(select="all", images_a_class=3),
    allocation="threshold",
    drop_branches=True,
    iterations=2,
    compensate="patch",
    finetune=TrainConfig(epochs=1),
    final=TrainConfig(epochs=1),
    runtimes=(),
)


class Interrupting(Watch):
    """Stops a run once its first cut is trained."""

    def say(self, text: str) -> None:
        if text.startswith("iteration 1/2"):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "branches"
    config = RunConfig(
        model=MODEL, data="digits", budget="params=10%", prune=SETTINGS, train=TrainConfig(epochs=2)
    )
    with pytest.raises(KeyboardInterrupt):
        run_prune(config, out, watch=Interrupting())
    run_prune(config, out, resume=True)  # restores a network that has lost branches
    return out


def test_whole_branches_went_and_the_run_loads(folder: Path) -> None:
    plan = Plan.from_json((folder / "plan.json").read_text())
    gone = {name for name, edit in plan.groups.items() if edit.all_gone}
    assert gone
    model = load(folder, trust=True)
    rows = read_rows(folder / "record.jsonl")[0]
    result = next(row for row in rows if row["event"] == "result")
    count = sum(p.numel() for p in model.parameters())
    dense = sum(p.numel() for p in load(folder, dense=True, trust=True).parameters())
    assert count == result["pruned"]["params"] <= 0.1 * dense
    layers = {r["module"]: r for row in rows if row["event"] == "layers" for r in row["layers"]}
    assert sum(layer["params"][1] for layer in layers.values()) == count
    for name in gone:
        assert layers[name]["out"][1] == layers[name]["macs"][1] == layers[name]["params"][1] == 0
    assert [r["iteration"] for r in rows if r["event"] == "prune"] == [1, 2]


def test_the_export_computes_the_same(folder: Path) -> None:
    x = torch.rand(5, 1, 28, 28)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    with torch.no_grad():
        torch.testing.assert_close(found, load(folder, trust=True)(x), atol=1e-4, rtol=0)


def test_the_collapsed_modules_are_journalled_and_said(folder: Path) -> None:
    dense = load(folder, dense=True, trust=True)
    pruned = load(folder, dense=True, trust=True)
    groups = prunus.find_groups(pruned, torch.zeros(1, 1, 28, 28), drop_branches=True)
    ends = ("modules_.0.three.1.conv", "modules_.0.five.2.conv")
    replay_(pruned, plan_units(groups, {name: range(groups[name].units) for name in ends}))
    x = torch.rand(4, 1, 28, 28)
    result = result_row(
        dense, pruned, example=x, validation={"dense": 0.0, "pruned": 0.0}, test=None
    )
    assert result["collapsed"] == collapsed_modules(pruned) == ["modules_.0"]
    rows = [{"event": "result", **result}]
    sentence = words.collapsed(rows)
    assert "modules_.0" in sentence
    assert sentence in render_page(rows, {}, None)
    printed = StringIO()
    print_headline(rows, Console(file=printed, width=120))
    assert sentence in printed.getvalue()
    gone = {row["module"] for row in layer_rows(dense, pruned, x[:1]) if not row["out"][1]}
    assert len(gone) == 2 * 5  # five convolutions and their norms


def test_the_sentence() -> None:
    def said(*names: str) -> str:
        return words.collapsed([{"event": "result", "collapsed": list(names)}])

    assert said("a") == "Collapsed: a is left with only 1×1 filters."
    assert said("a", "b", "c") == "Collapsed: a, b and c are left with only 1×1 filters."
    assert said() == words.collapsed([{"event": "result"}]) == words.collapsed([]) == ""


def test_without_the_setting_every_branch_keeps_a_unit(folder: Path) -> None:
    data = load_data("digits", batch_size=256)
    config = PruneConfig(
        criterion="magnitude", intervals=False, allocation="threshold", iterations=1,
        compensate="none", finetune=TrainConfig(epochs=0), final=TrainConfig(epochs=0),
    )  # fmt: skip
    _, report = prunus.prune(
        load(folder, dense=True, trust=True), data.train, "params=30%", config=config, device="cpu"
    )
    assert not any(edit.all_gone for edit in report.plan.groups.values())
    assert "collapsed" not in next(r for r in report.record.rows if r["event"] == "result")
    assert json.loads(report.plan.to_json())["format"] == 1


def test_what_cannot_weigh_branches_is_refused_before_anything_is_trained() -> None:
    config = PruneConfig(drop_branches=True, allocation="dp")
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    images = [(torch.zeros(2, 1, 28, 28), torch.tensor([0, 1]))]
    with pytest.raises(ConfigError, match="allocation 'dp'"):
        prunus.prune(net, images, "macs=50%", config=config, device="cpu")
