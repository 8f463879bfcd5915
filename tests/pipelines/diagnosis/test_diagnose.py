"""`prunus.diagnose`: what can be pruned, what cannot, and whose fault that is."""

import copy
import inspect
import json
import re
import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunus
from prunus.core.errors import NonFiniteError, TraceError
from prunus.evaluation.size import count_params
from prunus.graph import find_groups
from prunus.graph.counting import count_macs
from prunus.pipelines.diagnosis.hints import advise
from prunus.plan import least_costs, plan_units
from prunus.surgery import replay_
from tests.graph.nets import SHAPE, build

EXAMPLE = torch.zeros(1, *SHAPE)


class FixedView(nn.Module):
    """A size written into the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.b = nn.Linear(600, 5)
        self.c = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        x = x.view(-1, 600)  # the fault
        return self.c(torch.relu(self.b(x)))


class Scaled(nn.Module):
    """Divides by the number of its channels, on a branch that hardly counts when it is new."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.b = nn.Conv2d(6, 4, 1)
        self.skip = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        nn.init.constant_(self.norm.weight, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        made = self.a(x)
        return self.skip(x) + self.norm(self.b(made / made.shape[1]))


class Logits(nn.Module):
    """A log-softmax, or the input image, behind the last layer."""

    def __init__(self, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.b = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(torch.relu(self.a(x)))
        return x + y if self.residual else F.log_softmax(y.mean((2, 3)), 1)


class InCompany(nn.Module):
    """Either convolution may shrink, but not both."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 1)
        self.b = nn.Conv2d(6, 6, 1)
        self.c = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        if a.shape[1] < 6 and b.shape[1] < 6:
            raise RuntimeError("too thin")
        return self.c(b)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.LSTM(30, 20, batch_first=True)
        self.hidden = nn.Linear(20, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2).flatten(2)  # (B, H, C·W)
        return self.head(torch.relu(self.hidden(self.rows(rows)[0][:, -1])))


class Unlike(nn.Module):
    """Runs on no image of three channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return x.view(1, 7)


def line_of(cls: type, text: str) -> int:
    """Return the line of this file on which `cls` says `text`."""
    lines, first = inspect.getsourcelines(cls)
    return first + next(i for i, line in enumerate(lines) if text in line)


@pytest.mark.parametrize("name", ["plain", "residual", "concat", "grouped", "flatten", "mlp"])
def test_a_sound_network_is_healthy(name: str) -> None:
    model = build(name)
    found = prunus.diagnose(model, EXAMPLE)
    groups = find_groups(model, EXAMPLE)
    assert found.status == "healthy"
    assert [g.name for g in found.groups] == [g.name for g in groups.values()]
    assert found.params == count_params(model)
    assert found.macs == count_macs(model, EXAMPLE)
    assert found.least == least_costs(groups)
    assert not any(f.fault for f in found.findings)


def test_savings_are_those_of_a_real_cut() -> None:
    model = build("residual")
    for line in prunus.diagnose(model, EXAMPLE).groups:
        groups = find_groups(model, EXAMPLE)
        plan = plan_units(groups, {line.name: range(1, line.units)})
        cut = replay_(copy.deepcopy(model), plan)
        whole, left = count_params(model), count_params(cut)
        assert line.saves["params"] == pytest.approx((whole - left) / whole)
        whole, left = count_macs(model, EXAMPLE), count_macs(cut, EXAMPLE)
        assert line.saves["macs"] == pytest.approx((whole - left) / whole)
        assert line.name not in line.members


def test_a_fixed_size_is_a_fault_with_its_line() -> None:
    found = prunus.diagnose(FixedView(), EXAMPLE)
    assert found.status == "faulty"
    [finding] = found.findings
    assert finding.module == "a"
    assert finding.fault
    assert f"test_diagnose.py:{line_of(FixedView, 'the fault')})" in finding.reason
    assert finding.hint == "use x.shape or -1 in the reshape"
    assert "b" in {g.name for g in found.groups}
    assert found.outputs == ("c",)


def test_a_new_branch_that_adds_nothing_hides_no_fault() -> None:
    torch.manual_seed(0)
    found = prunus.diagnose(Scaled(), EXAMPLE)
    assert [f.module for f in found.findings if f.fault] == ["a"]
    assert "mixes or counts" in found.findings[0].reason


@pytest.mark.parametrize("residual", [False, True])
def test_what_makes_the_outputs_is_no_problem(residual: bool) -> None:
    found = prunus.diagnose(Logits(residual), EXAMPLE)
    assert found.status == "healthy"
    assert found.outputs == ("b",)
    assert found.findings == ()


def test_what_fails_only_in_company_is_a_fault() -> None:
    found = prunus.diagnose(InCompany(), EXAMPLE)
    assert found.status == "faulty"
    assert [group.name for group in found.groups] == ["a"]
    [finding] = found.findings
    assert "together with other groups" in finding.reason
    assert f"test_diagnose.py:{line_of(InCompany, 'too thin')})" in finding.reason


def test_a_module_of_another_kind_is_named_with_its_size() -> None:
    found = prunus.diagnose(Recurrent(), EXAMPLE)
    assert found.status == "healthy"
    [finding] = found.findings
    assert finding.module == "rows"
    assert "LSTM itself has 4160 parameters" in finding.reason  # 4·20·(30 + 20) + 2·4·20


def test_without_a_hidden_layer_nothing_can_be_pruned() -> None:
    found = prunus.diagnose(nn.Sequential(nn.Conv2d(3, 4, 3)), EXAMPLE)
    assert found.status == "unprunable"
    assert found.outputs == ("0",)
    assert found.least["params"] == found.params
    assert "Nothing can be pruned." in str(found)
    found = prunus.diagnose(nn.Sequential(nn.MaxPool2d(2)), EXAMPLE)
    assert found.status == "unprunable"
    assert "no convolution or linear layer" in str(found)


def test_one_channel_alone_is_no_group() -> None:
    found = prunus.diagnose(nn.Sequential(nn.Conv2d(3, 1, 3), nn.Conv2d(1, 4, 3)), EXAMPLE)
    assert found.status == "unprunable"
    [finding] = found.findings
    assert finding.module == "0"
    assert "must be pruned together" in finding.reason


def test_the_network_is_left_as_it_was() -> None:
    model = build("plain").train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    prunus.diagnose(model, EXAMPLE)
    assert model.training
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_a_network_that_fails_on_the_example_says_where() -> None:
    with pytest.raises(TraceError, match=rf"test_diagnose\.py:{line_of(Unlike, 'view')}\)"):
        prunus.diagnose(Unlike(), EXAMPLE)


def test_a_network_that_cannot_be_copied() -> None:
    model = build("plain")
    model.lock = threading.Lock()  # type: ignore[assignment]
    for look in (prunus.diagnose, find_groups):
        with pytest.raises(TraceError, match=r"Plain cannot be copied .*keep nothing in the"):
            look(model, EXAMPLE)


def test_an_output_that_is_no_number() -> None:
    class Nan(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y * (x.mean() * 0 + float("inf")) * 0

    with pytest.raises(NonFiniteError, match="random image"):
        prunus.diagnose(Nan(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)), EXAMPLE)


def test_a_diagnosis_is_plain_values_and_text_of_80_columns() -> None:
    found = prunus.diagnose(FixedView(), EXAMPLE)
    again = json.loads(json.dumps(found.to_dict()))
    assert again == found.to_dict()
    assert again["status"] == "faulty"
    assert again["input_shape"] == [3, 10, 10]
    assert again["least"]["params"]["share"] == found.least["params"] / found.params
    text = str(found)
    assert "1 more could be" in text
    assert max(map(len, text.splitlines())) <= 80


def test_findings_that_differ_in_numbers_are_one_row() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(nn.Conv2d(n, m, 1) for n, m in ((3, 6), (6, 8), (8, 4)))

        def forward(self, x: Tensor) -> Tensor:
            for part in self.parts:
                x = part(x)
                x = x.reshape(1, [6, 8, 4][[6, 8, 4].index(part.weight.shape[0])], 10, 10)
            return x

    found = prunus.diagnose(Twice(), EXAMPLE)
    assert {f.module for f in found.findings} == {"parts.0", "parts.1"}
    assert "    2  parts.0, parts.1" in str(found)


@pytest.mark.parametrize(
    ("reason", "hint", "fault"),
    [
        ("the network fails when it is cut: mat1 and mat2", "x.shape", True),
        ("'sort' is not an operation that can be traced", "other torch operations", True),
        ("x is coupled to it, and a slice by fixed numbers takes part of its", "chunk", True),
        ("'softmax' runs over its channels", "nothing", False),
        ("n normalises over more or other axes than its channels", "channels only", False),
        ("it does not run in the forward pass", "as a module", False),
        ("a reason nobody knows", "no known fix", False),
    ],
)
def test_hints(reason: str, hint: str, fault: bool) -> None:
    advice = advise(reason)
    assert hint in advice.hint
    assert advice.fault == fault


class Embedded(nn.Module):
    """Raw parameters on the way to a layer that may be cut, and to one that may not."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.a = nn.Linear(3, 6)
        self.places = nn.Parameter(torch.randn(8, 6))
        self.b = nn.Identity() if whole else nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) + self.places)


def test_raw_parameters_are_a_finding_only_where_nothing_cuts_them() -> None:
    x = torch.zeros(1, 8, 3)
    found = prunus.diagnose(Embedded(whole=False), x)
    assert "places:1" in found.groups[0].members
    assert not found.findings
    (finding,) = prunus.diagnose(Embedded(whole=True), x).findings
    assert finding.module == "Embedded"
    assert finding.reason == (
        "the Embedded itself has 48 parameters, and no prunable group includes them"
    )
    assert "make the layers that use them prunable" in finding.hint


def test_heads_are_called_heads() -> None:
    """As many heads as each has dimensions: either number of the module could be meant."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = nn.Sequential(nn.Linear(7, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 5))
    found = prunus.diagnose(model, torch.zeros(1, 6, 7))
    assert found.status == "healthy"
    assert not found.findings
    heads = {g["name"]: g for g in found.to_dict()["groups"] if g["kind"] == "heads"}
    assert list(heads) == [f"1.layers.{i}.self_attn.in_proj" for i in range(2)]
    assert all(g["units"] == 4 for g in heads.values())
    assert re.search(r"self_attn.* heads +4 ", str(found))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_script_modules_stay_whole_and_are_named() -> None:
    script = torch.jit.script(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), script, nn.Conv2d(8, 4, 3), nn.Conv2d(4, 2, 1))
    x = torch.randn(1, 3, 10, 10)
    groups = find_groups(model, x)
    assert [g.name for g in groups.values()] == ["2"]
    reasons = {u.module: u.reason for u in groups.unprunable}
    assert reasons["0"] == "it meets '1', a ScriptModule, which cannot be traced"
    found = prunus.diagnose(model, x)
    assert [g.name for g in found.groups] == ["2"]
    assert {f.module for f in found.findings} == {"0", "1"}
    assert {f.hint for f in found.findings} == {"prune first, apply torch.jit.script afterwards"}
    prunus.apply_(model, plan_units(groups, {"2": [1]}))
    assert model(x).shape == (1, 2, 6, 6)
    with pytest.raises(TraceError, match="the network is a ScriptModule"):
        prunus.diagnose(script, x)


class Remembering(nn.Module):
    """Keeps what it made, with its gradient graph, as LeViT keeps its attention biases."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 6)
        self.b = nn.Linear(6, 4)
        self.bias = nn.Parameter(torch.randn(8, 1))
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if "bias" not in self.cache:
            self.cache["bias"] = 2 * self.bias
        return self.b(torch.relu(self.a(x)) + self.cache["bias"])


def test_a_network_that_caches_tensors_with_gradients() -> None:
    model, x = Remembering().eval(), torch.randn(1, 8, 3)
    before = model(x)
    cached = model.cache["bias"]
    assert prunus.diagnose(model, x).status == "healthy"
    groups = find_groups(model, x)
    assert model.cache["bias"] is cached
    assert cached.requires_grad
    receipt = prunus.apply_(model, plan_units(groups, {"a": [1, 2]}))
    assert model(x).shape == before.shape
    prunus.undo_(model, receipt, keep_training=True)
    assert torch.equal(model(x), before)
