"""Networks that multiply by parameters of their own: these are found and cut like layers."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.criteria import score
from prunus.graph import find_groups
from prunus.plan import Plan, make_plan
from prunus.statistics import collect
from prunus.surgery import apply_, mask_, replay_, undo_, unsound_groups
from tests.graph.test_groups import members


class Conv1D(nn.Module):
    """GPT-2's layer: the weight is (in, out)."""

    def __init__(self, out: int, incoming: int) -> None:
        super().__init__()
        self.nf = out
        self.weight = nn.Parameter(torch.randn(incoming, out) * 0.3)
        self.bias = nn.Parameter(torch.randn(out) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        made = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return made.view(*x.size()[:-1], self.nf)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.split, self.head_dim = 16, 4
        self.c_attn, self.c_proj = Conv1D(48, 16), Conv1D(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.c_attn(x).split(self.split, 2)
        q, k, v = (t.view(*x.shape[:-1], -1, self.head_dim).transpose(1, 2) for t in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).flatten(2))


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.attn = nn.Embedding(20, 16), nn.LayerNorm(16), Attention()
        self.c_fc, self.c_proj = Conv1D(24, 16), Conv1D(16, 24)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.attn(self.norm(x))
        return self.head((x + self.c_proj(F.gelu(self.c_fc(x)))).mean(1))


class Graph(nn.Module):
    """Two graph convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.bias = nn.Parameter(torch.randn(6, 12)), nn.Parameter(torch.randn(12))
        self.two = nn.Parameter(torch.randn(12, 3))
        self.register_buffer("adjacent", torch.rand(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.matmul(self.adjacent, x @ self.one) + self.bias
        return (self.adjacent @ (x.relu() @ self.two)).mean(1)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.shift = nn.Parameter(torch.randn(8, 2, 3, 3)), nn.Parameter(torch.randn(8))
        self.two, self.scale = nn.Parameter(torch.randn(6, 8, 3, 3)), 0.25
        self.out = nn.Parameter(torch.randn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.one, self.shift, stride=2, padding=1).relu()
        x = F.conv2d(x, self.two * self.scale, padding="same").relu()
        return F.linear(x.mean((2, 3)), self.out)


class LowRank(nn.Linear):
    def __init__(self, incoming: int, out: int) -> None:
        super().__init__(incoming, out)
        self.A = nn.Parameter(torch.randn(4, incoming) * 0.3)
        self.B = nn.Parameter(torch.randn(out, 4) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.A.T @ self.B.T


NETWORKS = {
    "gpt": (GPT, lambda n: torch.randint(20, (n, 5))),
    "graph": (Graph, lambda n: torch.randn(n, 5, 6)),
    "convolutions": (Convolutions, lambda n: torch.randn(n, 2, 6, 6)),
    "low rank": (
        lambda: nn.Sequential(LowRank(6, 12), nn.ReLU(), LowRank(12, 3)),
        lambda n: torch.randn(n, 6),
    ),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    network, inputs = NETWORKS[name]
    return network().eval(), inputs(48)


def test_gpts_layers_and_their_numbers() -> None:
    model, x = build("gpt")
    groups = find_groups(model, x[:1], inputs=False)
    assert members(groups)["attn.c_attn.weight.T"] == (
        "attn.c_attn.weight.T.out attn.c_proj.weight.T.in attn.c_attn.bias:0.out "
        "attn.c_attn:nf.out attn:split.out"
    )
    assert members(groups)["c_fc.weight.T"] == (
        "c_fc.weight.T.out c_proj.weight.T.in c_fc.bias:0.out c_fc:nf.out"
    )
    assert [u.module for u in groups.unprunable] == ["head"]
    assert groups.layers["c_fc.weight.T"].macs(24, 16) == 5 * 24 * 16
    assert groups.layers["c_fc.weight.T"].params(24, 16) == 24 * 16


def test_graphs_convolutions_and_ranks() -> None:
    assert members(find_groups(*build("graph"))) == {"one.T": "one.T.out two.T.in bias:0.out"}
    assert members(find_groups(*build("convolutions"))) == {
        "one": "one.out two.in shift:0.out",
        "two": "two.out out.in",
    }
    found = members(find_groups(*build("low rank"), inputs=False))
    assert {n: set(m.split()) for n, m in found.items()} == {
        "0": {"0.out", "0.B.out", "2.in", "2.A.in"},
        "0.A": {"0.A.out", "0.B.in"},
        "2.A": {"2.A.out", "2.B.in"},
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_cut_equals_masked_and_undone_equals_dense(name: str) -> None:
    model, x = build(name)
    groups = find_groups(model, x[:2])
    assert unsound_groups(groups, x[:2]) == {}
    plan = make_plan(groups, score(groups, None, "l2"), "params=60%")
    cut, masked = (f(copy.deepcopy(model), plan)(x) for f in (replay_, mask_))
    torch.testing.assert_close(cut, masked, rtol=1e-4, atol=1e-5)
    expected, held = model(x), {n: p.requires_grad for n, p in model.named_parameters()}
    numbers = {n: v for n, v in vars(model).items() if isinstance(v, int)}
    again = replay_(copy.deepcopy(model), Plan.from_json(plan.to_json()))
    receipt = apply_(model, plan)
    assert sum(p.numel() for p in model.parameters()) <= 0.6 * groups.total_params
    assert {n: p.requires_grad for n, p in model.named_parameters()} == held
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), model(x))
    undo_(model, receipt)
    assert torch.equal(model(x), expected)
    assert {n: v for n, v in vars(model).items() if isinstance(v, int)} == numbers


def test_numbers_follow_the_axis_that_they_name() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.in_features = self.out_features = 12
            self.w, self.b = nn.Parameter(torch.randn(12, 12)), nn.Parameter(torch.randn(12))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.w, self.b)

    model, x = nn.Sequential(Layer(), nn.ReLU(), nn.Linear(12, 3)), torch.randn(2, 12)
    groups = find_groups(model, x, inputs=False)
    receipt = apply_(model, make_plan(groups, score(groups, None, "l2"), "params=60%"))
    assert (model[0].in_features, model[0].out_features) == (12, model[0].w.shape[0])
    undo_(model, receipt)
    assert (model[0].in_features, model[0].out_features) == (12, 12)


def test_statistics_are_of_what_it_reads_and_repair_changes_it() -> None:
    model, x = build("graph")
    loader = [(x, torch.arange(48) % 3)]
    groups = find_groups(model, x[:1])
    statistics = collect(model, loader, groups)
    read = (model.adjacent @ (x @ model.one) + model.bias).relu().detach().double()
    expected = read.flatten(0, 1).mean(0)
    torch.testing.assert_close(statistics["two.T"].mean, expected, rtol=1e-4, atol=1e-5)
    plan = make_plan(groups, score(groups, statistics, "stacked"), "macs=60%")
    dense, bare = model(x), replay_(copy.deepcopy(model), plan)(x)
    apply_(model, plan, statistics, loader=loader)
    assert (model(x) - dense).norm() < 0.6 * (bare - dense).norm()


def test_a_weight_that_is_scaled_is_cut_and_not_refitted() -> None:
    model, x = build("convolutions")
    groups = find_groups(model, x[:1])
    assert groups.worked_out == ("two",)
    statistics = collect(model, [(x, torch.arange(48) % 3)], groups)
    plan = make_plan(groups, score(groups, statistics, "stacked"), "macs=60%")
    expected = replay_(copy.deepcopy(model), plan).two
    apply_(model, plan, statistics)
    assert torch.equal(model.two, expected)


def test_a_module_that_is_ignored_keeps_its_parameters() -> None:
    model, x = build("gpt")
    groups = find_groups(model, x[:1], ignored_layers=["c_fc"])
    assert "c_fc.weight.T" not in groups
    assert {u.module: u.reason for u in groups.unprunable}["c_fc.weight.T"] == (
        "it is in ignored_layers"
    )


def test_a_parameter_that_is_no_layer_is_named() -> None:
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.v = nn.Parameter(torch.randn(6, 9)), nn.Parameter(torch.randn(9, 3))

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.einsum("bi,io->bo", x, self.w).relu()
            return torch.einsum("bi,io->bo", hidden, self.v)

    groups = find_groups(Summed(), torch.randn(1, 6))
    assert [u.module for u in groups.unprunable] == ["w", "v"]
    assert all("a parameter that 'einsum' reads" in u.reason for u in groups.unprunable)
