"""Pains 9, 14 and 15: grouped convolutions, a detector, and pixel shuffles."""

import copy
import warnings

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus
from prunus.batches import flatten_tensors
from prunus.evaluation import count_params
from prunus.surgery import replay_, unsound_groups
from tests.conftest import random_plan
from tests.graph.nets import images
from tests.pains.rival import check_cuts, torch_pruning_

EXAMPLE = images(2)


# 9: grouped and depthwise convolutions -----------------------------------------------------


def chain(width: int, first: int, middle: int, second: int, last: int) -> nn.Sequential:
    """Return two grouped convolutions, of `first` and `second` groups, in a row."""
    return nn.Sequential(
        nn.Conv2d(3, width, 1),
        nn.ReLU(),
        nn.Conv2d(width, middle, 3, padding=1, groups=first),
        nn.ReLU(),
        nn.Conv2d(middle, last, 3, padding=1, groups=second),
        nn.ReLU(),
        nn.Conv2d(last, 5, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 4),
    ).eval()


@pytest.mark.parametrize(
    ("sizes", "error"),
    [
        ((12, 6, 12, 4, 8), RuntimeError),  # 6 groups, then 4: cut to 6 channels of 4
        ((12, 12, 24, 1, 6), IndexError),  # depthwise with two filters per channel
    ],
)
def test_9_torch_pruning_breaks_grouped_convolutions(
    sizes: tuple[int, int, int, int, int], error: type[Exception]
) -> None:
    torch.manual_seed(0)
    model = chain(*sizes)
    with pytest.raises(error):
        torch_pruning_(model, EXAMPLE, ignored_layers=[model[-1]])(EXAMPLE)


@settings(max_examples=15)
@given(
    first=st.sampled_from([1, 2, 3, 4, 6, 12]),
    second=st.sampled_from([1, 2, 3, 4, 6, 12]),
    wide=st.integers(1, 2),
    last=st.integers(1, 2),
)
def test_9_any_groups_cut_equals_masked_and_quotas_hold(
    first: int, second: int, wide: int, last: int
) -> None:
    torch.manual_seed(0)
    model = chain(12, first, 12 * wide, second, 12 * last)
    groups = check_cuts(model, EXAMPLE, plans=2)
    cut = replay_(copy.deepcopy(model), random_plan(groups, 0))
    for name, module in cut.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.out_channels % module.groups == 0
            whole = model.get_submodule(name).groups
            depthwise = whole == model.get_submodule(name).in_channels
            assert depthwise or module.groups == whole  # as many of every group went
    if first == 12 and wide == 1:  # depthwise: its channels are those of what it filters
        assert {"0", "2"} <= {m.module for m in groups["0"].members}


def test_9_several_filters_a_channel_stay_and_say_so() -> None:
    """Not cut by us yet either; it is said, and the rest of the network is."""
    model = chain(12, 12, 24, 1, 6)
    groups = prunus.find_groups(model, EXAMPLE)
    assert {g.name for g in groups.values()} == {"4", "6"}
    assert "several filters per channel" in {u.module: u.reason for u in groups.unprunable}["2"]


# 14: detectors -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    ).eval()


def test_14_torch_pruning_loses_itself_in_a_detector(detector: nn.Module) -> None:
    """It went on for more than six minutes, warning all the while; here it stops at the first."""
    import torch_pruning as tp

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        warnings.filterwarnings("error", message="Maximum recursive depth reached")
        with pytest.raises(UserWarning, match="Maximum recursive depth reached"):
            tp.pruner.BasePruner(
                copy.deepcopy(detector),
                [torch.rand(3, 96, 96)],
                tp.importance.MagnitudeImportance(),
                pruning_ratio=0.3,
            )


class Raws(nn.Module):
    """A detector's boxes and scores, before it sorts them."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.head(list(self.backbone(x).values()))


def test_14_a_detector_is_cut_whole(detector: nn.Module) -> None:
    """Traced as it is; training one on the way is examples/torchvision_detector.py."""
    picture = torch.rand(1, 3, 96, 96)
    groups = prunus.find_groups(detector, picture)
    assert sum(g.units for g in groups.values()) > 7_000
    assert unsound_groups(groups, picture) == {}
    check_cuts(Raws(detector).eval(), picture, plans=1)
    small = replay_(copy.deepcopy(detector), random_plan(groups, 0))
    assert count_params(small) < 0.8 * count_params(detector)
    with torch.no_grad():
        (found,) = small([picture[0]])
    assert found["boxes"].shape == (len(found["scores"]), 4)
    losses = copy.deepcopy(small).train()(
        [picture[0]] * 2,
        [{"boxes": torch.tensor([[8.0, 8, 60, 60]]), "labels": torch.tensor([1])}] * 2,
    )
    sum(losses.values()).backward()
    assert all(bool(t.isfinite().all()) for t in flatten_tensors(losses))


# 15: pixel shuffle -------------------------------------------------------------------------


class Upscaler(nn.Module):
    def __init__(self, factor: int, channels: int = 4) -> None:
        super().__init__()
        self.factor = factor
        self.wide = nn.Conv2d(3, channels * factor**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(factor)
        self.last = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shuffle(torch.relu(self.wide(x))))


def test_15_torch_pruning_fails_or_cuts_it_wrongly() -> None:
    import torch_pruning as tp

    torch.manual_seed(0)
    model = Upscaler(2)
    with pytest.raises(IndexError, match="out of bounds"):
        torch_pruning_(model, EXAMPLE, ignored_layers=[model.last])
    graph = tp.DependencyGraph().build_dependency(model, EXAMPLE)
    graph.get_pruning_group(model.wide, tp.prune_conv_out_channels, [0, 1, 2, 3]).prune()
    assert model.last.weight.shape == (3, 0, 3, 3)  # one channel gone of four, all are cut
    with pytest.raises(RuntimeError, match="to have 0 channels"):
        model(EXAMPLE)


@pytest.mark.parametrize("factor", [2, 3])
def test_15_blocks_of_r_squared_channels_go_together(factor: int) -> None:
    torch.manual_seed(0)
    model = Upscaler(factor).eval()
    groups = check_cuts(model, EXAMPLE)
    group = groups["wide"]
    assert group.units == 4
    out = next(m for m in group.members if m.module == "wide")
    blocks = torch.arange(4 * factor**2).view(4, -1)
    assert out.index.tolist() == blocks.tolist()
