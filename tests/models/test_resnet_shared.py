"""ResNets with shared convolutions: counts, the equations, and sharing that survives a cut."""

import copy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import prunus
from prunus.core.errors import ConfigError
from prunus.export import save_weights
from prunus.graph import find_groups
from prunus.graph.counting import count_macs
from prunus.models import MODELS, build_model
from prunus.models.families.resnet_shared import (
    DEPTHS,
    SHARINGS,
    PreActResNetShared,
    ResNetShared,
)
from prunus.plan import plan_units
from prunus.surgery import apply_
from tests.conftest import randomise_norms_

CIFAR, MNIST, IMAGENET = (3, 32, 32), (1, 28, 28), (3, 224, 224)
KINDS = [ResNetShared, PreActResNetShared]
PREFIX = {ResNetShared: "resnet", PreActResNetShared: "preact_resnet"}


def ghost(name: str, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    with torch.device("meta"):
        return build_model(name, num_classes=num_classes, input_shape=shape)


def params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "shape", "count", "printed"),
    [
        # The last column is what [Data-feature, Tables 2 to 4] print, in M
        ("resnet18_al_bli", 10, CIFAR, 8_040_522, "8.0"),
        ("resnet18_al_bli", 100, CIFAR, 8_086_692, "8.1"),
        ("resnet18_al_bli", 10, MNIST, 8_039_370, "8.0"),
        ("resnet18_al_bli", 1000, IMAGENET, 8_556_072, "8.6"),
        ("resnet18_ali_bli", 1000, IMAGENET, 11_689_512, "11.7"),
        ("resnet18_ali_bli", 100, CIFAR, 11_220_132, "11.2"),
        ("resnet34_ali_bli", 10, CIFAR, 21_282_122, "21.3"),
        ("resnet34_al_bli", 10, CIFAR, 13_098_314, "13.1"),
        # by the text of section 5.2: the table prints 9.7, 6.6, 15 and 6.7
        ("resnet18_ali_bl", 100, CIFAR, 11_183_268, "11.2"),
        ("resnet18_al_bl", 100, CIFAR, 8_049_828, "8.0"),
        ("resnet34_ali_bl", 10, CIFAR, 16_194_890, "16.2"),
        ("resnet34_al_bl", 10, CIFAR, 8_011_082, "8.0"),
    ],
)
def test_exact_parameter_counts(name, classes, shape, count, printed):
    assert params(ghost(name, classes, shape)) == count
    assert f"{count / 1e6:.1f}" == printed


@pytest.mark.parametrize("prefix", PREFIX.values())
@pytest.mark.parametrize("depth", DEPTHS)
def test_what_sharing_saves_by_hand(prefix, depth):
    blocks, widths = DEPTHS[depth], (64, 128, 256, 512)
    whole = params(ghost(f"{prefix}{depth}_ali_bli", 10, CIFAR))
    kernel = [9 * width**2 for width in widths]
    a = sum((count - 1) * k for count, k in zip(blocks, kernel, strict=True))
    basic = [blocks[0], *(count - 1 for count in blocks[1:])]  # the blocks with i ≥ 1
    b = sum((count - 1) * k for count, k in zip(basic, kernel, strict=True))
    for sharing, (share_a, share_b) in SHARINGS.items():
        found = params(ghost(f"{prefix}{depth}_{sharing}", 10, CIFAR))
        assert found == whole - share_a * a - share_b * b


