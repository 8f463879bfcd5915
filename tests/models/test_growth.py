"""Networks that declare stages: what grows, what stays, and starts that compute the same."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from prunus.core.errors import ConfigError
from prunus.graph import find_groups
from prunus.models import (
    build_model,
    grow_,
    grow_to_,
    stage_sizes,
)
from prunus.models.families.densenet import DenseDenoiser, DenseNet
from prunus.models.families.dxnet import DxNetSR, dxnet_classifier
from prunus.models.families.inception import Inception
from prunus.models.families.inception_module import STAGE_WIDTHS, InceptionModule
from prunus.models.families.mobilenet import MobileNetV1, MobileNetV2
from prunus.models.families.resnet_cifar import ResNetCifar
from prunus.models.families.resnet_preact import PreactResNet
from prunus.models.families.resnet_shared import PreActResNetShared, ResNetShared
from prunus.models.families.resnet_stages import StagedResNet
from prunus.models.families.squeezenet import SqueezeNet
from prunus.models.families.vgg import VGG
from prunus.models.growth import identity_norm_, widen_
from prunus.surgery import mask_, replay_
from tests.borders.untouched import state
from tests.conftest import random_plan, randomise_norms_, shapes
from tests.surgery.test_all_or_nothing import Failing

Make = Callable[[], nn.Module]


def shared(kind: type[ResNetShared], share_a: bool, share_b: bool) -> Make:
    return lambda: kind((1, 2), 5, 1, share_a=share_a, share_b=share_b, planes=4)


DENSE: dict[str, Make] = {
    "densenet": lambda: DenseNet((1, 2), 5, 1, growth=3, bottleneck=2, initial=4),
    "dxnet": lambda: dxnet_classifier((1, 2), 5, 1, growth=3, initial=4, kernel=3),
    "denoiser": lambda: DenseDenoiser((1, 2), 1, growth=3, bottleneck=2, initial=4),
    "dxnet_sr": lambda: DxNetSR((1, 2), 1, scale=2, growth=4, kernel=3, width=4),
}
#: Networks whose new modules can start as the identity, small.
PRESERVING: dict[str, Make] = {
    "resnet": lambda: ResNetCifar(1, 5, 1),
    "staged": lambda: StagedResNet("(c4, i4)-C3-1c6", 5, 1),
    "preact": lambda: PreactResNet(11, 5, 1),
    "vgg": lambda: VGG(((4,), (6, 6)), 5, 1, hidden=(7,)),
    "vgg_plain": lambda: VGG(((4,), (6, 6)), 5, 1, norm=False),
    "mobilenet_v1": lambda: MobileNetV1(5, 1, small_images=True),
    "mobilenet_v2": lambda: MobileNetV2(5, 1, small_images=True),
    **{
        f"{kind.__name__}{a:d}{b:d}": shared(kind, a, b)
        for kind in (ResNetShared, PreActResNetShared)
        for a in (False, True)
        for b in (False, True)
        if not (kind is PreActResNetShared and a)
    },
    **DENSE,
}
OTHERS: dict[str, Make] = {
    "inception": lambda: Inception((1, 2, 1), 5, 1, small=True, image_size=(16, 16)),
    "inception_5x5": lambda: Inception(
        (1, 3, 1), 5, 1, small=True, five_by_five=True, aux=True, image_size=(16, 16)
    ),
    "squeezenet": lambda: SqueezeNet(5, 1, small_images=True),
    "PreActResNetShared10": shared(PreActResNetShared, True, False),
    "PreActResNetShared11": shared(PreActResNetShared, True, True),
}
GROWING = {**PRESERVING, **OTHERS}


def made(name: str) -> nn.Module:
    """Return a network whose norms match their inputs, so that its output depends on the images."""
    torch.manual_seed(0)
    model = randomise_norms_(GROWING[name]())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model(torch.randn(8, 1, 16, 16))
    for norm in norms:
        norm.momentum = 0.1
    return model


def stages_of(model: nn.Module) -> list[int]:
    """The stages to try: all, or the first and the last where there are many."""
    stages = list(range(len(stage_sizes(model))))
    return stages if len(stages) < 4 else [stages[0], stages[-1]]


def images(seed: int = 1) -> Tensor:
    return torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def close(one: Tensor, other: Tensor) -> None:
    scale = max(1.0, float(other.abs().max()))
    torch.testing.assert_close(one / scale, other / scale, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", GROWING)
def test_every_stage_grows_by_a_module_that_trains(name: str) -> None:
    for stage in stages_of(made(name)):
        model = made(name).eval()
        before = stage_sizes(model)
        tensors = {id(tensor): tensor for tensor in model.parameters()}
        added = grow_(model, stage)
        assert not added.training
        assert stage_sizes(model) == tuple(n + (i == stage) for i, n in enumerate(before))
        own = {id(tensor) for tensor in added.parameters()}
        now = {id(tensor) for tensor in model.parameters()}
        assert own <= now
        assert not own & set(tensors)
        if name not in DENSE:  # nothing else is re-initialised
            assert now == own | set(tensors)
        output = model.train()(images())
        heads = [output] if isinstance(output, Tensor) else list(output)
        sum(head.square().mean() for head in heads).backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", GROWING)
def test_names_and_shapes_depend_on_the_sizes_alone(name: str) -> None:
    one, other = made(name), made(name)
    stages = [0, *stages_of(one)]
    for stage in stages:
        grow_(one, stage)
    for stage in reversed(stages):
        grow_(other, stage)
    assert shapes(one) == shapes(other)
    third = made(name)
    grow_to_(third, stage_sizes(one))
    assert shapes(third) == shapes(one)
    third.load_state_dict(one.state_dict())
    with torch.no_grad():
        assert torch.equal(third.eval()(images()), one.eval()(images()))


@pytest.mark.parametrize("name", PRESERVING)
def test_a_preserving_start_changes_no_output(name: str) -> None:
    for stage in stages_of(made(name)):
        model = made(name).eval()
        with torch.no_grad():
            before = model(images())
            grow_(model, stage, preserve=True)
            close(model(images()), before)
            grow_(model, stage, preserve=True)  # and on top of an identity
            close(model(images()), before)


@pytest.mark.parametrize("name", PRESERVING)
def test_a_plain_start_does_change_it(name: str) -> None:
    """The property of the previous test does not hold for any new module."""
    model = made(name).eval()
    with torch.no_grad():
        before = model(images())
        grow_(model, 0)
        assert (model(images()) - before).abs().max() > 1e-4 * before.abs().max()


@pytest.mark.parametrize("name", PRESERVING)
def test_a_preserving_start_can_learn(name: str) -> None:
    """Something of the new module, or of what reads it, has a gradient."""
    model = made(name).train()
    added = grow_(model, 0, preserve=True)
    torch.manual_seed(3)
    output = model(images())
    (output * torch.randn_like(output)).sum().backward()
    of_added = [float(p.grad.abs().max()) for p in added.parameters() if p.grad is not None]
    if name in DENSE:  # its consumers' new columns are 0, so they learn first
        consumer = next(m for m in model.trunk.transitions[0].modules() if isinstance(m, nn.Conv2d))
        k = added.conv2.out_channels
        assert not consumer.weight[:, -k:].any()
        assert consumer.weight.grad[:, -k:].abs().max() > 0
    else:
        assert max(of_added) > 0


def test_a_dense_blocks_consumer_keeps_its_columns_and_gets_fresh_ones() -> None:
    model = made("densenet")
    assert isinstance(model, DenseNet)
    transition, last, linear = model.trunk.transitions[0], model.last[0], model.linear
    old = copy.deepcopy(model)
    grow_(model, 0)
    conv, norm = transition.conv, transition.before[0]
    assert conv.weight.shape == (3, 10, 1, 1)  # as many maps as before, of 7 and 3
    assert torch.equal(conv.weight[:, :7], old.trunk.transitions[0].conv.weight)
    assert conv.weight[:, 7:].abs().min() > 0
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(
            getattr(norm, name)[:7], getattr(old.trunk.transitions[0].before[0], name)
        )
    assert torch.equal(norm.weight[7:], torch.ones(3))
    assert torch.equal(norm.running_var[7:], torch.ones(3))
    assert not norm.bias[7:].any()
    assert not norm.running_mean[7:].any()
    grow_(model, 1)
    assert linear.weight.shape == (5, 12)
    assert torch.equal(linear.weight[:, :9], old.linear.weight)
    assert torch.equal(linear.bias, old.linear.bias)
    assert last.num_features == linear.in_features == 12
    assert str(linear) == "Linear(in_features=12, out_features=5, bias=True)"


def test_columns_are_drawn_as_the_wider_layers() -> None:
    """He's deviation √(2/fan-in), PyTorch's uniform of variance 1/(3·fan-in)."""
    torch.manual_seed(0)
    net = DenseNet((1,), 4, growth=200, initial=100)
    widen_(net.linear, 900)
    fresh = net.linear.weight.detach()[:, 300:]
    assert fresh.shape == (4, 900)
    assert float(fresh.abs().max()) <= 1200**-0.5
    assert float(fresh.var()) == pytest.approx(1 / 3 / 1200, rel=0.1)
    conv = nn.Conv2d(100, 50, 3, bias=False)
    widen_(conv, 100, draw=lambda layer: nn.init.kaiming_normal_(layer.weight))
    assert float(conv.weight.detach()[:, 100:].std()) == pytest.approx(
        (2 / 9 / 200) ** 0.5, rel=0.05
    )
    assert conv(torch.zeros(1, 200, 4, 4)).shape == (1, 50, 2, 2)


def test_an_identity_norm_expects_what_the_norm_beneath_gives() -> None:
    """E and Var of relu(z), z ~ N(β, γ²), by numerical integration."""
    beneath, norm = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    beneath.weight.data = torch.tensor([1.0, -0.5, 2.0, 0.0])
    beneath.bias.data = torch.tensor([0.0, 0.3, -1.5, 0.7])
    identity_norm_(norm, beneath)
    u = torch.linspace(-10, 10, 200_001, dtype=torch.float64)
    density = torch.exp(-u * u / 2) / (2 * torch.pi) ** 0.5
    for channel in range(4):
        x = (beneath.bias[channel] + beneath.weight[channel].abs() * u).clamp(min=0).detach()
        mean = float(torch.trapezoid(x * density, u))
        variance = float(torch.trapezoid(x * x * density, u)) - mean**2
        assert float(norm.running_mean[channel]) == pytest.approx(mean, abs=1e-5)
        assert float(norm.running_var[channel]) == pytest.approx(max(variance, 0), abs=1e-5)
    x = torch.rand(3, 4, 5, 5)
    torch.testing.assert_close(norm.eval()(x), x)


def test_an_identity_convolution_changes_little_in_training_mode_either() -> None:
    torch.manual_seed(0)
    model = VGG(((16,), (16,)), 5, 1)
    batch = torch.randn(64, 1, 16, 16)
    change = []
    with torch.no_grad():
        before = model.features(batch)
        for preserve in (True, False):
            grown = copy.deepcopy(model)
            grow_(grown, 0, preserve=preserve)
            change.append(float((grown.features(batch) - before).norm() / before.norm()))
    assert change[0] < 0.1
    assert change[1] > 0.5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("inception", r"at most 22 of its 32 channels unchanged: grow without"),
        ("inception_5x5", r"an Inception module cannot start as the identity"),
        ("squeezenet", r"it squeezes 128 channels into 16: grow without preserve"),
        ("PreActResNetShared10", r"A is shared and no layer of the block's own follows it"),
    ],
)
def test_where_no_such_start_exists_it_says_so(name: str, message: str) -> None:
    model = made(name)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=message):
        grow_(model, 0, preserve=True)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_an_inception_module_makes_fewer_channels_than_it_reads(stage: int) -> None:
    """It sees its input only through its 1×1 convolutions: too few channels to be injective."""
    widths = STAGE_WIDTHS[stage][-1]
    module = InceptionModule(widths.out, widths)
    first = [
        m for m in module.modules() if isinstance(m, nn.Conv2d) and m.in_channels == widths.out
    ]
    seen = sum(conv.out_channels for conv in first)
    assert (seen, widths.out) == ((352, 480), (576, 832), (752, 1024))[stage]
    branches = (widths.one, min(widths.three_reduce, widths.three), widths.five_reduce)
    assert module.unchanged == sum(branches) < seen


@pytest.mark.parametrize("name", [*PRESERVING, "inception", "squeezenet"])
def test_a_pruned_network_grows_by_modules_of_its_own_widths(name: str) -> None:
    model = made(name).eval()
    groups = find_groups(model, images()[:1], inputs=False)
    replay_(model, random_plan(groups, 0))
    with torch.no_grad():
        before = model(images())
    for stage in stages_of(model):
        grown = copy.deepcopy(model)
        grow_(grown, stage)
        assert grown(images()).shape == before.shape
        if name in PRESERVING:
            with torch.no_grad():
                grow_(model, stage, preserve=True)
                close(model(images()), before)


@pytest.mark.parametrize("name", ["densenet", "vgg", "staged"])
def test_a_grown_network_is_cut_to_what_its_mask_computes(name: str) -> None:
    model = made(name)
    for stage in stages_of(model):
        grow_(model, stage)
    randomise_norms_(model).eval()
    plan = random_plan(find_groups(model, images()[:1], inputs=False), 0)
    with torch.no_grad():
        masked = mask_(copy.deepcopy(model), plan)(images())
        cut = replay_(copy.deepcopy(model), plan)(images())
        assert (masked - model(images())).abs().max() > 1e-4
    close(cut, masked)


def test_a_new_module_has_the_networks_precision_and_mode() -> None:
    for name in ("densenet", "vgg"):
        model = made(name).double().eval()
        grow_(model, 0)
        assert {p.dtype for p in model.parameters()} == {torch.float64}
        assert not any(module.training for module in model.modules())
        assert model(images().double()).dtype == torch.float64


def test_what_cannot_grow_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        build_model("lenet5@2,2", num_classes=10, input_shape=(1, 28, 28))
    families = "densenet, dxnet, inception, mobilenet, resnet_cifar, resnet_preact, resnet_shared"
    assert "LeNet5 declares no stages" in str(refused.value)
    assert f"{families}, resnet_stages, squeezenet, vgg (`prunus models`" in str(refused.value)
    with pytest.raises(ConfigError, match=r"stage 3 of ResNetCifar .* stages are 0 to 2"):
        grow_(made("resnet"), 3)
    with pytest.raises(ConfigError, match=r"stage -1 of ResNetCifar"):
        grow_(made("resnet"), -1)


@pytest.mark.parametrize("at", [1, 30, 80])
def test_growing_is_all_or_nothing(at: int) -> None:
    model = made("densenet")
    sizes = [size + 2 for size in stage_sizes(model)]
    before = state(model)
    with pytest.raises(KeyboardInterrupt), Failing(at):
        grow_to_(model, sizes)
    after = {**state(model), "random numbers of PyTorch": before["random numbers of PyTorch"]}
    assert not [key for key in {**before, **after} if before.get(key) != after.get(key)]
