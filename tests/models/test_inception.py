import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.core.errors import ConfigError
from prunus.graph import find_groups
from prunus.graph.counting import count_macs
from prunus.models import MODELS, build_model
from prunus.models.families.inception import TABLE_4_1, AuxiliaryHead, Inception
from prunus.models.families.inception_module import (
    STAGE_WIDTHS,
    ConvUnit,
    InceptionModule,
    Widths,
    stage_widths,
)
from prunus.surgery import mask_, replay_
from tests.conftest import random_plan, randomise_norms_

# [Tian, Table 4-1]: parameters in 10⁶ and FLOPs = 2×MAC in 10⁹, by stage sizes.
PRINTED = {
    "inception_v1": ((2, 5, 2), "6.7", "3.0"),
    "inception34": ((3, 5, 2), "7.1", "3.7"),
    "inception37": ((3, 5, 3), "8.6", "3.8"),
    "inception40": ((4, 5, 3), "9.0", "4.5"),
    "inception43": ((4, 6, 3), "10.0", "4.9"),
    "inception46": ((4, 7, 3), "11.0", "5.3"),
    "inception49": ((4, 7, 4), "12.5", "5.4"),
    "inception52": ((4, 7, 5), "14.0", "5.6"),
    "inception55": ((4, 8, 5), "15.0", "6.0"),
    "inception58": ((5, 8, 5), "15.5", "6.6"),
    "inception61": ((6, 8, 5), "15.9", "7.3"),
    "inception64": ((7, 8, 5), "16.3", "8.0"),
    "inception67": ((7, 8, 6), "17.8", "8.1"),
    "inception70": ((7, 8, 7), "19.3", "8.3"),
    "inception73": ((8, 8, 7), "19.8", "8.9"),
    "inception76": ((8, 8, 8), "21.3", "9.1"),
    "inception79": ((8, 8, 9), "22.8", "9.2"),
    "inception82": ((9, 8, 9), "23.2", "9.9"),
    "inception85": ((9, 8, 10), "24.7", "10.1"),
    "inception88": ((10, 8, 10), "25.1", "10.7"),
    "inception91": ((10, 8, 11), "26.6", "10.9"),
}
# [Tian, Appendix A]: 1×1, 3×3 reduce, 3×3, 5×5 reduce, double 3×3 a and b, pool projection.
APPENDIX_A = {
    "3a": (64, 96, 128, 16, 16, 32, 32),
    **dict.fromkeys(
        ("3b", "3c", "3d", "3e", "3f", "3g", "3h", "3i", "3j"), (128, 128, 192, 32, 32, 96, 64)
    ),
    "4a": (192, 96, 208, 16, 16, 48, 64),
    "4b": (160, 112, 224, 24, 24, 64, 64),
    "4c": (128, 128, 256, 24, 24, 64, 64),
    "4d": (112, 144, 288, 32, 32, 64, 64),
    **dict.fromkeys(("4e", "4f", "4g", "4h"), (256, 160, 320, 32, 32, 128, 128)),
    "5a": (256, 160, 320, 32, 32, 128, 128),
    **dict.fromkeys(
        ("5b", "5c", "5d", "5e", "5f", "5g", "5h", "5i", "5j"), (384, 192, 384, 48, 48, 128, 128)
    ),
}


def build(name, num_classes=1000):
    with torch.device("meta"):
        return build_model(name, num_classes=num_classes, input_shape=(3, 224, 224))


def weights_and_fc_bias(model):
    """The convention of table 4-1: no BatchNorm, no auxiliary heads."""
    mixing = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return sum(p.numel() for m in mixing for p in m.parameters(recurse=False))


def flops(model):
    """2×MAC of one image, counted by PyTorch on its operations."""
    return 2 * count_macs(model, torch.empty(1, 3, 224, 224, device="meta"))


def kernels(read, one, reduce3, three, reduce5, middle, five, pool):
    """Weights of a module with two 3×3 that reads `read` channels."""
    return (
        read * (one + reduce3 + reduce5 + pool)
        + 9 * reduce3 * three
        + 9 * (reduce5 * middle + middle * five)
    )