@pytest.mark.parametrize("depth", DEPTHS)
def test_preactivation_has_other_norms(depth):
    """BN of stem, R and A go; that of every block's input and the last one come."""
    blocks, widths = DEPTHS[depth], (64, 128, 256, 512)
    plain, preact = (params(ghost(f"{p}{depth}_al_bli", 10, CIFAR)) for p in PREFIX.values())
    behind = 2 * sum(w * n for w, n in zip(widths, blocks, strict=True)) + 2 * sum(widths[1:])
    inputs = sum(n * w for w, n in zip(widths, blocks, strict=True))
    inputs -= sum(after - before for before, after in pairwise(widths))
    assert preact - plain == 2 * inputs + 2 * 512 - behind == -1664


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("prefix", PREFIX.values())
def test_sharing_saves_no_multiplications(prefix, sharing):
    # MAC, without BatchNorm and bias
    name = f"{prefix}18_{sharing}"
    same = 9 * 64**2 * 32**2  # a 3×3 convolution that keeps its width, at every level
    cifar = 9 * 3 * 64 * 32**2 + 4 * same + 3 * (same // 2 + 3 * same + same // 18) + 5120
    assert count_macs(ghost(name, 10, CIFAR), torch.empty(1, *CIFAR)) == cifar == 555_422_720
    imagenet = count_macs(ghost(name, 1000, IMAGENET), torch.empty(1, *IMAGENET))
    with torch.device("meta"):
        published = torchvision.models.resnet18()
    assert imagenet == count_macs(published, torch.empty(1, *IMAGENET)) == 1_814_073_344


def test_the_unshared_network_is_torchvisions():
    torch.manual_seed(0)
    published = randomise_norms_(torchvision.models.resnet18(num_classes=7)).eval()
    model = ResNetShared((2, 2, 2, 2), 7, stem="imagenet").eval()
    model.conv, model.norm, model.linear = published.conv1, published.bn1, published.fc
    for mine, stage in zip(model.levels, range(1, 5), strict=True):
        blocks = published.get_submodule(f"layer{stage}")
        for i, block in enumerate(blocks):
            mine.a[i], mine.norm_a[i], mine.norm_b[i] = block.conv2, block.bn2, block.bn1
            if block.downsample is None:
                mine.b[i - mine.pooled] = block.conv1
            else:
                mine.b0, (mine.r, mine.norm_r) = block.conv1, block.downsample
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), published(x), rtol=1e-5, atol=1e-5)


def small(kind: type[ResNetShared], sharing: str, seed: int = 0) -> ResNetShared:
    """Return a network of two levels of 3 blocks; the second begins with the pooling block."""
    share_a, share_b = SHARINGS[sharing]
    torch.manual_seed(seed)
    net = kind((3, 3), 5, share_a=share_a, share_b=share_b, planes=4)
    return randomise_norms_(net, seed).eval()


def by_the_equations(net: ResNetShared, f: Tensor) -> Tensor:
    """Algorithm 1, A and B of each block picked by hand: by l and i, or by l where shared."""
    preact = isinstance(net, PreActResNetShared)
    r = F.relu(net.norm(net.conv(f)))
    for l, level in enumerate(net.levels):  # noqa: E741 - the paper's symbol
        for i in range(0 if l else 1, 4 - (1 if l else 0)):  # i = 0 is the pooling block
            a = level.a[0] if len(level.a) == 1 else level.a[i if l else i - 1]
            b = level.b[0] if len(level.b) == 1 else level.b[i - 1]
            n = i if l else i - 1  # the block's norms
            stride = 1 if i else 2
            B = (b if i else level.b0).weight
            if preact:
                inner = F.conv2d(F.relu(level.norm_r[n](r)), B, stride=stride, padding=1)
                skip = r if i else F.conv2d(r, level.r.weight, stride=2)
                r = skip + F.conv2d(F.relu(level.norm_b[n](inner)), a.weight, padding=1)
            else:
                inner = F.relu(level.norm_b[n](F.conv2d(r, B, stride=stride, padding=1)))
                skip = r if i else level.norm_r(F.conv2d(r, level.r.weight, stride=2))
                r = F.relu(skip + level.norm_a[n](F.conv2d(inner, a.weight, padding=1)))
    return net.linear((F.relu(net.last[0](r)) if preact else r).mean((2, 3)))


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_equations(kind, sharing):
    net, f = small(kind, sharing), torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(net(f), by_the_equations(net, f))


