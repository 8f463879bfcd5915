"""What a pass leaves behind: the network as it was, and one clear sentence where it fails."""

import copy
import sys
import weakref

import psutil
import pytest
import torch
from torch import Tensor, nn

from prunus.core.errors import ConfigError, DataError, NonFiniteError
from prunus.criteria import score
from prunus.graph import find_groups
from prunus.statistics import collect
from tests.graph.nets import CLASSES, Plain, batches, build, images
from tests.statistics.oracles import batches64, ready


def test_no_activation_outlives_its_batch() -> None:
    model = build("plain")
    groups = find_groups(model, images(1))
    seen: list[weakref.ref[Tensor]] = []
    for module in model.modules():
        module.register_forward_hook(lambda _module, _args, z: seen.append(weakref.ref(z)))
    collect(model, batches(), groups, gradients=True, ranges=True)
    assert len(seen) > 10
    assert not [z for z in seen if z() is not None]


@pytest.mark.parametrize("gradients", [False, True])
def test_the_model_and_the_batches_are_left_as_they_were(gradients: bool) -> None:
    model = build("plain").train()
    model.bn1.eval()  # a frozen norm in a training network
    model.conv1.weight.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = copy.deepcopy(model.state_dict())
    groups = find_groups(model, images(1))
    loader = batches()
    kept = [(x.clone(), y.clone()) for x, y in loader]
    random = torch.get_rng_state()
    collect(model, loader, groups, gradients=gradients, ranges=True)
    collect(model, loader, groups, "logits", gradients=gradients)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert model.conv1.training
    assert not model.bn1.training
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["conv1.weight"]
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert list(grads) == ["head.weight"]
    assert (grads["head.weight"] == 1).all()
    assert not hooks(model)
    for (x, y), (x_before, y_before) in zip(loader, kept, strict=True):
        assert torch.equal(x, x_before)
        assert torch.equal(y, y_before)
        assert not x.requires_grad
        assert x.grad is None


def hooks(model: nn.Module) -> bool:
    return any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("gradients", [False, True])
def test_a_failing_network_is_left_as_it_was(gradients: bool) -> None:
    model = build("plain").train()
    groups = find_groups(model, images(1))
    with pytest.raises(DataError):
        collect(model, [(images(2)[:, :2], torch.tensor([0, 1]))], groups, 4, gradients=gradients)
    with pytest.raises(DataError):
        collect(model, [(images(2), torch.tensor([0, 9]))], groups, gradients=gradients)
    assert model.training
    assert not hooks(model)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


# Errors ------------------------------------------------------------------------------------


def test_an_empty_loader() -> None:
    model, groups = ready("mlp")
    with pytest.raises(DataError, match="no batch"):
        collect(model, [], groups)


def test_settings_out_of_range() -> None:
    model, groups = ready("mlp")
    with pytest.raises(ConfigError, match="blocks is 0, expected at least 1"):
        collect(model, batches64(1), groups, blocks=0)
    with pytest.raises(ConfigError, match="sampling 'pixels'"):
        collect(model, batches64(1), groups, sampling="pixels")


def test_a_gram_that_would_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["prunus.statistics.guards"]
    monkeypatch.setattr(module, "free_memory", lambda device: 8 * 8 * (27**2 + 72**2) - 1)
    model, groups = ready("plain")
    with pytest.raises(
        ConfigError, match=r"module 'conv2' reads 72 features, whose Gram matrices take 0\.0 GB"
    ):
        collect(model, batches64(1), groups, sampling="patch")
    collect(model, batches64(1), groups, sampling="pixel")
    collect(model, batches64(1), groups, sampling="dual")
    monkeypatch.setattr(module, "free_memory", lambda device: 8 * 8 * (27**2 + 72**2 + 6**2))
    collect(model, batches64(1), groups, sampling="patch")


def test_what_is_free_is_read_from_the_system() -> None:
    free = sys.modules["prunus.statistics.guards"].free_memory(torch.device("cpu"))
    assert 1e6 < free < psutil.virtual_memory().total


class Explodes(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.conv2(self.act(self.conv1(x))) * 1.0).mean((2, 3)))


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("teacher", [None, "logits"])
@pytest.mark.parametrize("sampling", ["pixel", "patch", "dual"])
def test_the_first_module_with_nan_is_named(
    sampling: str, teacher: str | None, gradients: bool
) -> None:
    model = Explodes().eval()
    groups = find_groups(model, images(1))
    with torch.no_grad():
        model.conv1.weight.fill_(1e38)
        model.conv1.weight[0] *= -1
    with pytest.raises(NonFiniteError, match="module 'conv1' hold NaN or infinity"):
        collect(model, batches(1), groups, teacher, sampling=sampling, gradients=gradients)
    assert not hooks(model)


@pytest.mark.parametrize("options", [{"teacher": "logits"}, {"gradients": True}])
def test_an_output_with_nan(options: dict[str, object]) -> None:
    model = build("mlp")
    groups = find_groups(model, images(1))
    with torch.no_grad():
        model.fc3.bias[0] = torch.nan
    with pytest.raises(NonFiniteError, match="module 'fc3' hold NaN or infinity"):
        collect(model, batches(1), groups, **options)


def test_nan_images_are_the_data_s_fault() -> None:
    model = build("mlp")
    groups = find_groups(model, images(1))
    x = images(2)
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="calibration images"):
        collect(model, [(x, torch.tensor([0, 1]))], groups)


class Unbatched(nn.Module):
    """Rows of an image become samples of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(10, 6)
        self.fc2 = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x.reshape(-1, 10)).relu()).view(len(x), -1, CLASSES).mean(1)


def test_rows_of_an_image_are_its_samples() -> None:
    model = Unbatched().eval()
    groups = find_groups(model, images(1), inputs=False)
    x, y = images(4), torch.tensor([0, 1, 1, 0])
    cross = collect(model, [(x, y)], groups)["fc1"].cross
    rows = x.double().reshape(4, -1, 10)
    sums = torch.stack([rows[y == c].sum((0, 1)) for c in (0, 1)])
    torch.testing.assert_close(cross[:2], sums, rtol=1e-5, atol=1e-5)


class TokensFirst(Unbatched):
    """The batch is the second axis: rows are no windows of an image."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(len(x), -1, 10).transpose(0, 1)
        return self.fc2(self.fc1(x).relu()).mean(0)


def test_samples_without_a_class_are_left_out_and_the_scores_say_so() -> None:
    model = TokensFirst().eval()
    groups = find_groups(model, images(1), inputs=False)
    statistics = collect(model, [(images(2), torch.tensor([0, 1]))] * 2, groups)
    assert statistics["fc1"].samples == 0
    skipped = score(groups, statistics, "fdr").skipped
    assert skipped
    assert all("no row for each image" in reason for reason in skipped.values())
