"""FB-ResNet: Algorithm 2 and the sixteen schemes of Table 1, written out."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunus
from prunus.core.errors import ConfigError
from prunus.export import save_weights
from prunus.graph import find_groups
from prunus.graph.counting import count_macs
from prunus.models import MODELS, build_model
from prunus.models.families.fb_resnet import FBResNet, Scheme
from prunus.plan import plan_units
from prunus.surgery import apply_
from tests.conftest import randomise_norms_

SCHEMES = ["k", "ks", "sk", "sks"]
PAIRS = [(a, b) for a in SCHEMES for b in SCHEMES]
#: Table 1's schemes in its own words, 𝒜 and ℬ alike.
WORDS = {"k": "K*", "ks": "K*σ", "sk": "σ∘K*", "sks": "σ∘K*σ"}


def small(a: str, b: str, iterations: tuple[int, ...] = (2, 3), seed: int = 0) -> FBResNet:
    torch.manual_seed(seed)
    net = FBResNet(5, a=a, b=b, iterations=iterations, planes=4)
    return randomise_norms_(net, seed).double().eval()


def without_norms_(net: nn.Module) -> nn.Module:
    """Make every BatchNorm the identity, as in the paper's equations."""
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_parameters()
            norm.eps = 0.0
    return net


def conv(x: Tensor, kernel: nn.Conv2d, stride: int = 1) -> Tensor:
    return F.conv2d(x, kernel.weight, stride=stride, padding=1)


def applied(scheme: str, x: Tensor, kernel: nn.Conv2d) -> Tensor:
    x = conv(F.relu(x) if scheme.endswith("s") else x, kernel)
    return F.relu(x) if scheme.startswith("s") else x


def algorithm_2(net: FBResNet, a: str, b: str, image: Tensor) -> Tensor:
    """Lines 1–7 as they stand, and the linear layer on the averaged u."""
    f = F.relu(conv(image, net.conv))
    u = torch.zeros_like(f)
    for l, level in enumerate(net.levels):  # noqa: E741 - the paper's symbol
        for kernel in level.b:
            u = u + applied(b, f - applied(a, u, level.a), kernel)  # (4.3)
        if l + 1 < len(net.levels):  # (4.4)
            after = net.levels[l + 1]
            r = f - applied(a, u, level.a)
            u = conv(u, after.pi, 2)
            f = conv(r, after.r, 2) + applied(a, u, after.a)
    return net.linear(u.mean((2, 3)))


@pytest.mark.parametrize("iterations", [(2, 3), (3, 2, 2)])
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_algorithm_2(a, b, iterations):
    net, image = without_norms_(small(a, b, iterations)), torch.randn(2, 3, 12, 12).double()
    with torch.no_grad():
        expected = algorithm_2(net, a, b, image)
        torch.testing.assert_close(net(image), expected, rtol=1e-9, atol=1e-9)


