import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from prunus.core.errors import ConfigError
from prunus.evaluation.size import count_params
from prunus.graph.counting import count_macs
from prunus.models import MODELS, build_model
from prunus.models.families.resnet_stages import (
    IMAGENET,
    TINY,
    ModuleSpec,
    ResidualModule,
    StagedResNet,
    read_stages,
)
from tests.conftest import randomise_norms_
from tests.models.parity import copy_in_order_

NAMES = [f"tiny_resnet{n}" for n in TINY] + [f"imagenet_resnet{n}" for n in IMAGENET]
#: Parameters of a projection of the 64 channels of the stem to 64, with its BatchNorm.
PROJECTION = 64 * 64 + 2 * 64


def on_paper(name):
    entry = MODELS[name]
    with torch.device("meta"):
        return build_model(name, num_classes=entry.num_classes, input_shape=entry.input_shape)


def macs(model):
    return count_macs(model, torch.empty(1, 3, 224, 224))


def test_notation():
    def spec(depth, filters, projects):
        return ModuleSpec(depth=depth, filters=filters, projects=projects)

    assert read_stages("(c64,  i64)-1c256 - C128") == (
        (spec(2, 64, True), spec(2, 64, False)),
        (spec(1, 256, True),),
        (spec(3, 128, True),),
    )
    assert read_stages("i64") == ((spec(2, 64, False),),)
    assert [m.width for stage in read_stages("I64-i64-1i64") for m in stage] == [256, 64, 64]


@pytest.mark.parametrize(
    ("notation", "part"),
    [
        ("", "''"),
        ("c64-", "''"),
        ("c64-x128", "'x128'"),
        ("2c64", "'2c64'"),
        ("1C64", "'1C64'"),
        ("c0", "'c0'"),
        ("c64, i64", "'c64, i64'"),
        ("(c64, )", "''"),
        ("(c64", r"'\(c64'"),
    ],
)
def test_what_is_not_notation_is_named(notation, part):
    with pytest.raises(ConfigError, match=rf"holds {part}, expected modules like i64"):
        read_stages(notation)


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        (
            "i64-i128",
            r"module 1 of stage 2 .* gets 64 channels, gives 128.*is 2: write c128",
        ),
        ("i64-i64", r"module 1 of stage 2 .* gives 64, and its stride is 2: write c64"),
        ("I64", r"module 1 of stage 1 .* gets 64 channels, gives 256.*stride is 1: write C64"),
        ("(c64, i32)", r"module 2 of stage 1 .* gets 64 channels, gives 32"),
    ],
)
def test_an_identity_cannot_change_width_or_size(stages, sentence):
    with pytest.raises(ConfigError, match=sentence):
        StagedResNet(stages)


@pytest.mark.parametrize("name", NAMES)
def test_the_name_tells_the_depth(name):
    layers = [
        key
        for key, module in on_paper(name).named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "shortcut" not in key
    ]
    assert len(layers) == int(name.rpartition("resnet")[2])


@pytest.mark.parametrize(("deepest", "shallowest"), [(50, 38), (34, 18)])
def test_rows_lose_a_module_at_a_time_as_the_thesis_says(deepest, shallowest):
    # Section 4.3.3: from the stage with the most modules; of two, from the lower.
    sizes = [3, 4, 6, 3]
    for depth in sorted((d for d in IMAGENET if shallowest <= d <= deepest), reverse=True):
        stages = read_stages(IMAGENET[depth])
        assert [len(stage) for stage in stages] == sizes
        for stage, filters in zip(stages, (64, 128, 256, 512), strict=True):
            assert [m.projects for m in stage] == [True] + [False] * (len(stage) - 1)
            assert {m.filters for m in stage} == {filters}
            assert {m.depth for m in stage} == {3 if deepest == 50 else 2}
        sizes[sizes.index(max(sizes))] -= 1