def test_googlenet_counts():
    # All parameters with biases; [Tian, Table 3-2] says 3.2 B, 2×MAC.
    assert sum(p.numel() for p in build("googlenet", 8).parameters()) == 5_981_752
    model = build("googlenet", 100)
    assert sum(p.numel() for p in model.parameters()) == 6_076_052
    assert flops(model) == 2 * (1_582_671_872 - 1024 * 900)


def test_googlenet_with_auxiliary_heads_counts_as_in_caffe():
    model = build("googlenet_aux")
    assert [head.fc1.in_features for head in model.heads.values()] == [4 * 4 * 128] * 2
    heads = sum((c + 1) * 128 + 2049 * 1024 + 1025 * 1000 for c in (512, 528))
    assert sum(p.numel() for p in model.parameters()) == 6_998_552 + heads == 13_378_280


@pytest.mark.parametrize(
    ("name", "parameters", "twice_macs"),
    [
        ("inception_v1", 6_682_920, 3_029_943_808),
        ("inception88", 25_134_376, 10_729_551_360),
    ],
)
def test_exact_counts_of_the_first_and_the_best_net(name, parameters, twice_macs):
    model = build(name)
    assert weights_and_fc_bias(model) == parameters
    assert flops(model) == twice_macs


@pytest.mark.parametrize("name", PRINTED)
def test_table_4_1(name):
    (i, j, k), millions, billions = PRINTED[name]
    # What one more module adds, read and written at the same width: 3b, 4e and 5b of appendix A.
    more = [
        kernels(480, *APPENDIX_A["3b"]),
        kernels(832, *APPENDIX_A["4e"]),
        kernels(1024, *APPENDIX_A["5b"]),
    ]
    added = (i - 2, j - 5, k - 2)
    expected = 6_682_920 + sum(n * one for n, one in zip(added, more, strict=True))
    places = (28**2, 14**2, 7**2)
    twice_macs = 3_029_943_808 + 2 * sum(
        n * one * at for n, one, at in zip(added, more, places, strict=True)
    )
    model = build(name)
    assert tuple(len(stage) for stage in model.stages) == (i, j, k)
    assert weights_and_fc_bias(model) == expected
    assert f"{expected / 1e6:.1f}" == millions
    assert f"{twice_macs / 1e9:.1f}" == billions


def test_the_table_is_registered_by_depth():
    assert [stages for stages, _, _ in PRINTED.values()] == list(TABLE_4_1)
    assert set(PRINTED) <= set(MODELS)
    # Inception-N has N convolutions and linear layers on its longest way.
    for name, (stages, _, _) in list(PRINTED.items())[1:]:
        assert int(name.removeprefix("inception")) == 3 + 3 * sum(stages) + 1


def test_inception88_is_the_listing_of_appendix_a():
    model = build("inception88")
    stem = [m for m in model.stem.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in stem] == [
        (64, 7, 2),
        (64, 1, 1),
        (192, 3, 1),
    ]
    modules = [module for stage in model.stages for module in stage]
    assert len(modules) == len(APPENDIX_A) == 28
    read = 192
    for module, listed in zip(modules, APPENDIX_A.values(), strict=True):
        convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
        assert [m.out_channels for m in convs] == list(listed)
        assert [m.kernel_size[0] for m in convs] == [1, 1, 3, 1, 3, 3, 1]
        assert [convs[n].in_channels for n in (0, 1, 3, 6)] == [read] * 4
        assert all(m.bias is None for m in convs)
        read = listed[0] + listed[2] + listed[5] + listed[6]
    assert model.fc.in_features == read


def normed(unit, x, padding):
    out = F.conv2d(x, unit.conv.weight, unit.conv.bias, padding=padding)
    if isinstance(unit.norm, nn.BatchNorm2d):
        bn = unit.norm
        scale = bn.weight / (bn.running_var + 1e-5).sqrt()
        shift = bn.bias - bn.running_mean * scale
        out = out * scale[:, None, None] + shift[:, None, None]
    return out.clamp(min=0)


