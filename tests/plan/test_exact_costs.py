"""What a plan says that a network costs is what the same counter finds on the cut network."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core import BudgetError
from prunus.criteria import score
from prunus.graph import count_macs, find_groups
from prunus.plan import CostTracker, make_plan
from prunus.surgery import replay_

torch.manual_seed(0)
TOKENS = torch.randn(1, 6, 8)
IMAGE = torch.randn(1, 3, 12, 12)


class Net(nn.Module):
    """A network whose forward pass is a function of it and its input."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, *args, **kwargs):
        return self.run(self, *args, **kwargs)


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape) * 0.3


def cnn() -> tuple[nn.Module, object]:
    parts = [nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, stride=2)]
    return nn.Sequential(*parts, nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)), IMAGE


def called_forward():
    def run(m, x):
        return m.h(F.relu(m.c(F.relu(m.b.forward(F.relu(m.a(x)))))).mean((2, 3)))

    net = Net(run, a=nn.Conv2d(3, 12, 3, 1, 1), b=nn.Conv2d(12, 16, 3, 1, 1))
    net.c, net.h = nn.Conv2d(16, 12, 1), nn.Linear(12, 5)
    return net, IMAGE


def functional_conv():
    def run(m, x):
        x = F.conv2d(m.a(x).relu(), m.b.weight, m.b.bias, padding=1)
        return m.h(x.relu().mean((2, 3)))

    return Net(run, a=nn.Conv2d(3, 12, 3), b=nn.Conv2d(12, 16, 3, padding=1), h=nn.Linear(16, 5)), (
        IMAGE
    )


def turned_weight():
    def run(m, x):
        return m.b((x @ m.a.weight.t()).relu())

    return Net(run, a=nn.Linear(8, 20, bias=False), b=nn.Linear(20, 5)), TOKENS


def flattened_weight():
    def run(m, x):
        x = F.relu(m.a(x)).flatten(2).transpose(1, 2)
        return m.h(F.linear(x, m.b.weight.flatten(1)).relu().mean(1))

    return Net(run, a=nn.Conv2d(3, 12, 3), b=nn.Conv2d(12, 16, 1), h=nn.Linear(16, 5)), IMAGE


def attention(heads: int = 4, groups: int = 4, *, fused: bool = True):
    def run(m, x):
        x = m.embed(x)
        q, k, v = (f(x).unflatten(-1, (-1, 6)).transpose(1, 2) for f in (m.q, m.k, m.v))
        k, v = (t.repeat_interleave(heads // groups, 1) for t in (k, v))
        if fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-1, -2) * 6**-0.5).softmax(-1) @ v
        return m.h(x + m.o(y.transpose(1, 2).flatten(2)))

    wide, narrow = heads * 6, groups * 6
    parts = {"embed": nn.Linear(8, 16), "q": nn.Linear(16, wide), "k": nn.Linear(16, narrow)}
    net = Net(run, **parts, v=nn.Linear(16, narrow), o=nn.Linear(wide, 16), h=nn.Linear(16, 5))
    return net, TOKENS


def written_attention():
    return attention(fused=False)


def grouped_queries():
    return attention(4, 2)


def multihead():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.Sequential(nn.Linear(8, 16), layer, nn.Linear(16, 5)), TOKENS


def linear_attention():
    def run(m, x):
        q, k, v = m.q(x).softmax(1), m.k(x).softmax(1), m.v(x)
        return m.h(q @ (k.transpose(1, 2) @ v))

    return Net(
        run, q=nn.Linear(8, 12), k=nn.Linear(8, 12), v=nn.Linear(8, 16), h=nn.Linear(16, 5)
    ), (TOKENS)


def mixer():
    def run(m, x):
        x = m.embed(x)
        x = x + m.t2(m.t1(x.transpose(1, 2)).relu()).transpose(1, 2)
        return m.h((x + m.c2(m.c1(x).relu())).mean(1))

    parts = {"embed": nn.Linear(8, 12), "t1": nn.Linear(6, 10), "t2": nn.Linear(10, 6)}
    return Net(run, **parts, c1=nn.Linear(12, 20), c2=nn.Linear(20, 12), h=nn.Linear(12, 5)), TOKENS


def gru():
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.GRU(12, 10))
    net.append(Net(lambda m, x: m.h(x[0]), h=nn.Linear(10, 5)))
    return net, TOKENS


def lstm():
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.LSTM(12, 10))
    net.append(Net(lambda m, x: m.h(x[0]), h=nn.Linear(10, 5)))
    return net, TOKENS


def cells(kind):
    def run(m, x):
        state = None
        for step in m.embed(x).relu().unbind(1):
            state = m.cell(step, state)
        return m.h(state[0] if isinstance(state, tuple) else state)

    return Net(run, embed=nn.Linear(8, 16), cell=kind(16, 12), h=nn.Linear(12, 5)), TOKENS


def lstm_cell():
    return cells(nn.LSTMCell)


def gru_cell():
    return cells(nn.GRUCell)


def two_inputs():
    def run(m, x, y):
        return m.h(m.a(x).relu() + m.b(y).relu())

    net = Net(run, a=nn.Linear(8, 20), b=nn.Linear(4, 20), h=nn.Linear(20, 5))
    return net, (torch.randn(1, 8), torch.randn(1, 4))


def named_inputs():
    net, (x, y) = two_inputs()
    return net, {"x": x, "y": y}


