from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from prunus.core.errors import ConfigError, DataError, NonFiniteError
from prunus.training import LocalTeachers, TrainConfig, fit_
from prunus.training.local import (
    QUIET,
    discriminant_information,
    explained_share,
    pool,
    standardise,
    teacher_matrix,
)

LABELS = {
    "balanced": [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2],
    "unbalanced": [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2],
    "a class is missing": [0, 0, 0, 3, 3, 3, 3, 3, 1, 1, 1, 0],
    "two classes": [5, 5, 5, 5, 5, 5, 5, 5, 5, 1, 1, 1],
    "a class an image": list(range(12)),
}
PARENTS = [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]


def features(width: int, batch: int = 12, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return 3 + torch.randn(batch, width, generator=generator, dtype=torch.float64) @ mix


def written_out(x: Tensor, labels: Tensor, ridge: float) -> Tensor:
    """DI = tr((S+ρI)⁻¹ S_B) and S_B = Σ N_l (μ_l−μ)(μ_l−μ)ᵀ, loop by loop."""
    B, F = x.shape
    X = torch.zeros(F, B, dtype=torch.float64)
    spread = [x[:, i].var(correction=0) for i in range(F)]
    for i in range(F):
        floor = QUIET * sum(spread) / F + 1e-12 * (x**2).mean()
        for n in range(B):
            X[i, n] = (x[n, i] - x[:, i].mean()) / (spread[i] + floor).sqrt()
    S, S_B = torch.zeros(F, F, dtype=torch.float64), torch.zeros(F, F, dtype=torch.float64)
    for n in range(B):
        S += torch.outer(X[:, n], X[:, n])
    for label in set(labels.tolist()):
        mean = X[:, labels == label].mean(1)
        S_B += (labels == label).sum() * torch.outer(mean, mean)
    rho = ridge * max(float(B), float(S.trace()) / (B - 1))
    return (torch.linalg.inv(S + rho * torch.eye(F, dtype=torch.float64)) @ S_B).trace()


@pytest.mark.parametrize("width", [1, 4, 12, 30])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_the_share_is_the_definition_over_its_maximum(labels: list[int], width: int) -> None:
    x, y = features(width), torch.tensor(labels)
    expected = written_out(x, y, 0.3)
    Y = teacher_matrix(y)
    found = discriminant_information(standardise(x), Y, 0.3)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    maximum = len(set(labels)) - 1
    torch.testing.assert_close(Y.square().sum(), torch.tensor(float(maximum)).double())
    torch.testing.assert_close(explained_share(x, Y, 0.3), expected / maximum)
    assert 0 < explained_share(x, Y, 0.3) < 1


@given(
    batch=st.integers(2, 16),
    width=st.integers(1, 24),
    classes=st.integers(2, 9),
    ridge=st.floats(1e-4, 10),
    seed=st.integers(0, 99),
)
def test_both_forms_agree(batch: int, width: int, classes: int, ridge: float, seed: int) -> None:
    X = standardise(features(width, batch, seed))
    Y = teacher_matrix(torch.arange(batch) % classes)
    primal, dual = (discriminant_information(X, Y, ridge, dual=dual) for dual in (False, True))
    torch.testing.assert_close(primal, dual, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("width", [4, 30])
def test_granularity_is_additive(labels: list[int], width: int) -> None:
    x, fine = features(width), torch.tensor(labels)
    coarse = torch.tensor(PARENTS)[fine]
    X = standardise(x)
    S_B = torch.zeros(width, width, dtype=torch.float64)  # of the fine classes within the coarse
    for label in set(labels):
        shift = X[fine == label].mean(0) - X[coarse == PARENTS[label]].mean(0)
        S_B += (fine == label).sum() * torch.outer(shift, shift)
    rho = 0.3 * max(12.0, float(X.square().sum()) / 11)
    M = X.T @ X + rho * torch.eye(width, dtype=torch.float64)
    within = torch.linalg.solve(M, S_B).trace()
    DI_fine, DI_coarse = (
        discriminant_information(X, teacher_matrix(y), 0.3) for y in (fine, coarse)
    )
    torch.testing.assert_close(DI_fine, DI_coarse + within, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("width", [3, 9])
def test_gradients_are_finite_differences(width: int) -> None:
    x = features(width, batch=6).requires_grad_()
    Y = teacher_matrix(torch.tensor([0, 0, 1, 1, 1, 3]))
    assert torch.autograd.gradcheck(lambda z: explained_share(z, Y, 0.3), (x,), atol=1e-7)


@pytest.mark.parametrize("width", [4, 30])
def test_constant_channels_are_silent_and_smooth(width: int) -> None:
    x, Y = features(width), teacher_matrix(torch.tensor(LABELS["unbalanced"]))
    x[:, 1] = 7.0
    x.requires_grad_()
    share = explained_share(x, Y, 0.3)
    (gradient,) = torch.autograd.grad(share, x)
    assert torch.isfinite(gradient).all()
    assert gradient[:, 1].abs().max() < 1e-12  # DI is even in what is not there
    nearly = x.detach().clone()
    nearly[:, 1] += 1e-6 * features(1)[:, 0]
    torch.testing.assert_close(explained_share(nearly, Y, 0.3), share.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("value", [0.0, 1e4])
def test_a_dead_layer_explains_nothing(value: float) -> None:
    x = torch.full((12, 5), value, requires_grad=True)
    share = explained_share(x, teacher_matrix(torch.tensor(LABELS["balanced"])), 0.3)
    share.backward()
    assert share == 0
    assert torch.isfinite(x.grad).all()


def test_the_share_does_not_know_the_scale_of_a_layer_or_the_order_of_images() -> None:
    x, y = features(8), torch.tensor(LABELS["unbalanced"])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    expected = explained_share(x, teacher_matrix(y), 0.3)
    torch.testing.assert_close(explained_share(-50 * x, teacher_matrix(y), 0.3), expected)
    torch.testing.assert_close(explained_share(x[order], teacher_matrix(y[order]), 0.3), expected)


def test_pooling_is_the_mean_over_positions() -> None:
    conv, linear = nn.Conv2d(3, 2, 1), nn.Linear(3, 2)
    maps = torch.randn(4, 3, 5, 6)
    torch.testing.assert_close(pool(maps, conv), maps.sum((2, 3)) / 30)
    tokens = torch.randn(4, 7, 3)
    torch.testing.assert_close(pool(tokens, linear), tokens.sum(1) / 7)
    rows = torch.randn(4, 3)
    assert pool(rows, linear) is rows
    assert pool(maps.bfloat16(), conv).dtype == torch.float32


class Residual(nn.Module):
    """Two consumers of one tensor, an add, and a layer that is defined last but runs first."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.left = nn.Conv2d(6, 4, 3, padding=1)
        self.right = nn.Conv2d(6, 4, 1)
        self.unused = nn.Linear(2, 2)
        self.stem = nn.Conv2d(2, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).relu()
        return self.fc((self.left(h) + self.right(h)).relu().mean((2, 3)))


def test_layers_are_heard_in_order_and_a_shared_tensor_once() -> None:
    model, y = Residual(), torch.tensor([0, 1, 2, 3] * 3)
    x = torch.randn(12, 2, 6, 6)
    teachers = LocalTeachers(model, parents=[0, 0, 1, 1], ridge=0.3)
    with teachers.listening():
        model(x)
        found = teachers.information(y)
    h = model.stem(x).relu()
    last = (model.left(h) + model.right(h)).relu().mean((2, 3))
    coarse, fine = teacher_matrix(y // 2), teacher_matrix(y)
    expected = explained_share(h.mean((2, 3)), coarse, 0.3) + explained_share(last, fine, 0.3)
    torch.testing.assert_close(found, expected / 2)


def test_depth_weighs_coarse_and_fine() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    x, y = torch.randn(12, 4), torch.tensor([0, 1, 2, 3, 3, 3] * 2)
    teachers = LocalTeachers(model, parents=torch.tensor([0, 1, 1, 1]), ridge=0.3)
    with teachers.listening():
        model(x)
        found = teachers.information(y)
    expected, h = 0.0, x
    for w, layer in zip((0.0, 0.5, 1.0), model[:3], strict=True):
        h = layer(h)
        coarse = written_out(h.detach().double(), y.clamp(max=1), 0.3)
        fine = written_out(h.detach().double(), y, 0.3)
        expected += (coarse + w * (fine - coarse)) / ((1 - w) * 1 + w * 3) / 3
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_one_class_leaves_nothing_to_explain() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    teachers = LocalTeachers(model)
    with teachers.listening():
        model(torch.randn(5, 4))
        assert teachers.information(torch.full((5,), 2)) is None


def test_hooks_go_whatever_happens() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    teachers = LocalTeachers(model)
    with pytest.raises(KeyError), teachers.listening():
        assert len(model[2]._forward_pre_hooks) == 1
        raise KeyError
    assert not any(module._forward_pre_hooks for module in model)


def net(seed: int = 0, classes: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(8, 24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 16), nn.ReLU(),
        nn.Linear(16, classes),
    )  # fmt: skip


def blobs(n: int = 96) -> DataLoader:
    y = torch.arange(n) % 4
    x = torch.randn(n, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x + 2 * nn.functional.one_hot(y, 8), y), batch_size=16)


def shares(model: nn.Module) -> list[float]:
    x, y = blobs().dataset.tensors
    with torch.no_grad():
        h = model[:2](x)
        read = [h, model[3:5](h)]
        return [float(explained_share(z, teacher_matrix(y), 1e-2)) for z in read]


def test_training_with_local_teachers_teaches_the_layers_more() -> None:
    known = {}
    for local in (0.0, 1.0):
        model = net()
        rows = fit_(model, blobs(), TrainConfig(epochs=20, lr=0.02, local=local))
        known[local] = shares(model)
        assert ("local_information" in rows[-1]) == bool(local)
        assert not any(module._forward_pre_hooks for module in model)
    assert rows[-1]["local_information"] > rows[0]["local_information"]
    assert rows[-1]["train_accuracy"] > 0.9
    assert all(taught > free + 0.01 for taught, free in zip(known[1.0], known[0.0], strict=True))


def test_the_loss_gains_what_the_layers_leave_unexplained() -> None:
    (plain,), (local,) = (
        fit_(net(), blobs(16), TrainConfig(epochs=1, local=local)) for local in (0.0, 0.5)
    )
    rest = 0.5 * (1 - local["local_information"])
    assert local["loss"] == pytest.approx(plain["loss"] + rest, rel=1e-6)
    assert local["train_accuracy"] == plain["train_accuracy"]


def test_without_weight_nothing_changes() -> None:
    models = [net(), net()]
    rows = fit_(models[0], blobs(), TrainConfig(epochs=2))
    idle = TrainConfig(epochs=2, local_layers=("nowhere",), local_ridge=3.0)
    again = fit_(models[1], blobs(), idle, parents=[0, 0, 1, 1])
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(tensor, models[1].state_dict()[name])
    assert [row["loss"] for row in rows] == [row["loss"] for row in again]
    assert [list(row) for row in rows] == [list(row) for row in again]


@pytest.mark.parametrize("parents", [None, [0, 0, 1, 1]])
def test_a_killed_phase_ends_with_the_same_weights(
    parents: list[int] | None, tmp_path: Path
) -> None:
    config = TrainConfig(epochs=4, local=0.5)
    whole = net()
    expected = fit_(whole, blobs(), config, parents=parents, validation=blobs())

    def kill(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    path, half = tmp_path / "fit.pt", net()
    keywords = {"parents": parents, "validation": blobs(), "checkpoint": path}
    with pytest.raises(KeyboardInterrupt):
        fit_(half, blobs(), config, **keywords, on_epoch=kill)
    assert not any(module._forward_pre_hooks for module in half)
    resumed = net(seed=9)
    rows = fit_(resumed, blobs(), config, **keywords)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    for key in ("loss", "local_information"):
        assert [row[key] for row in rows] == [row[key] for row in expected]


@pytest.mark.parametrize(
    ("layers", "parents", "error", "sentence"),
    [
        (("fc7",), None, ConfigError, r"for 'fc7', which Sequential does not have.*0, 3, 5"),
        (
            ("0",),
            None,
            ConfigError,
            r"training cannot change the input of module '0'.*local_layers",
        ),
        (("3", "2.x"), None, ConfigError, r"'2\.x'"),
        ((), [0, 0, 1], DataError, r"label 3 has no parent, only 3 are given"),
    ],
)
def test_what_cannot_be_taught_is_named(
    layers: tuple[str, ...], parents: list[int] | None, error: type[Exception], sentence: str
) -> None:
    model = net()
    with pytest.raises(error, match=sentence):
        fit_(model, blobs(), TrainConfig(epochs=1, local=1, local_layers=layers), parents=parents)
    assert not any(module._forward_pre_hooks for module in model)


def test_silence_is_an_error() -> None:
    with pytest.raises(ConfigError, match="got no features from 0: a taught layer must run"):
        fit_(nn.Sequential(nn.Linear(8, 4)), blobs(), TrainConfig(epochs=1, local=1))
    with pytest.raises(ConfigError, match=r"linear layers \(none\)"):
        LocalTeachers(nn.Sequential(nn.ReLU()))
    model = Residual()
    teachers = LocalTeachers(model, ("fc", "unused"))
    with teachers.listening():
        model(torch.randn(4, 2, 6, 6))
        with pytest.raises(ConfigError, match="got no features from unused"):
            teachers.information(torch.arange(4))


def test_rows_that_are_no_images_are_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Flatten(0, 1), nn.Linear(4, 3))
    teachers = LocalTeachers(model)
    with teachers.listening():
        model(torch.randn(2, 3, 4))
        with pytest.raises(DataError, match="'2' reads 6 rows for 2 images"):
            teachers.information(torch.arange(2))


def test_a_diverging_layer_is_named() -> None:
    model = net()
    nn.init.constant_(model[0].weight, float("nan"))
    with pytest.raises(NonFiniteError, match=r"'3' reads NaN or infinity.*learning rate"):
        fit_(model, blobs(), TrainConfig(epochs=1, local=1))
