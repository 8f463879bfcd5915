import pickle

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from prunus.core.errors import NonFiniteError, WeightsError
from prunus.models import build_model, load_weights_


def make(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))


def write(state, path):
    if path.suffix == ".safetensors":
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("keep_count", [True, False])
def test_round_trip(tmp_path, suffix, keep_count):
    source, target = make(0), make(1)
    state = source.state_dict()
    if not keep_count:
        del state["1.num_batches_tracked"]
    load_weights_(target, write(state, tmp_path / f"w{suffix}"))
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor), name


@pytest.mark.parametrize("key", ["state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoints_of_training_scripts(tmp_path, key, prefix):
    source, target = make(0), make(1)
    state = {prefix + k: v for k, v in source.state_dict().items()}
    load_weights_(target, write({key: state, "epoch": 3}, tmp_path / "w.pt"))
    assert torch.equal(target[3].weight, source[3].weight)


def test_a_network_whose_own_names_start_with_module(tmp_path):
    source = nn.ModuleDict({"module": nn.Linear(2, 2)})
    target = nn.ModuleDict({"module": nn.Linear(2, 2)})
    load_weights_(target, write(source.state_dict(), tmp_path / "w.pt"))
    assert torch.equal(target["module"].weight, source["module"].weight)


def drop(state):
    del state["0.bias"], state["3.bias"]


def reshape(state):
    state["3.weight"] = torch.zeros(4, 2)


def add(state):
    state["9.weight"] = torch.zeros(1)


def poison(value):
    def change(state):
        state["1.running_var"] = torch.tensor([1.0, value])

    return change


@pytest.mark.parametrize(
    ("change", "kind", "sentence"),
    [
        (drop, WeightsError, r"tensor 0\.bias of shape \(2,\) is missing: build the network"),
        (reshape, WeightsError, r"3\.weight has shape \(4, 2\), the network expects \(3, 2\)"),
        (add, WeightsError, r"tensor 9\.weight is not in the network"),
        (poison(float("nan")), NonFiniteError, r"tensor 1\.running_var holds NaN or infinity"),
        (poison(float("inf")), NonFiniteError, r"tensor 1\.running_var holds NaN or infinity"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_what_does_not_fit_is_named_and_nothing_is_loaded(tmp_path, change, kind, sentence, suffix):
    state = make(0).state_dict()
    change(state)
    path = write(state, tmp_path / f"w{suffix}")
    model = make(1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(kind, match=sentence) as caught:
        load_weights_(model, path)
    assert str(path) in str(caught.value)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_first_mismatch_in_the_models_order_comes_first(tmp_path):
    state = make(0).state_dict()
    reshape(state)
    add(state)
    del state["3.bias"]
    with pytest.raises(WeightsError, match=r"tensor 3\.weight has shape"):
        load_weights_(make(), write(state, tmp_path / "w.pt"))


def test_a_missing_file_and_an_unknown_kind(tmp_path):
    with pytest.raises(WeightsError, match=r"no weight file at .*absent\.pt"):
        load_weights_(make(), tmp_path / "absent.pt")
    path = tmp_path / "w.bin"
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match=r"ends in '\.bin', expected \.safetensors"):
        load_weights_(make(), path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("content", [b"", b"rubbish" * 50, "cut"])
def test_a_corrupt_file(tmp_path, suffix, content):
    path = write(make().state_dict(), tmp_path / f"w{suffix}")
    path.write_bytes(path.read_bytes()[:-300] if content == "cut" else content)
    with pytest.raises(WeightsError, match=str(path)):
        load_weights_(make(), path)


class Danger:
    def __reduce__(self):
        return print, ("ran",)


def test_pickled_code_is_not_run(tmp_path, capsys):
    path = tmp_path / "w.pt"
    torch.save({"x": Danger()}, path)
    with pytest.raises(WeightsError, match="pickled code is not executed"):
        load_weights_(make(), path)
    path.write_bytes(pickle.dumps(Danger()))
    with pytest.raises(WeightsError):
        load_weights_(make(), path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 2], "holds list, expected a state dict"),
        ({}, "holds dict, expected a state dict"),
        ({"epoch": 3}, "entry epoch is int, expected a tensor"),
    ],
)
def test_a_file_of_something_else(tmp_path, content, sentence):
    path = tmp_path / "w.pt"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=sentence):
        load_weights_(make(), path)


def test_build_model_loads_weights(tmp_path):
    settings = {"num_classes": 4, "input_shape": (1, 8, 8)}
    source = build_model("lenet300", **settings)
    path = write(source.state_dict(), tmp_path / "w.safetensors")
    model = build_model("lenet300", **settings, weights=path)
    assert torch.equal(model.fc1.weight, source.fc1.weight)


class Bounded(nn.Module):
    """A layer whose output is clamped, without bounds until they are measured."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("largest", torch.tensor(float("inf")))


def test_a_buffer_may_be_infinite_and_a_parameter_may_not(tmp_path):
    save_file(Bounded().state_dict(), tmp_path / "bounds.safetensors")
    load_weights_(Bounded(), tmp_path / "bounds.safetensors")
    state = {**Bounded().state_dict(), "layer.bias": torch.tensor([float("inf"), 0.0])}
    save_file(state, tmp_path / "diverged.safetensors")
    with pytest.raises(NonFiniteError, match=r"tensor layer\.bias holds NaN or infinity"):
        load_weights_(Bounded(), tmp_path / "diverged.safetensors")
    state = {**Bounded().state_dict(), "largest": torch.tensor(float("nan"))}
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(NonFiniteError, match="tensor largest"):
        load_weights_(Bounded(), tmp_path / "nan.safetensors")


def test_a_network_that_asks_for_the_version_of_its_weights(tmp_path):
    """torchvision's MNASNet: a file holds tensors alone."""
    torch.manual_seed(0)
    one, other = (torchvision.models.mnasnet0_5(num_classes=2) for _ in range(2))
    save_file(one.state_dict(), tmp_path / "model.safetensors")
    load_weights_(other, tmp_path / "model.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