@pytest.mark.parametrize("sharing", ["al_bli", "ali_bl", "al_bl"])
@pytest.mark.parametrize("kind", KINDS)
def test_shared_is_unshared_with_equal_weights_and_summed_gradients(kind, sharing):
    net, twin = small(kind, sharing).double().train(), small(kind, "ali_bli").double().train()
    shared = {"a": SHARINGS[sharing][0], "b": SHARINGS[sharing][1]}
    state = net.state_dict()
    for name in twin.state_dict():
        parts = name.split(".")
        if len(parts) > 3 and shared.get(parts[2]):  # levels.1.a.2.weight
            state[name] = net.state_dict()[".".join([*parts[:3], "0", *parts[4:]])].clone()
    twin.load_state_dict(state)
    f, y = torch.randn(4, 3, 12, 12).double(), torch.tensor([0, 1, 2, 3])
    for model in (net, twin):
        F.cross_entropy(model(f), y).backward()
    for level, other in zip(net.levels, twin.levels, strict=True):
        for letter in ("a", "b"):
            mine, copies = level.get_submodule(letter), other.get_submodule(letter)
            assert (len(mine) == 1) == shared[letter]
            if shared[letter]:
                total = torch.stack([c.weight.grad for c in copies]).sum(0)
                torch.testing.assert_close(mine[0].weight.grad, total)
    torch.testing.assert_close(net(f), twin(f))


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_has_one_name_and_norms_run_once(kind, sharing):
    net = small(kind, sharing)
    names = [n for n, _ in net.named_parameters(remove_duplicate=False)]
    assert len(names) == len({p.data_ptr() for p in net.parameters()})
    twin = copy.deepcopy(net)
    assert [n for n, _ in twin.named_parameters()] == names
    runs: dict[nn.Module, int] = {}
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.Conv2d):
            module.register_forward_hook(lambda m, _, __: runs.update({m: runs.get(m, 0) + 1}))
    net(torch.randn(1, 3, 12, 12))
    assert all(n == 1 for m, n in runs.items() if isinstance(m, nn.BatchNorm2d))
    share_a, share_b = SHARINGS[sharing]
    assert [runs[level.a[0]] for level in net.levels] == ([3, 3] if share_a else [1, 1])
    assert [runs[level.b[0]] for level in net.levels] == ([3, 2] if share_b else [1, 1])


@pytest.mark.parametrize("sharing", ["al_bli", "al_bl"])
@pytest.mark.parametrize("kind", KINDS)
def test_sharing_survives_pruning_saving_and_reloading(kind, sharing, tmp_path: Path):
    net = small(kind, sharing)
    torch.manual_seed(1)
    loader = [(torch.randn(32, 3, 12, 12), torch.randint(0, 5, (32,))) for _ in range(2)]
    x = loader[0][0]
    groups = find_groups(net, x[:1])
    streams = {m.module for m in groups["conv"].producers}
    assert "levels.0.a.0" in streams  # the stream and the inner width of a level are a group each
    assert {m.module for m in groups["levels.1.b.0"].consumers} == {"levels.1.a.0"}
    plan = plan_units(groups, {g.name: [0] for g in groups.values()})
    receipt = apply_(net, plan, loader=loader, groups=groups)
    assert {r.module for r in receipt.repairs} >= {"levels.0.a.0", "levels.1.a.0", "linear"}
    assert all(not r.reason for r in receipt.repairs)
    (tmp_path / "plan.json").write_text(plan.to_json())
    save_weights(net, tmp_path / "model.safetensors")
    again = prunus.load(tmp_path, model=small(kind, sharing, seed=9))
    with torch.no_grad():
        assert torch.equal(again(x), net(x))
    assert all(len(level.a) == 1 for level in again.levels)
    assert params(again) == receipt.params[1]


def test_the_side_of_the_images_picks_the_stem():
    for side, kernel in ((28, 3), (64, 3), (127, 3), (128, 7), (224, 7)):
        net = ghost("resnet18_al_bli", 10, (1, side, side))
        assert net.conv.kernel_size == (kernel, kernel)
        assert net.conv.in_channels == 1
        assert isinstance(net.pool, nn.MaxPool2d) == (kernel == 7)
    with pytest.raises(ConfigError, match="stem 'mnist': expected 'cifar' or 'imagenet'"):
        ResNetShared((2, 2), stem="mnist")


def test_all_sixteen_are_registered():
    names = {f"{p}{d}_{s}" for p in PREFIX.values() for d in DEPTHS for s in SHARINGS}
    assert len(names) == 16
    assert names <= set(MODELS)
    assert type(ghost("preact_resnet34_al_bl", 10, CIFAR)) is PreActResNetShared
