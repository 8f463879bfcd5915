"""Who teaches: labels, coarser labels, targets and the network's own output."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core.errors import ConfigError, DataError, PlanError
from prunus.graph import find_groups
from prunus.statistics import Classes, collect
from tests.graph.nets import CLASSES, images
from tests.statistics.oracles import (
    Loader,
    assert_close,
    assert_equal,
    batches64,
    cells_of,
    drawn,
    inputs_of,
    ready,
    regression_scatter,
    samples_of,
    scatter_of,
)

PARENTS = [[0, 1, 0, 1], [0, 0, 0, 0]]


def granular(loader: Loader) -> Loader:
    """Add the labels of both coarser granularities: (B, 3)."""
    table = torch.tensor([range(CLASSES), *PARENTS])
    return [(x, table[:, y].T) for x, y in loader]


# Class labels ------------------------------------------------------------------------------


def test_a_number_of_classes() -> None:
    model, groups = ready("plain")
    loader = batches64(2, 6)
    default, given, wide = (collect(model, loader, groups, t) for t in (None, CLASSES, 7))
    for name in default:
        assert_equal(default[name], given[name])
        assert wide[name].teacher_total.tolist() == [*default[name].teacher_total.tolist(), 0, 0, 0]
        assert wide[name].trace_YY == pytest.approx(default[name].trace_YY)


def test_labels_of_several_granularities_teach_their_parents() -> None:
    model, groups = ready("plain")
    loader = batches64(3, 6)
    statistics = collect(model, granular(loader), groups, sampling="patch")
    plain = collect(model, loader, groups, sampling="patch")
    assert [p.tolist() for p in statistics.parents] == PARENTS
    assert plain.parents == ()
    for name in statistics:
        assert_equal(statistics[name], plain[name])
        for parent, table in zip(statistics.parents, PARENTS, strict=True):
            rows, labels = drawn(model, loader, name, "patch")
            expected = scatter_of(
                rows, torch.tensor(table)[labels], max(table) + 1, cells=plain[name].cells
            )
            assert_close(statistics[name].coarsen(parent), expected)
    assert [p.tolist() for p in statistics.leave_out(1).parents] == PARENTS


@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_parents_that_are_given(kind: type) -> None:
    model, groups = ready("mlp")
    given = [kind(parent) for parent in PARENTS]
    for loader in (batches64(1, 6), granular(batches64(1, 6))):
        statistics = collect(model, loader, groups, parents=given)
        assert [p.tolist() for p in statistics.parents] == PARENTS
    assert [list(p) for p in given] == PARENTS


def test_classes_that_one_part_did_not_see_take_the_other_s_parents() -> None:
    model, groups = ready("mlp")
    x = images(4).double()
    low, high = (
        [(x, torch.stack([y, torch.tensor([2, 1, 0, 1])[y]], 1))]
        for y in (torch.tensor([0, 0, 1, 1]), torch.tensor([2, 3, 3, 1]))
    )
    a, b = (collect(model, part, groups) for part in (low, high))
    assert a.parents[0].tolist() == [2, 1, 0, 0]  # 2 and 3 did not occur
    for merged in (a.merge(b), b.merge(a)):
        assert merged.parents[0].tolist() == [2, 1, 0, 1]
        coarse = merged["fc2"].coarsen(merged.parents[0])
        assert coarse.teacher_total.tolist() == [1, 5, 2]
    other = collect(model, [(x, torch.tensor([[1, 0]] * 4))], groups)
    with pytest.raises(PlanError, match="whose classes have other parents"):
        a.merge(other)


def test_coarser_labels_that_are_no_function_of_the_finest() -> None:
    model, groups = ready("mlp")
    x = images(2).double()
    same = [(x, torch.tensor([[1, 0], [1, 1]]))]
    later = [(x, torch.tensor([[1, 0], [2, 1]])), (x, torch.tensor([[2, 0], [0, 0]]))]
    second = [(x, torch.tensor([[1, 0, 3], [1, 0, 2]]))]
    for loader, granularity in ((same, 1), (later, 1), (second, 2)):
        with pytest.raises(DataError, match=f"two labels at granularity {granularity}: coarser"):
            collect(model, loader, groups)
    with pytest.raises(DataError, match="two labels at granularity 1"):
        collect(model, [(x, torch.tensor([[1, 0], [2, 1]]))], groups, parents=[[1, 1, 1, 1]])


def test_labels_that_do_not_fit() -> None:
    model, groups = ready("mlp")
    x = images(2).double()
    for labels, message in (
        (torch.tensor([0, 4]), "from 0 to 4, but the network has 4"),
        (torch.tensor([-1, 2]), "from -1 to 2, but the network has 4"),
        (torch.tensor([0.0, 1.0]), r"torch.float32, expected one class index"),
        (torch.zeros(2, 4, 1, dtype=torch.int64), r"shape \(2, 4, 1\)"),
        (torch.tensor([0, 1, 2]), "3 labels were given for 2 images"),
        (torch.tensor([[0, -1], [1, 0]]), "none of them negative"),
    ):
        with pytest.raises(DataError, match=message):
            collect(model, [(x, labels)], groups)
    with pytest.raises(DataError, match="the images have no labels: pass teacher='logits'"):
        collect(model, [x], groups)
    uneven = [(x, torch.tensor([[0, 1], [1, 0]])), (x, torch.tensor([[0, 1, 1], [1, 0, 0]]))]
    with pytest.raises(DataError, match="labels give 2 coarser classes per image, expected 1"):
        collect(model, uneven, groups)
    with pytest.raises(DataError, match="labels give 1 coarser classes per image, expected 2"):
        collect(model, uneven[:1], groups, parents=PARENTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parents": [[0, 1]]}, r"parents are \[0, 1\], expected the coarser class, from 0, of"),
        ({"parents": [[0, -1, 1, 1]]}, "from 0, of each of 4 classes"),
        ({"teacher": "targets", "parents": PARENTS}, "parents go with class labels"),
        ({"teacher": "probabilities"}, "expected a number of classes, 'targets' or 'logits'"),
        ({"teacher": 5, "gradients": True}, r"gradients need logits \(batch, 5 classes\)"),
    ],
)
def test_teachers_that_make_no_sense(options: dict[str, object], message: str) -> None:
    model, groups = ready("mlp")
    with pytest.raises(ConfigError, match=message):
        collect(model, batches64(1), groups, **options)


def test_an_output_that_is_no_logits_asks_for_the_number_of_classes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)).double().eval()
    groups = find_groups(model, images(1).double())
    with pytest.raises(DataError, match="teacher="):
        collect(model, batches64(1), groups)
    assert len(collect(model, batches64(1), groups, CLASSES)["1"].teacher_total) == CLASSES
    with pytest.raises(ConfigError, match="gradients"):
        collect(model, batches64(1), groups, CLASSES, gradients=True)


class Shifted(Classes):
    """A teacher of one's own: class l counts as l + 1."""

    def encode(self, y: Tensor) -> Tensor:
        return super().encode((y + 1) % self.count)


