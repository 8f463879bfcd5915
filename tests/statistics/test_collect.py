"""One pass over the data against activations gathered by a hook of our own."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prunus.core.errors import DataError, NonFiniteError, PlanError
from prunus.graph import SelectLinear, find_groups
from prunus.statistics import Scatter, collect
from prunus.surgery import replay_
from tests.conftest import random_plan
from tests.graph.nets import CLASSES, NETS, Flatten, Plain, batches, build, images
from tests.statistics.test_scatter import scatter_of

Loader = list[tuple[Tensor, Tensor]]


def gathered(model: nn.Module, loader: Loader, name: str) -> tuple[Tensor, Tensor]:
    """Return every sample (N, F) that module `name` reads, and its label (N,)."""
    seen: list[Tensor] = []
    module = model.get_submodule(name)
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        for x, _ in loader:
            model(x)
    handle.remove()
    samples, labels = [], []
    for inputs, (_, y) in zip(seen, loader, strict=True):
        if not isinstance(module, nn.Linear):
            inputs = inputs.movedim(1, -1)  # noqa: PLW2901 - channels last
        rows = inputs.reshape(len(y), -1, inputs.shape[-1])
        samples.append(rows.flatten(0, 1))
        labels.append(y.repeat_interleave(rows.shape[1]))
    return torch.cat(samples), torch.cat(labels)


def assert_same(scatter: Scatter, expected: Scatter) -> None:
    scale = float(expected.gram.diagonal().max())
    torch.testing.assert_close(scatter.gram, expected.gram, rtol=1e-5, atol=1e-6 * scale)
    torch.testing.assert_close(scatter.S, expected.S, rtol=1e-5, atol=1e-6 * scale)
    torch.testing.assert_close(scatter.class_total, expected.class_total, rtol=1e-5, atol=1e-4)
    assert torch.equal(scatter.class_count, expected.class_count)


@pytest.mark.parametrize("net", NETS)
def test_every_consumer_is_summed_up(net: str) -> None:
    model, loader = build(net), batches(2, 4)
    groups = find_groups(model, images(1))
    statistics = collect(model, loader, groups)
    assert statistics.images == 8
    assert set(statistics) == set(groups.consumers)
    for name in statistics:
        assert_same(statistics[name], scatter_of(*gathered(model, loader, name), CLASSES))


def test_a_wide_flattened_input_is_folded_to_channels() -> None:
    model, loader = build("flatten"), batches(2, 4)
    groups = find_groups(model, images(1), feature_limit=79)
    assert groups.consumers["fc1"].positions.shape == (5, 16)
    assert [g.name for g in groups] == ["conv1", "fc1"]
    x, y = gathered(model, loader, "fc1")
    rows = x.view(-1, 5, 16).transpose(1, 2).flatten(0, 1)
    scatter = collect(model, loader, groups)["fc1"]
    assert_same(scatter, scatter_of(rows, y.repeat_interleave(16), CLASSES))


@pytest.mark.parametrize("net", ["flatten", "mlp"])
def test_a_cut_network_is_summed_over_what_it_reads(net: str) -> None:
    model, loader = build(net), batches(2, 4)
    replay_(model, random_plan(find_groups(model, images(1)), seed=1))
    first = model.get_submodule("fc1")
    assert isinstance(first, SelectLinear)
    groups = find_groups(model, images(1))
    x, y = gathered(model, loader, "fc1")
    expected = scatter_of(x[:, first.index.long()], y, CLASSES)
    assert_same(collect(model, loader, groups)["fc1"], expected)


def test_a_nearly_constant_feature_keeps_its_variance() -> None:
    # 5 ± 1e-5: the second moment in float32 cannot tell; sums about the batch mean can.
    model = build("plain")
    model.bn1 = nn.Identity()
    with torch.no_grad():
        model.conv1.bias = nn.Parameter(torch.full((8,), 5.0))
        model.conv1.weight[:4] *= 1e-5
        model.conv1.weight[4] = 0
    groups = find_groups(model, images(1))
    scatter = collect(model, batches(3, 8), groups)["conv2"]
    expected = scatter_of(*gathered(model, batches(3, 8), "conv2"), CLASSES)
    torch.testing.assert_close(scatter.scale, expected.scale, rtol=1e-3, atol=0)
    assert scatter.constant.tolist() == [i == 4 for i in range(8)]
    correlation = scatter.S / torch.outer(scatter.scale, scatter.scale)
    assert torch.linalg.eigvalsh(correlation).min() > -1e-6 * scatter.samples


@settings(max_examples=10)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    side=st.integers(5, 9),
    seed=st.integers(0, 99),
)
def test_batches_of_any_size(sizes: list[int], side: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    loader = [
        (
            torch.randn(n, 3, side, side, generator=generator),
            torch.randint(0, CLASSES, (n,), generator=generator),
        )
        for n in sizes
    ]
    model = build("plain")
    groups = find_groups(model, loader[0][0])
    statistics = collect(model, loader, groups)
    assert statistics.images == sum(sizes)
    for name in statistics:
        assert_same(statistics[name], scatter_of(*gathered(model, loader, name), CLASSES))


def test_halves_merge_to_the_whole() -> None:
    model, loader = build("concat"), batches(4, 5)
    groups = find_groups(model, images(1))
    whole = collect(model, loader, groups)
    merged = collect(model, loader[:1], groups).merge(collect(model, loader[1:], groups))
    assert merged.images == whole.images == 20
    for name in whole:
        torch.testing.assert_close(merged[name].gram, whole[name].gram, rtol=1e-12, atol=1e-12)


def test_batches_limits_the_pass_and_progress_wraps_it() -> None:
    model = build("mlp")
    groups = find_groups(model, images(1))
    seen = []

    def progress(loader):
        for batch in loader:
            seen.append(len(batch[0]))
            yield batch

    assert collect(model, batches(4, 5), groups, batches=2, progress=progress).images == 10
    assert seen == [5, 5]


def test_the_model_is_left_as_it_was() -> None:
    model = build("plain").train()
    model.bn1.eval()  # a frozen norm in a training network
    before = copy.deepcopy(model.state_dict())
    groups = find_groups(model, images(1))
    collect(model, batches(), groups)
    assert model.training
    assert model.conv1.training
    assert not model.bn1.training
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_labels_the_network_has_no_output_for() -> None:
    model = build("mlp")
    groups = find_groups(model, images(1))
    with pytest.raises(DataError, match="from 0 to 4, but the network has 4"):
        collect(model, [(images(2), torch.tensor([0, 4]))], groups)
    with pytest.raises(DataError, match=r"torch.float32, expected one class index"):
        collect(model, [(images(2), torch.tensor([0.0, 1.0]))], groups)
    with pytest.raises(DataError, match=r"shape \(2, 4\)"):
        collect(model, [(images(2), torch.zeros(2, 4, dtype=torch.int64))], groups)


def test_an_empty_loader() -> None:
    model = build("mlp")
    with pytest.raises(DataError, match="no batch"):
        collect(model, [], find_groups(model, images(1)))


def test_an_output_that_is_no_logits_asks_for_the_number_of_classes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)).eval()
    groups = find_groups(model, images(1))
    with pytest.raises(DataError, match="teacher="):
        collect(model, batches(1), groups)
    assert len(collect(model, batches(1), groups, teacher=CLASSES)["1"].class_count) == CLASSES


class Explodes(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.conv2(self.act(self.conv1(x))) * 1.0).mean((2, 3)))


def test_the_first_module_with_nan_is_named() -> None:
    model = Explodes().eval()
    groups = find_groups(model, images(1))
    with torch.no_grad():
        model.conv1.weight.fill_(1e38)
        model.conv1.weight[0] *= -1
    with pytest.raises(NonFiniteError, match="module 'conv1' hold NaN or infinity"):
        collect(model, batches(1), groups)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


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


def test_samples_without_a_class_are_named() -> None:
    model = Unbatched().eval()
    groups = find_groups(model, images(1), inputs=False)
    with pytest.raises(DataError, match="module 'fc1' reads 60 rows for 2 images"):
        collect(model, [(images(2), torch.tensor([0, 1]))], groups)


def test_statistics_of_other_networks_do_not_merge() -> None:
    wide = build("flatten")
    narrow = replay_(copy.deepcopy(wide), random_plan(find_groups(wide, images(1)), seed=1))
    a, b = (collect(m, batches(1), find_groups(m, images(1))) for m in (wide, narrow))
    with pytest.raises(PlanError, match="cannot merge"):
        a.merge(b)
    assert isinstance(wide, Flatten)