def constants():
    def run(m, x):
        return m.h(m.a(x * torch.ones(8)).relu() + torch.arange(20.0))

    return Net(run, a=nn.Linear(8, 20), h=nn.Linear(20, 5)), torch.randn(1, 8)


def looks_at_values():
    def run(m, x):
        return m.h(m.a(x / 2 if x.max() > 100 else x).relu())

    return Net(run, a=nn.Linear(8, 20), h=nn.Linear(20, 5)), torch.randn(1, 8)


def plain_tensor():
    net = Net(lambda m, x: m.h(m.a(x - m.mean).relu()), a=nn.Linear(8, 20), h=nn.Linear(20, 5))
    net.__dict__["mean"] = torch.randn(8)
    return net, torch.randn(1, 8)


def raw_parameters():
    def run(m, x):
        return m.h((m.a(x).relu() @ m.w).relu())

    return Net(run, a=nn.Linear(8, 20), w=rand(20, 16), h=nn.Linear(16, 5)), torch.randn(1, 8)


def summed_up():
    def run(m, x):
        return m.h(torch.einsum("bi,io->bo", m.a(x).relu(), m.w).relu())

    return Net(run, a=nn.Linear(8, 20), w=rand(20, 16), h=nn.Linear(16, 5)), torch.randn(1, 8)


def low_rank():
    def run(m, x):
        return m.h((m.a(x) + x @ m.A.T @ m.B.T).relu())

    return Net(run, a=nn.Linear(8, 20), A=rand(4, 8), B=rand(20, 4), h=nn.Linear(20, 5)), TOKENS


def graph_convolution():
    def run(m, x):
        return m.adj @ ((m.adj @ (x @ m.w1)).relu() @ m.w2)

    net = Net(run, w1=rand(8, 20), w2=rand(20, 5))
    net.register_buffer("adj", torch.rand(6, 6))
    return net, TOKENS


def scaled_weight():
    def run(m, x):
        return F.linear(F.linear(x, m.w1 * 0.5).relu(), m.w2 * 0.5)

    return Net(run, w1=rand(20, 8), w2=rand(5, 20)), TOKENS


def merged_weight():
    def run(m, x):
        return m.h(F.linear(m.e(x).relu(), m.a.weight + m.B @ m.A, m.a.bias).relu())

    parts = {"e": nn.Linear(8, 16), "a": nn.Linear(16, 20), "h": nn.Linear(20, 5)}
    return Net(run, **parts, A=rand(4, 16), B=rand(20, 4)), torch.randn(3, 8)


def transposed():
    net = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.ConvTranspose2d(12, 8, 2, 2), nn.ReLU())
    return net.append(nn.Conv2d(8, 3, 1)), IMAGE


def depthwise():
    net = nn.Sequential(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, groups=12), nn.ReLU())
    return net.append(nn.Conv2d(12, 8, 1)).append(nn.Conv2d(8, 2, 1)), torch.cat([IMAGE] * 2)


def windows():
    def run(m, x):
        x = m.embed(x).view(len(x), 2, 3, -1).flatten(0, 1)
        return m.h((x @ x.transpose(1, 2)).softmax(-1) @ m.v(x)).view(-1, 6, 5)

    return Net(run, embed=nn.Linear(8, 16), v=nn.Linear(16, 12), h=nn.Linear(12, 5)), TOKENS


def auxiliary():
    def run(m, x):
        x = m.a(x).relu()
        return (m.h(x), m.aux(m.side(x).relu())) if m.training else m.h(x)

    parts = {"a": nn.Linear(8, 20), "side": nn.Linear(20, 30)}
    return Net(run, **parts, aux=nn.Linear(30, 5), h=nn.Linear(20, 5)), torch.randn(2, 8)


NETWORKS = [
    cnn, called_forward, functional_conv, turned_weight, flattened_weight, attention,
    written_attention, grouped_queries, multihead, linear_attention, mixer, gru, lstm, lstm_cell,
    gru_cell, two_inputs, named_inputs, constants, looks_at_values, plain_tensor, raw_parameters,
    summed_up, low_rank, graph_convolution, scaled_weight, merged_weight, transposed, depthwise,
    windows, auxiliary,
]  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS)
def test_a_plan_costs_what_the_cut_network_costs(network) -> None:
    torch.manual_seed(0)
    model, example = network()
    model = model.eval()
    groups = find_groups(model, example)
    assert groups.total_macs == count_macs(model, example) > 0
    scores = score(groups, None, "random", seed=0)
    steps = [CostTracker(groups).saving(g, [0]) for g in groups.values()]
    coarsest = {c: max(each[c] for each in steps) for c in ("macs", "params")}
    for currency in ("macs", "params"):
        for share in (85, 70, 50):
            try:
                plan = make_plan(groups, scores, f"{currency}={share}%")
            except BudgetError:
                continue
            tracker = CostTracker(groups)
            for name, edit in plan.groups.items():
                tracker.remove(groups[name], edit.removed)
            cut = replay_(copy.deepcopy(model), plan)
            params = sum(p.numel() for p in cut.parameters())
            found = {"macs": count_macs(cut, example), "params": params}
            whole = {"macs": groups.total_macs, "params": groups.total_params}
            assert found == {c: tracker.totals[c] for c in found}
            assert found[currency] <= share / 100 * whole[currency]
            assert found[currency] > share / 100 * whole[currency] - coarsest[currency]