WIDTHS = Widths(one=2, three_reduce=3, three=4, five_reduce=5, five_middle=6, five=7, pool=8)


@pytest.mark.parametrize("five_by_five", [False, True])
def test_a_module_is_its_four_branches(five_by_five):
    torch.manual_seed(0)
    module = randomise_norms_(InceptionModule(3, WIDTHS, five_by_five=five_by_five)).eval()
    x = torch.randn(2, 3, 6, 5)
    one = normed(module.one, x, 0)
    three = normed(module.three[1], normed(module.three[0], x, 0), 1)
    five = normed(module.five[0], x, 0)
    if five_by_five:
        five = normed(module.five[1], five, 2)
        pooled = F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-torch.inf), 3, 1)
    else:
        five = normed(module.five[2], normed(module.five[1], five, 1), 1)
        inside = F.pad(torch.ones_like(x), (1, 1, 1, 1))
        pooled = F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1) / F.avg_pool2d(inside, 3, 1)
    expected = torch.cat([one, three, five, normed(module.pool[1], pooled, 0)], 1)
    torch.testing.assert_close(module(x), expected)
    middle = 5 if five_by_five else 6  # without a middle, the 5×5 reads what was reduced
    assert module.widths == Widths(
        one=2, three_reduce=3, three=4, five_reduce=5, five_middle=middle, five=7, pool=8
    )
    assert module.widths.out == expected.shape[1] == 21


def test_modules_beyond_googlenets_are_like_the_one_beneath():
    for stage, known in enumerate(STAGE_WIDTHS):
        assert stage_widths(stage, 1) == [known[0]]
        assert stage_widths(stage, len(known) + 2) == [*known, known[-1], known[-1]]
        assert known[-1].out == (480, 832, 1024)[stage]


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_grown_network_is_the_one_built_larger(stage):
    torch.manual_seed(0)
    net = Inception((2, 5, 2), 10, 1, small=True, image_size=(8, 8))
    before = copy.deepcopy(net.state_dict())
    net.stages[stage].append(net.stages[stage][-1].another())
    sizes = [2, 5, 2]
    sizes[stage] += 1
    built = Inception(tuple(sizes), 10, 1, small=True, image_size=(8, 8))
    grown = net.state_dict()
    assert {n: t.shape for n, t in grown.items()} == {
        n: t.shape for n, t in built.state_dict().items()
    }
    assert all(torch.equal(grown[n], t) for n, t in before.items())
    assert net.eval()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_a_pruned_network_grows_by_a_module_as_narrow_as_the_one_beneath():
    torch.manual_seed(0)
    net = Inception((1, 1, 2), 10, 1, small=True, image_size=(16, 16)).eval()
    images = torch.randn(2, 1, 16, 16)
    plan = random_plan(find_groups(net, images[:1], inputs=False), 0)
    replay_(net, plan)
    beneath = net.stage5[-1]
    removed = plan.modules
    widths = beneath.widths
    assert widths.three == 384 // 8 - len(removed["stage5.1.three.1.conv"]["out"].removed)
    assert widths.five_middle == 48 // 8 - len(removed["stage5.1.five.1.conv"]["out"].removed)
    assert widths.out < 1024 // 8
    net.stage5.append(beneath.another())
    assert net.stage5[-1].widths == widths
    assert net(images).shape == (2, 10)


def test_auxiliary_heads_follow_the_first_module_and_precede_the_last():
    net = Inception((1, 4, 1), 10, 1, small=True, aux=True, image_size=(16, 16))
    read = {}
    for name, head in net.heads.items():
        head.register_forward_pre_hook(lambda _, args, name=name: read.update({name: args[0]}))
    given = {}
    for index, module in enumerate(net.stage4):
        module.register_forward_hook(lambda _, __, out, index=index: given.update({index: out}))
    images = torch.randn(2, 1, 16, 16)
    answer = net.train()(images)
    assert [out.shape for out in answer] == [(2, 10)] * 3
    assert list(read) == ["0", "2"]
    assert read["0"] is given[0]
    assert read["2"] is given[2]
    read.clear()
    assert net.eval()(images).shape == (2, 10)
    assert not read