@pytest.mark.parametrize(
    ("depth", "params", "flops"), [(18, 11_689_512, 1_814_073_344), (34, 21_797_672, 3_663_761_408)]
)
def test_resnet18_and_34_are_the_published_ones_and_one_projection(depth, params, flops):
    # torchvision's parameters (BatchNorm counts) and MACs. 'c64' projects where they do not.
    model = on_paper(f"imagenet_resnet{depth}")
    assert count_params(model) == params + PROJECTION
    assert macs(model) == flops + 64 * 64 * 56 * 56
    with torch.device("meta"):
        usual = StagedResNet(IMAGENET[depth].replace("c64", "i64"))
        theirs = getattr(torchvision.models, f"resnet{depth}")()
    assert count_params(usual) == params == count_params(theirs)
    assert macs(usual) == flops == macs(theirs)


def test_resnet50_has_the_published_counts():
    model = on_paper("imagenet_resnet50")
    assert count_params(model) == 25_557_032  # [Kung-Hou, Table 2]: 25.60M
    assert macs(model) == 4_089_184_256  # 4.09B, MAC


@pytest.mark.parametrize(
    ("stages", "published"),
    [(IMAGENET[18].replace("c64", "i64"), "resnet18"), (IMAGENET[50], "resnet50")],
)
def test_parity_with_the_published_network(stages, published):
    torch.manual_seed(0)
    mine = StagedResNet(stages, num_classes=5)
    theirs = getattr(torchvision.models, published)(num_classes=5)
    mine, theirs = copy_in_order_(mine, theirs)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(mine(x), theirs(x))


def conv(in_planes, planes, kernel):
    """Parameters of a convolution without bias and its BatchNorm."""
    return in_planes * planes * kernel**2 + 2 * planes


@pytest.mark.parametrize(
    ("depth", "modules", "last"),
    [
        (6, ["i64", "c128"], 128),
        (7, ["i64", "c128", "1c256"], 256),
        (8, ["i64", "c128", "c256"], 256),
        (9, ["i64", "c128", "c256", "1c512"], 512),
        (10, ["c64", "c128", "c256", "c512"], 512),
    ],
)
def test_tiny_resnets_by_hand(depth, modules, last):
    costs = {
        "i64": 2 * conv(64, 64, 3),
        "c64": 2 * conv(64, 64, 3) + conv(64, 64, 1),
        "c128": conv(64, 128, 3) + conv(128, 128, 3) + conv(64, 128, 1),
        "c256": conv(128, 256, 3) + conv(256, 256, 3) + conv(128, 256, 1),
        "1c256": conv(128, 256, 3) + conv(128, 256, 1),
        "c512": conv(256, 512, 3) + conv(512, 512, 3) + conv(256, 512, 1),
        "1c512": conv(256, 512, 3) + conv(256, 512, 1),
    }
    expected = conv(3, 64, 7) + sum(costs[m] for m in modules) + last * 10 + 10
    assert count_params(on_paper(f"tiny_resnet{depth}")) == expected


def test_a_module_of_one_convolution():
    torch.manual_seed(0)
    spec = ModuleSpec(depth=1, filters=6, projects=True)
    module = randomise_norms_(ResidualModule(spec, 4, 2)).eval()
    (wide, wide_norm), (point, point_norm) = module.body, module.shortcut
    x = torch.randn(2, 4, 8, 8)
    h = wide_norm(F.conv2d(x, wide.weight, stride=2, padding=1))
    h += point_norm(F.conv2d(x[:, :, ::2, ::2], point.weight))
    torch.testing.assert_close(module(x), h.clamp(min=0))
    assert module(x).shape == (2, 6, 4, 4)


def test_an_identity_module_whose_body_gives_nothing_is_relu():
    module = ResidualModule(ModuleSpec(depth=2, filters=4, projects=False), 4, 1).eval()
    nn.init.zeros_(module.body[3].weight)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(module(x), x.clamp(min=0))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 48)])
def test_takes_other_images(shape):
    model = build_model("tiny_resnet6", num_classes=3, input_shape=shape).eval()
    assert model(torch.randn(2, *shape)).shape == (2, 3)