def test_linear_a_follows_the_preactivation_resnet():
    """Theorem 1: r^i = f − A*u^i obeys r^i = r^{i−1} − A*σ∘B^i*σ(r^{i−1}) (eq. 3.5)."""
    level = without_norms_(small("k", "sks", (3, 2))).levels[0]
    f, seen = torch.randn(2, 4, 9, 9).double(), []
    for use in level.apply_b:
        use.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        _, last = level(None, f)
        residuals = [*seen, last]
        assert torch.equal(residuals[0], f)
        for before, after, b in zip(residuals, residuals[1:], level.b, strict=False):
            expected = before - conv(F.relu(conv(F.relu(before), b)), level.a)
            torch.testing.assert_close(after, expected, rtol=1e-9, atol=1e-9)
    assert len(residuals) == 4


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_a_norm_of_its_own_stands_before_every_sigma(a, b):
    net = small(a, b, (2, 3, 2))
    order: list[str] = []
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d | nn.Conv2d | nn.ReLU):
            module.register_forward_hook(lambda _, __, ___, n=name: order.append(n))
    net(torch.randn(1, 3, 12, 12).double())
    norms = [n for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert sorted(n for n in order if n in norms) == sorted(norms)  # each once
    for relu in (n for n in order if isinstance(net.get_submodule(n), nn.ReLU)):
        assert order[order.index(relu) - 1] == f"{relu.rpartition('.')[0]}.0"
    calls = [order.count(f"levels.{level}.a") for level in range(3)]
    assert calls == [2, 4, 2]  # ν, but one more where pooling comes before and after
    ends = 2 * 2 + 1  # Π and R of two levels, the stem
    sigmas = sum(calls) * (len(a) - 1) + 7 * (len(b) - 1)
    assert len(norms) == ends + sigmas


def test_norms_behind_pooling():
    """In eval mode Π and R are followed by their norms alone: no σ, as in (4.4)."""
    net = small("k", "k")
    level, u, d = net.levels[1], torch.randn(1, 4, 8, 8).double(), torch.randn(1, 4, 8, 8).double()
    with torch.no_grad():
        u0, r = level.norm_pi(conv(u, level.pi, 2)), level.norm_r(conv(d, level.r, 2))
        f = r + conv(u0, level.a)
        u1 = u0 + conv(r, level.b[0])
        u2 = u1 + conv(f - conv(u1, level.a), level.b[1])
        u3 = u2 + conv(f - conv(u2, level.a), level.b[2])
        torch.testing.assert_close(level(u, d)[0], u3)
    assert (u0 < 0).any()


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_exact_counts(a, b):
    name = f"fb_resnet18_{a.replace('k', 'a')}_{b.replace('k', 'b')}"
    assert set(name.rpartition("_")[2]) <= {"b", "s"}
    with torch.device("meta"):
        model = build_model(name, num_classes=10, input_shape=(3, 32, 32))
    widths, calls = (64, 128, 256, 512), (2, 3, 3, 2)
    levels = sum(9 * w**2 * 3 + 2 * w * 2 * (len(b) - 1) for w in widths)  # A, B¹, B²; ℬ's norms
    norms_a = sum(2 * w * n for w, n in zip(widths, calls, strict=True)) * (len(a) - 1)
    pooling = sum(2 * (9 * w * w // 2 + 2 * w) for w in widths[1:])
    stem_and_head = 9 * 3 * 64 + 2 * 64 + 512 * 10 + 10
    count = levels + norms_a + pooling + stem_and_head
    assert sum(p.numel() for p in model.parameters()) == count
    # MAC, without BatchNorm and bias: every call of A counts
    same = 9 * 64**2 * 32**2  # a 3×3 convolution that keeps its width, at every level
    macs = 9 * 3 * 64 * 32**2 + (sum(calls) + 8) * same + 3 * 2 * same // 2 + 5120
    assert count_macs(model, torch.empty(1, 3, 32, 32)) == macs == 794_498_048


def test_names_and_schemes():
    names = [n for n in MODELS if n.startswith("fb_resnet18_")]
    assert len(names) == len(set(names)) == 16
    for text, words in WORDS.items():
        scheme = Scheme.parse(text)
        assert (scheme.after, scheme.before) == ("σ∘" in words, words.endswith("σ"))
    with pytest.raises(ConfigError, match="scheme 'kk': expected 'k', 'ks', 'sk' or 'sks'"):
        FBResNet(a="kk", b="k")
    for wrong in ((2,), (2, 1)):
        with pytest.raises(ConfigError, match="at least 2 for each of at least 2 levels"):
            FBResNet(a="k", b="k", iterations=wrong)


@pytest.mark.parametrize(("a", "b"), [("k", "sks"), ("sks", "sk"), ("ks", "k")])
def test_sharing_survives_pruning_saving_and_reloading(a, b, tmp_path: Path):
    net = small(a, b).float()
    torch.manual_seed(1)
    loader = [(torch.randn(32, 3, 12, 12), torch.randint(0, 5, (32,))) for _ in range(2)]
    x = loader[0][0]
    groups = find_groups(net, x[:1])
    assert {m.module for m in groups["levels.1.b.0"].consumers} >= {"levels.1.a", "linear"}
    plan = plan_units(groups, {g.name: [1] for g in groups.values()})
    receipt = apply_(net, plan, loader=loader, groups=groups)
    assert {r.module for r in receipt.repairs} >= {"levels.0.a", "levels.1.a"}
    assert all(not r.reason for r in receipt.repairs)
    (tmp_path / "plan.json").write_text(plan.to_json())
    save_weights(net, tmp_path / "model.safetensors")
    again = prunus.load(tmp_path, model=small(a, b, seed=9).float())
    with torch.no_grad():
        assert torch.equal(again(x), net(x))
    names = [n for n, _ in again.named_parameters(remove_duplicate=False)]
    assert len(names) == len({p.data_ptr() for p in again.parameters()})