def test_a_teacher_of_one_s_own() -> None:
    model, groups = ready("plain")
    loader = batches64(2, 6)
    found = collect(model, loader, groups, Shifted(CLASSES))
    expected = collect(model, [(x, (y + 1) % CLASSES) for x, y in loader], groups)
    for name in found:
        assert_equal(found[name], expected[name])


# Targets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["pixel", "patch", "pool:2", "flatten"])
@pytest.mark.parametrize("net", ["plain", "token", "transposed", "flatten"])
def test_vectors_of_targets(net: str, sampling: str) -> None:
    model, groups = ready(net)
    loader = [(x, x.flatten(2).std(2)) for x, _ in batches64(2, 5)]  # (B, 3)
    statistics = collect(model, loader, groups, "targets", sampling=sampling)
    for name, scatter in statistics.items():
        expected = regression_scatter(*drawn(model, loader, name, sampling), cells=scatter.cells)
        assert_close(scatter, expected)
        assert not scatter.discrete
    assert statistics.parents == ()


def test_one_number_an_image() -> None:
    model, groups = ready("mlp")
    loader = [(x, x.mean((1, 2, 3)).float()) for x, _ in batches64(2, 5)]
    column = [(x, y[:, None]) for x, y in loader]
    a, b = (collect(model, part, groups, "targets") for part in (loader, column))
    for name in a:
        assert a[name].teacher_total.shape == (1,)
        assert_equal(a[name], b[name])


