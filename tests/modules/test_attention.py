"""`nn.MultiheadAttention`: the same values from our formula, and heads removed separately."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.criteria import score
from prunus.export import export_onnx
from prunus.graph import find_groups
from prunus.modules.attention import HeadwiseAttention, in_projection, open_heads_
from prunus.modules.uncalled import Calling, plain_attention
from prunus.plan import Plan, make_plan, plan_units
from prunus.statistics import collect
from prunus.surgery import apply_, mask_, replay_, undo_, unsound_groups
from tests.conftest import randomise_norms_

WIDTH, HEADS, TOKENS, BATCH = 12, 3, 5, 2


class Encoder(nn.Module):
    """Tokens → attention → a perceptron → classes."""

    def __init__(self, *, need_weights: bool = False, batch_first: bool = True) -> None:
        super().__init__()
        self.need_weights, self.batch_first = need_weights, batch_first
        self.embed = nn.Linear(4, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first)
        self.up, self.down = nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        y = y if self.batch_first else y.transpose(0, 1)
        y = self.attn(y, y, y, need_weights=self.need_weights)[0]
        x = x + (y if self.batch_first else y.transpose(0, 1))
        return self.head((x + self.down(torch.relu(self.up(x)))).mean(1))


class Cross(nn.Module):
    """Two queries attend to the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, WIDTH)
        self.query = nn.Parameter(torch.randn(1, 2, WIDTH))
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(self.attn(self.query.expand(len(x), -1, -1), x, x)[0].mean(1))


def tokens() -> Tensor:
    return torch.randn(BATCH, TOKENS, 4, generator=torch.Generator().manual_seed(0))


def layer() -> nn.Module:
    inner = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)
    return nn.Sequential(nn.Linear(4, WIDTH), inner, nn.Linear(WIDTH, 3))


NETWORKS = {
    "batch first": Encoder,
    "tokens first": lambda: Encoder(batch_first=False),
    "with weights": lambda: Encoder(need_weights=True),
    "encoder layer": layer,
    "cross": Cross,
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomise_norms_(NETWORKS[name]()).eval()


def masks(heads: int) -> dict[str, dict[str, Tensor]]:
    causal = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
    last = torch.zeros(BATCH, TOKENS, dtype=torch.bool)
    last[:, -1] = True
    each = torch.randn(BATCH * heads, TOKENS, TOKENS)
    return {
        "none": {},
        "causal": {"attn_mask": causal},
        "padding": {"key_padding_mask": last},
        "both": {"attn_mask": causal, "key_padding_mask": last},
        "a head": {"attn_mask": each},
    }


@pytest.mark.parametrize("mask", list(masks(1)))
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("average", [True, False, None])
def test_the_same_numbers_as_pytorch(mask: str, first: bool, average: bool | None) -> None:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=first).eval()
    nn.init.normal_(theirs.in_proj_bias)
    ours = copy.deepcopy(theirs)
    open_heads_(ours)
    assert isinstance(ours, HeadwiseAttention)
    q, k = torch.randn(BATCH, TOKENS, WIDTH), torch.randn(BATCH, TOKENS, WIDTH)
    if not first:
        q, k = q.transpose(0, 1), k.transpose(0, 1)
    said = {**masks(HEADS)[mask], "need_weights": average is not None}
    said |= {"average_attn_weights": bool(average)}
    with torch.no_grad():
        for triple in ((q, k, k), (q, q, q)):
            expected, weights = theirs(*triple, **said)
            found, own = ours(*triple, **said)
            torch.testing.assert_close(found, expected)
            assert (own is None) == (weights is None)
            if weights is not None:
                torch.testing.assert_close(own, weights)
            with Calling(theirs):
                torch.testing.assert_close(theirs(*triple, **said)[0], expected)


