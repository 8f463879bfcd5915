"""Grown networks by name: `NAME@I,J,K`, against the registry, the papers and counts by hand."""

import pytest
import torch

from prunus.core.errors import ConfigError, UnknownNameError
from prunus.evaluation import count_params
from prunus.models import (
    MODELS,
    Growing,
    build_model,
    grow_to_,
    sized_name,
    split_sizes,
    stage_sizes,
    usual_input,
)
from prunus.models.families.inception import TABLE_4_1
from prunus.models.families.resnet_preact import PreactResNet
from tests.conftest import shapes


def test_a_grown_name_is_the_network_of_table_4_1() -> None:
    for sizes in (TABLE_4_1[1], TABLE_4_1[3]):
        with torch.device("meta"):
            grown = build_model(
                sized_name("inception_v1", sizes), num_classes=1000, input_shape=(3, 224, 224)
            )
            known = build_model(
                f"inception{3 * sum(sizes) + 4}", num_classes=1000, input_shape=(3, 224, 224)
            )
        assert shapes(grown) == shapes(known)
        assert stage_sizes(grown) == sizes


@pytest.mark.parametrize(
    ("spec", "known", "classes", "shape"),
    [
        ("resnet20@9,9,9", "resnet56", 10, (3, 32, 32)),
        ("vgg16_nofc@2,2,4,4,4", "vgg19", 100, (3, 32, 32)),
        ("tiny_resnet10@2,2,2,2", "imagenet_resnet18", 10, (3, 64, 64)),
        ("imagenet_resnet38@3,4,6,3", "imagenet_resnet50", 10, (3, 64, 64)),
        ("resnet18_al_bli@3,4,6,3", "resnet34_al_bli", 10, (3, 32, 32)),
        ("resnet18_ali_bl@3,4,6,3", "resnet34_ali_bl", 10, (3, 32, 32)),
        ("preact_resnet18_ali_bli@3,4,6,3", "preact_resnet34_ali_bli", 10, (3, 32, 32)),
        ("preact_resnet18_al_bl@3,4,6,3", "preact_resnet34_al_bl", 10, (3, 32, 32)),
    ],
)
def test_grown_names_are_the_deeper_networks_of_the_registry(
    spec: str, known: str, classes: int, shape: tuple[int, int, int]
) -> None:
    with torch.device("meta"):
        grown = build_model(spec, num_classes=classes, input_shape=shape)
        other = build_model(known, num_classes=classes, input_shape=shape)
    assert shapes(grown) == shapes(other)
    assert [type(module) for module in grown.modules()] == [type(m) for m in other.modules()]


def test_pre_activation_units_and_counts_by_hand() -> None:
    deeper = PreactResNet(20, 5, 1)
    grown = PreactResNet(11, 5, 1)
    grow_to_(grown, (2, 2, 2))
    assert shapes(grown) == shapes(deeper)
    # A fourth block of 1 024 channels: depthwise, 1×1 and two norms; a seventh row's second block.
    for spec, name, more in (
        ("mobilenet_v1_cifar@1,2,2,6,3", "mobilenet_v1_cifar", 9 * 1024 + 1024**2 + 4 * 1024),
        (
            "mobilenet_v2_cifar@1,2,3,4,3,3,2",
            "mobilenet_v2_cifar",
            2 * 320 * 1920 + 9 * 1920 + 4 * 1920 + 2 * 320,
        ),
        ("squeezenet_cifar@3,2,4", "squeezenet_cifar", 128 * 16 + 16 + 10 * 16 * 64 + 128),
        ("resnet20@4,3,3", "resnet20", 2 * (9 * 16 * 16 + 2 * 16)),
    ):
        with torch.device("meta"):
            sizes = [
                count_params(build_model(each, num_classes=10, input_shape=(3, 32, 32)))
                for each in (spec, name)
            ]
        assert sizes[0] - sizes[1] == more, spec


def test_a_grown_dense_networks_count_by_hand() -> None:
    with torch.device("meta"):
        grown, base = (
            build_model(each, num_classes=10, input_shape=(3, 32, 32))
            for each in ("densenet16@17,16,17", "densenet16")
        )
    # Maps in front of the new layers: 24 + 16·12 = 216; 108 + 192 = 300, 150 + 192 = 342.
    layers = sum(2 * c + 48 * c + 2 * 48 + 9 * 48 * 12 for c in (216, 342))
    transition = 2 * 12 + 12 * 108  # its norm and its columns
    end = 2 * 12 + 12 * 10
    assert count_params(grown) - count_params(base) == layers + transition + end


def test_some_networks_grow_and_some_do_not() -> None:
    growing = {}
    with torch.device("meta"):
        for name in ("lenet5", "mlp_mnist", "dncnn", "googlenet_aux", "dxnet16_x4"):
            entry = MODELS[name]
            model = entry.build(entry.num_classes, entry.input_shape)
            growing[name] = model.stage_sizes if isinstance(model, Growing) else None
    assert growing == {
        **dict.fromkeys(("lenet5", "mlp_mnist", "dncnn")),
        "googlenet_aux": (2, 5, 2),
        "dxnet16_x4": (4, 4, 4, 6, 8, 8, 8),
    }


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet20@4,4", r"stages of 3,3,3 modules, but the sizes 4,4 were given: give 3 of them"),
        ("resnet20@3,2,4", r"3,2,4 would make stage 1 smaller.*at least 3 there"),
        ("resnet20@", r"stage sizes '', expected numbers with commas"),
        ("resnet20@3, 3, 4", r"stage sizes '3, 3, 4', expected numbers with commas and no spaces"),
        ("resnet20@a", r"'resnet20@a' gives resnet20 the stage sizes 'a'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(spec, num_classes=10, input_shape=(3, 32, 32))


def test_an_unknown_name_stays_unknown_with_sizes() -> None:
    with pytest.raises(UnknownNameError, match=r"'resnet2'.*did you mean"):
        build_model("resnet2@3,3,3", num_classes=10, input_shape=(3, 32, 32))


def test_names_with_sizes() -> None:
    assert split_sizes("a/net@home.py:make") == ("a/net@home.py:make", None)
    assert split_sizes("a/net.py:make@2,10") == ("a/net.py:make", (2, 10))
    assert sized_name("vgg16", (2, 2, 3, 3, 4)) == "vgg16@2,2,3,3,4"
    assert sized_name("vgg16@2,2,3,3,4", (2, 2, 3, 3, 5)) == "vgg16@2,2,3,3,5"
    assert usual_input("inception_v1_small@3,5,2") == usual_input("inception_v1_small")


def test_a_network_of_ones_own_grows_by_name(tmp_path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "from torch import nn\n"
        "class Own(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.hidden = nn.Sequential(nn.Linear(4, 4))\n"
        "    @property\n"
        "    def stage_sizes(self):\n"
        "        return (len(self.hidden),)\n"
        "    def grow_(self, stage, *, preserve=False):\n"
        "        self.hidden.append(nn.Linear(4, 4))\n"
        "        return self.hidden[-1]\n"
    )
    model = build_model(f"{path}:Own@3", input_shape=(1, 2, 2))
    assert stage_sizes(model) == (3,)