@pytest.mark.parametrize("sampling", ["pixel", "patch", "pool:2", "pool:7", "flatten"])
@pytest.mark.parametrize("size", [(10, 10), (5, 4), (20, 30)])
@pytest.mark.parametrize("net", ["plain", "residual", "transposed", "token"])
def test_maps_of_targets(net: str, size: tuple[int, int], sampling: str) -> None:
    model, groups = ready(net)
    generator = torch.Generator().manual_seed(0)
    loader = [(x, torch.randn(5, 2, *size, generator=generator)) for x, _ in batches64(2, 5)]
    statistics = collect(model, loader, groups, "targets", sampling=sampling, blocks=3)
    for name, consumer in groups.consumers.items():
        rows, targets = [], []
        module = model.get_submodule(name)
        for x, (_, maps) in zip(inputs_of(model, loader, name), loader, strict=True):
            samples, grid = samples_of(x, module, sampling, consumer)  # (B, P, F)
            at = F.adaptive_avg_pool2d(maps.double(), grid) if grid else maps.mean((2, 3))
            at = at.double().flatten(2).transpose(1, 2) if grid else at[:, None].double()
            rows.append(samples.flatten(0, 1))
            targets.append(at.expand(-1, samples.shape[1], -1).flatten(0, 1))
        cells = cells_of(module, x, sampling, consumer)
        expected = regression_scatter(torch.cat(rows), torch.cat(targets), cells=cells)
        assert_close(statistics[name], expected, rtol=1e-6 if not grid else 1e-10)


def test_maps_at_random_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunus.statistics.sampling.LEAST_SAMPLES", 200)
    monkeypatch.setattr("prunus.statistics.sampling.SAMPLES_A_FEATURE", 0)
    model, groups = ready("residual")
    loader = [(x, x) for x, _ in batches64(2, 20)]  # the image is its own target
    scatter = collect(model, loader, groups, "targets", sampling="patch")["stem"]
    assert scatter.samples == 200
    centres = [4, 13, 22]  # of the 3×3 taps of each channel
    torch.testing.assert_close(scatter.cross, scatter.gram[centres])
    torch.testing.assert_close(scatter.teacher_gram, scatter.gram[centres][:, centres])
    torch.testing.assert_close(scatter.teacher_total, scatter.total[centres])


def test_balanced_classes_with_the_network_s_own_output_as_teacher() -> None:
    model, groups = ready("plain")
    loader = batches64(2, 5)
    every = torch.cat([y for _, y in loader])
    share = torch.bincount(every, minlength=CLASSES).double()
    weight = len(every) / len(every.unique()) / share
    statistics = collect(model, loader, groups, "logits", sampling="pixel", balance=True)
    outputs = [(x, model(x).detach()) for x, _ in loader]
    for name, scatter in statistics.items():
        rows, own = drawn(model, outputs, name, "pixel")
        _, labels = drawn(model, loader, name, "pixel")
        assert_close(scatter, regression_scatter(rows, own, weight[labels]))


def test_targets_that_do_not_fit() -> None:
    model, groups = ready("mlp")
    x = images(2).double()
    for targets, message in (
        (torch.tensor([0, 1]), r"shape \(2,\) and type torch.int64, expected floats"),
        (torch.zeros(2, 1, 1, 1, 1, 1), r"expected floats \(B,\)"),
        (torch.tensor([0.0, torch.nan]), "targets hold NaN or infinity"),
        (torch.zeros(3, 2), "3 labels were given for 2 images"),
    ):
        with pytest.raises(DataError, match=message):
            collect(model, [(x, targets)], groups, "targets")
    with pytest.raises(DataError, match=r"output has shape \(2, 4\), the targets \(2, 1\)"):
        collect(model, [(x, torch.zeros(2))], groups, "targets", gradients=True)


# The network's own output ------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["pixel", "patch", "flatten"])
@pytest.mark.parametrize("net", ["plain", "token", "concat"])
def test_logits_need_no_labels(net: str, sampling: str) -> None:
    model, groups = ready(net)
    loader = [(x, model(x).detach()) for x, _ in batches64(3, 5)]
    bare = collect(model, [x for x, _ in loader], groups, "logits", sampling=sampling)
    listed = collect(model, [[x] for x, _ in loader], groups, "logits", sampling=sampling)
    for name, scatter in bare.items():
        assert_equal(scatter, listed[name])
        expected = regression_scatter(*drawn(model, loader, name, sampling), cells=scatter.cells)
        assert_close(scatter, expected)


def test_an_output_map_teaches_by_its_mean() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).double().eval()
    groups = find_groups(model, images(1).double())
    loader = [(x, model(x).detach().mean((2, 3))) for x, _ in batches64(2, 5)]
    statistics = collect(model, [x for x, _ in loader], groups, "logits", sampling="pixel")
    for name, scatter in statistics.items():
        assert_close(scatter, regression_scatter(*drawn(model, loader, name, "pixel")))