def test_one_sequence_without_a_batch() -> None:
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()
    ours = copy.deepcopy(theirs)
    open_heads_(ours)
    x = torch.randn(TOKENS, WIDTH)
    for expected, found in zip(theirs(x, x, x), ours(x, x, x), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_heads_and_width_go_one_without_the_other(name: str) -> None:
    model, x = build(name), tokens()
    groups = find_groups(model, x)
    heads = next(g for g in groups.values() if g.kind == "heads")
    assert heads.units == HEADS
    assert {m.module.rpartition(".")[2].rpartition(":")[2] for m in heads.members} == {
        "in_proj", "out_proj", "num_heads",
    }  # fmt: skip
    width = groups["0" if name == "encoder layer" else "embed"]
    assert width.units == WIDTH
    assert unsound_groups(groups, x) == {}
    for removed in ({heads.name: [1]}, {width.name: [0, 5]}, {heads.name: [0, 2], width.name: [3]}):
        plan = plan_units(groups, removed)
        with torch.no_grad():
            cut = replay_(copy.deepcopy(model), plan)(x)
            torch.testing.assert_close(cut, mask_(copy.deepcopy(model), plan)(x))
            assert not torch.allclose(cut, model(x), atol=1e-3)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_dimensions_inside_heads(name: str) -> None:
    model, x = build(name), tokens()
    groups = find_groups(model, x, inputs=False, heads="dimensions")
    inside = next(
        g for g in groups.values() if any(m.module.endswith(":head_dim") for m in g.members)
    )
    assert inside.units == WIDTH // HEADS and inside.kind == "neurons"
    assert unsound_groups(groups, x) == {}
    plan = plan_units(groups, {inside.name: [1, 2]})
    with torch.no_grad():
        cut = replay_(copy.deepcopy(model), plan)
        torch.testing.assert_close(cut(x), mask_(copy.deepcopy(model), plan)(x))
    (attention,) = (m for m in cut.modules() if isinstance(m, HeadwiseAttention))
    assert (attention.num_heads, attention.head_dim) == (HEADS, WIDTH // HEADS - 2)
    assert attention.scale == (WIDTH // HEADS) ** -0.5


def test_dimensions_that_a_default_scale_counts_stay() -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(4, WIDTH) for _ in range(3))
            self.head = nn.Linear(WIDTH, 3)

        def forward(self, x: Tensor) -> Tensor:
            parts = (f(x).view(len(x), TOKENS, HEADS, -1) for f in (self.q, self.k, self.v))
            x = F.scaled_dot_product_attention(*(p.transpose(1, 2) for p in parts))
            return self.head(x.transpose(1, 2).flatten(2))

    groups = find_groups(Fused().eval(), tokens(), inputs=False, heads="dimensions")
    assert [(g.name, g.units) for g in groups.values()] == [("v", WIDTH // HEADS)]
    reasons = {u.module: u.reason for u in groups.unprunable}
    assert reasons["q"] == "attention's default scale depends on the dimensions of a head"


def test_a_plan_is_replayed_on_a_new_network() -> None:
    model, x = build("batch first"), tokens()
    groups = find_groups(model, x)
    plan = make_plan(groups, score(groups, None, "l2"), "macs=50%")
    cut = replay_(copy.deepcopy(model), plan)
    again = replay_(Encoder(), Plan.from_json(plan.to_json()))
    again.load_state_dict(cut.state_dict())
    assert torch.equal(again.eval()(x), cut(x))
    assert set(cut.state_dict()) == set(model.state_dict())
    assert cut.attn.embed_dim == cut.embed.out_features == cut.attn.in_proj_weight.shape[1]
    found = find_groups(cut, x)
    assert found.total_macs <= 0.5 * groups.total_macs
    assert found.total_params == sum(p.numel() for p in cut.parameters())


@pytest.mark.parametrize("name", list(NETWORKS))
def test_undone_it_is_pytorchs_own_again(name: str) -> None:
    model, x = build(name), tokens()
    groups = find_groups(model, x)
    plan = make_plan(groups, score(groups, None, "random", seed=0), "macs=60%")
    before = model(x)
    receipt = apply_(model, plan)
    assert any(isinstance(m, HeadwiseAttention) for m in model.modules())
    undo_(model, receipt)
    assert torch.equal(model(x), before)
    assert not any(isinstance(m, HeadwiseAttention) for m in model.modules())


@pytest.mark.parametrize("name", ["batch first", "tokens first", "encoder layer"])
def test_its_layers_are_listened_to_and_repaired(name: str) -> None:
    """One pass over the untouched network shows what its hidden layers read."""
    model = build(name)
    x = torch.randn(200, TOKENS, 4)
    classes = torch.randint(3, (200,))
    if name == "encoder layer":
        model.append(nn.Flatten()).append(nn.Linear(3 * TOKENS, 3))
    loader = [(x[i : i + 50], classes[i : i + 50]) for i in range(0, 200, 50)]
    groups = find_groups(model, x[:1], inputs=False)
    statistics = collect(model, loader, groups)
    attention = next(m for m in model.modules() if isinstance(m, nn.MultiheadAttention))
    path = next(n for n, m in model.named_modules() if m is attention)
    inputs: dict[str, Tensor] = {}
    with Calling(model), plain_attention():
        for part, module in (
            ("out_proj", attention.out_proj),
            ("in_proj", in_projection(attention)),
        ):
            module.register_forward_pre_hook(
                lambda _, args, part=part: inputs.update({part: args[0]})
            )
        expected = model(x).detach()
    for part, read in inputs.items():
        scatter = statistics[f"{path}.{part}"]
        flat = read.detach().double().flatten(0, 1)
        assert scatter.samples == len(flat)
        torch.testing.assert_close(scatter.mean, flat.mean(0), rtol=1e-4, atol=1e-5)
    width = "1.self_attn" if name == "encoder layer" else "attn"
    plan = plan_units(groups, {f"{width}.in_proj": [0], groups.entries[0].name: [1, 2]})
    errors = {}
    for kind in ("none", "pointwise", "patch", "joint"):
        cut = copy.deepcopy(model)
        receipt = apply_(cut, plan, statistics, loader=loader, compensate=kind)
        if kind != "none":
            left = {r.module: r.reason for r in receipt.repairs}
            assert left[f"{path}.in_proj"] == left[f"{path}.out_proj"] == ""
        errors[kind] = float((cut(x) - expected).square().mean().detach())
    assert errors["pointwise"] < errors["none"]
    assert errors["patch"] < errors["pointwise"]
    assert errors["joint"] <= 1.01 * errors["patch"]
    assert type(attention) is nn.MultiheadAttention


def test_every_criterion_scores_heads() -> None:
    model = build("batch first")
    x = torch.randn(60, TOKENS, 4)
    groups = find_groups(model, x[:1])
    statistics = collect(model, [(x, torch.arange(60) % 3)], groups)
    for criterion in ("l1", "l2", "stacked", "fdr", "di", "magnitude"):
        assert score(groups, statistics, criterion)["attn.in_proj"].values.shape == (HEADS,)


def test_extra_keys_keep_their_heads_and_say_so() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, add_bias_kv=True)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.attn, self.head = nn.Linear(4, WIDTH), attention, nn.Linear(WIDTH, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return self.head(self.attn(x, x, x)[0])

    groups = find_groups(Net().eval(), tokens())
    assert unsound_groups(groups, tokens()).keys() == {g.name for g in groups.values()}


def test_macs_count_the_hidden_layers() -> None:
    model, x = build("batch first"), tokens()[:1]
    groups = find_groups(model, x)
    linear = TOKENS * (4 * WIDTH + 3 * WIDTH**2 + WIDTH**2 + 2 * 16 * WIDTH) + 3 * WIDTH
    products = 2 * TOKENS**2 * WIDTH
    assert groups.total_macs == linear + products
    assert groups.layers["attn.in_proj"].macs(3 * WIDTH, WIDTH) == TOKENS * 3 * WIDTH**2
    cross = find_groups(build("cross"), x).layers["attn.in_proj"]
    assert cross.macs(3 * WIDTH, WIDTH) == (2 + 2 * TOKENS) * WIDTH**2


def test_an_attention_with_fewer_heads_is_exported(tmp_path) -> None:
    model, x = build("encoder layer"), tokens()
    groups = find_groups(model, x)
    heads = next(g.name for g in groups.values() if g.kind == "heads")
    cut = replay_(model, plan_units(groups, {heads: [1]}))
    export_onnx(cut, x, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").is_file()