@pytest.mark.parametrize("five_by_five", [False, True])
def test_pruning_keeps_auxiliary_heads_consistent(five_by_five):
    # The contract compares evaluation, where heads do not run; here they do.
    torch.manual_seed(0)
    net = Inception(
        (1, 3, 1), 10, 1, five_by_five=five_by_five, small=True, aux=True, image_size=(32, 32)
    )
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    images = torch.randn(4, 1, 32, 32)
    groups = find_groups(net.eval(), images[:1], inputs=False)
    named = {group.name for group in groups.values()}
    for head in ("heads.0", "heads.1"):
        assert {f"{head}.conv.conv", f"{head}.fc1"} <= named
    plan = random_plan(groups, 0)
    with torch.no_grad():
        dense = net.train()(images)
        masked = mask_(copy.deepcopy(net), plan).train()(images)
        cut = replay_(copy.deepcopy(net), plan).train()(images)
    for whole, hidden, small in zip(dense, masked, cut, strict=True):
        assert (whole - hidden).abs().max() > 1e-3
        torch.testing.assert_close(small, hidden, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sides", [(4, 4), (14, 14), (5, 9)])
def test_auxiliary_head_averages_windows_of_five_at_stride_three(sides):
    torch.manual_seed(0)
    head = AuxiliaryHead(3, 2, sides, narrower=32, norm=False).eval()
    x = torch.randn(2, 3, *sides)
    rows, columns = (range(0, max(side - 4, 1), 3) for side in sides)
    pooled = torch.stack(
        [
            torch.stack([x[:, :, r : r + 5, c : c + 5].mean((2, 3)) for c in columns], -1)
            for r in rows
        ],
        -2,
    )
    hidden = normed(head.conv, pooled, 0).reshape(2, -1)
    hidden = (hidden @ head.fc1.weight.T + head.fc1.bias).clamp(min=0)
    torch.testing.assert_close(head(x), hidden @ head.fc2.weight.T + head.fc2.bias)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 15), (28, 28), (32, 32)])
def test_the_small_net_takes_small_images(height, width):
    shape = (2, height, width)
    net = build_model("inception_v1_small", num_classes=7, input_shape=shape)
    sides = []
    for stage in net.stages:
        stage.register_forward_pre_hook(lambda _, args: sides.append(tuple(args[0].shape[2:])))
    assert net.eval()(torch.zeros(1, *shape)).shape == (1, 7)
    assert sides == [(height // n, width // n) for n in (2, 4, 8)]


def test_other_images_than_the_usual_ones():
    net = Inception((1, 1, 1), 7, 1, image_size=(31, 40)).eval()
    assert net(torch.zeros(1, 1, 31, 40)).shape == (1, 7)
    assert net(torch.zeros(1, 1, 64, 33)).shape == (1, 7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": (2, 0, 2)}, r"\(2, 0, 2\), expected three positive"),
        ({"stages": (2, 5)}, r"\(2, 5\), expected three positive"),
        ({"image_size": (30, 64)}, r"images of 30×64.*at least 31×31.*inception_v1_small"),
        ({"image_size": (9, 7), "small": True}, r"images of 9×7.*at least 8×8: resize"),
        ({"stages": (2, 2, 2), "aux": True}, r"stage of 2 modules.*at least 3"),
    ],
)
def test_what_cannot_be_built_is_refused(settings, message):
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        Inception(**settings)


def test_widths_below_one_are_refused():
    with pytest.raises(ConfigError, match="five_reduce of an Inception module is 0"):
        STAGE_WIDTHS[0][0].divided(17)


def test_a_unit_with_stride_halves_and_rounds_up():
    unit = ConvUnit(3, 2, 7, stride=2, norm=True)
    assert unit(torch.zeros(2, 3, 9, 8)).shape == (2, 2, 5, 4)
