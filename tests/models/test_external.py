import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from prunus.core.errors import ConfigError, UnknownNameError
from prunus.models import build_model

SOURCE = """
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Config:  # dataclasses look their module up in sys.modules
    width: "int" = 4


class Net(nn.Module):
    def __init__(self, width=4, classes=10, channels=1):
        super().__init__()
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))


def both(num_classes, input_shape):
    return Net(Config().width, num_classes, input_shape[0])

def classes_only(*, num_classes):
    return Net(classes=num_classes)

def anything(**settings):
    return both(**settings)

def nothing(): return Net()
def fails(): raise KeyError("no such layer")
def demands(depth): return Net()
def no_module(): return {"not": "a module"}
number = 3
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "my_net.py"
    path.write_text(SOURCE)
    return path


def build(spec, num_classes=5, input_shape=(2, 8, 8)) -> nn.Module:
    return build_model(spec, num_classes=num_classes, input_shape=input_shape)


@pytest.mark.parametrize(
    ("factory", "classes", "channels"),
    [
        ("both", 5, 2),
        ("anything", 5, 2),
        ("classes_only", 5, 1),
        ("nothing", 10, 1),
        ("Net", 10, 1),
    ],
)
def test_a_factory_gets_the_settings_it_takes(source, factory, classes, channels):
    model = build(f"{source}:{factory}")
    assert model.fc.weight.shape == (classes, channels)


def test_a_file_is_imported_once_and_its_classes_pickle(source):
    first, second = build(f"{source}:both"), build(f"{source}:both")
    assert type(first) is type(second)
    torch.testing.assert_close(
        pickle.loads(pickle.dumps(first)).fc.weight, first.fc.weight, rtol=0, atol=0
    )


def test_a_changed_file_is_imported_anew(source):
    build(f"{source}:nothing")
    source.write_text(
        SOURCE.replace("def nothing(): return Net()", "def nothing(): return Net(classes=7)")
    )
    assert build(f"{source}:nothing").fc.out_features == 7


def test_a_file_finds_its_neighbour_and_leaves_the_path_alone(tmp_path):
    (tmp_path / "prunus_test_neighbour.py").write_text("from torch import nn\n")
    path = tmp_path / "net.py"
    path.write_text("from prunus_test_neighbour import nn\ndef make(): return nn.Identity()\n")
    before = list(sys.path)
    try:
        assert isinstance(build(f"{path}:make"), nn.Identity)
    finally:
        sys.modules.pop("prunus_test_neighbour", None)
    assert sys.path == before


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.py cannot be read \(No such file"):
        build(f"{tmp_path}/nowhere.py:make")


@pytest.mark.parametrize("suffix", [":absent", ":number", ""])
def test_a_missing_factory_lists_the_callables(source, suffix):
    with pytest.raises(ConfigError) as caught:
        build(f"{source}{suffix}")
    assert f"write {source}:FACTORY" in str(caught.value)
    assert "Config, Net, both, classes_only, anything, nothing" in str(caught.value)


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("fails", "it raised KeyError: 'no such layer'"),
        ("demands", "cannot be called without depth, but it is only given num_classes and"),
        ("no_module", "returned dict, expected a torch.nn.Module"),
    ],
)
def test_a_failing_factory_says_why(source, factory, reason):
    with pytest.raises(ConfigError, match=rf"my_net\.py:{factory} .*{reason}"):
        build(f"{source}:{factory}")


def test_a_file_that_does_not_import_says_why_and_is_forgotten(tmp_path):
    path = tmp_path / "broken_net.py"
    path.write_text("import torch\n1 / 0\n")
    with pytest.raises(ConfigError, match=r"could not be imported.*ZeroDivisionError: division by"):
        build(f"{path}:make")
    assert not [name for name in sys.modules if "broken_net" in name]


@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_torchvision(name):
    model = build(f"torchvision:{name}", input_shape=(3, 64, 64))
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5)  # one output in training mode too


def test_torchvision_refuses_other_channels():
    with pytest.raises(ConfigError, match=r"3 channels, the data have 1.*\(3, 28, 28\)"):
        build("torchvision:resnet18", input_shape=(1, 28, 28))


def test_timm_takes_any_channels():
    model = build("timm:test_resnet", input_shape=(2, 32, 32)).eval()
    assert model(torch.randn(1, 2, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize(
    ("spec", "near"), [("torchvision:resnet19", "resnet18"), ("timm:resnet51", "resnet50")]
)
def test_unknown_networks_of_a_library(spec, near):
    with pytest.raises(UnknownNameError, match=rf"has no network '.*{near}.*list all \d+ with"):
        build(spec, input_shape=(3, 32, 32))


def test_a_name_like_nothing_still_tells_how_to_list():
    with pytest.raises(UnknownNameError, match=r"has no network '': list all \d+ with python"):
        build("torchvision:", input_shape=(3, 32, 32))


def test_a_library_that_fails_to_build_says_why(monkeypatch):
    timm = pytest.importorskip("timm")

    def fail(*_args, **_kwargs):
        raise RuntimeError("odd size\nand more")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(ConfigError, match=r"timm:resnet18 could not be built: .*: odd size$"):
        build("timm:resnet18")
