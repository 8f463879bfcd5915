"""The push inside a training: which layer it reads, what it does, and what is refused."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from prunus.core import from_dict, to_dict
from prunus.core.errors import ConfigError, DataError, NonFiniteError
from prunus.data import balanced_loader, load_data
from prunus.training import LocalTeachers, Push, PushConfig, TrainConfig, fit_
from prunus.training.push import factors, push_terms


def net(seed: int = 0, classes: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(8, 24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 16), nn.ReLU(),
        nn.Linear(16, classes),
    )  # fmt: skip


def blobs(n: int = 96, batch: int = 32) -> DataLoader:
    y = torch.arange(n) % 4
    x = torch.randn(n, 8, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x + 2 * nn.functional.one_hot(y, 8), y)
    return balanced_loader(DataLoader(data, batch_size=batch))


class Heads(nn.Module):
    """A head defined before an auxiliary one that runs after it, and a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.unused = nn.Linear(6, 3)
        self.body = nn.Linear(4, 6)
        self.auxiliary = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x).relu()
        return self.head(h), self.auxiliary(h)


class Convolved(nn.Module):
    """A convolution for a head, as of SqueezeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(2, 5, 3)
        self.head = nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu()).mean((2, 3))


def heard(model: nn.Module, x: Tensor, y: Tensor, config: PushConfig) -> tuple[Push, float]:
    push = Push(model, config)
    with push.listening():
        model(x)
        found = push.read(y, done=1.0)
    assert found is not None
    return push, float(found[0].detach())


def weighed(features: Tensor, y: Tensor, config: PushConfig) -> float:
    terms = push_terms(features, y, config)
    assert terms is not None
    weights = {"lda": config.lda, "cov": config.cov, "align": config.align}
    return sum(weights[name] * float(term.detach()) for name, term in terms.items())


def test_the_head_is_found_and_what_it_reads_is_pushed() -> None:
    torch.manual_seed(0)
    y, config = torch.arange(24) % 3, PushConfig(lda=0.7, cov=0.2, align=0.4)
    x = torch.randn(24, 4)
    model = Heads()
    push, loss = heard(model, x, y, config)
    assert push.head == "head"
    assert loss == pytest.approx(weighed(model.body(x).relu(), y, config), rel=1e-6)

    soft = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3), nn.LogSoftmax(1))
    assert heard(soft, x, y, config)[0].head == "1"

    named = PushConfig(layer="body.1")
    deep = nn.Sequential()
    deep.add_module("stem", nn.Linear(4, 6))
    deep.add_module("body", nn.Sequential(nn.ReLU(), nn.Linear(6, 5), nn.ReLU()))
    deep.add_module("fc", nn.Linear(5, 3))
    assert heard(deep, x, y, PushConfig())[0].head == "fc"
    loss = heard(deep, x, y, named)[1]
    assert loss == pytest.approx(weighed(deep.stem(x).relu(), y, named), rel=1e-6)


def test_tokens_and_maps_are_pooled() -> None:
    torch.manual_seed(0)
    y, config = torch.arange(24) % 3, PushConfig()
    tokens = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    x = torch.randn(24, 7, 4)
    _, loss = heard(tokens, x, y, config)
    assert loss == pytest.approx(weighed(tokens[0](x).mean(1), y, config), rel=1e-5)
    maps, config = Convolved(), PushConfig(layer="head")
    x = torch.randn(24, 2, 6, 6)
    _, loss = heard(maps, x, y, config)
    assert loss == pytest.approx(weighed(maps.body(x).relu().mean((2, 3)), y, config), rel=1e-5)


def test_the_weights_rise_over_the_ramp() -> None:
    model, y, x = net(), torch.arange(32) % 4, torch.randn(32, 8)
    model.eval()
    losses = []
    for done in (0.0, 0.1, 0.2, 0.9):
        push = Push(model, PushConfig(ramp=0.2))
        with push.listening():
            model(x)
            found = push.read(y, done)
        assert found is not None
        losses.append(float(found[0].detach()))
        assert float(found[1]["push_loss"]) == losses[-1]
    assert losses[0] == 0
    assert losses[1] == pytest.approx(losses[2] / 2)
    assert losses[2] == losses[3]


def test_hooks_go_whatever_happens() -> None:
    model = net()
    push = Push(model, PushConfig())
    with pytest.raises(KeyError), push.listening():
        assert model[5]._forward_hooks
        raise KeyError
    assert not any(module._forward_hooks for module in model.modules())


def test_the_loss_gains_the_weighed_terms() -> None:
    config = PushConfig(ramp=0, lda=0.5, cov=2, align=0.1)
    loader = blobs(32)
    (plain,) = fit_(net(), loader, TrainConfig(epochs=1))
    (pushed,) = fit_(net(), loader, TrainConfig(epochs=1, push=config))
    terms = 0.5 * pushed["push_lda"] + 2 * pushed["push_cov"] + 0.1 * pushed["push_align"]
    assert pushed["push_loss"] == pytest.approx(terms, rel=1e-9)
    assert pushed["loss"] == pytest.approx(plain["loss"] + terms, rel=1e-6)
    assert pushed["train_accuracy"] == plain["train_accuracy"]


def test_a_push_of_no_weight_is_the_plain_training() -> None:
    nothing = PushConfig(lda=0, cov=0, align=0)
    plain, pushed = net(), net()
    (before,) = fit_(plain, blobs(32), TrainConfig(epochs=1))
    (after,) = fit_(pushed, blobs(32), TrainConfig(epochs=1, push=nothing))
    assert (after["loss"], after["push_loss"]) == (before["loss"], 0)
    for mine, theirs in zip(pushed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_push_and_local_teachers_go_together() -> None:
    config = PushConfig(ramp=0)
    (both,) = fit_(net(), blobs(32), TrainConfig(epochs=1, push=config, local=0.5))
    (plain,) = fit_(net(), blobs(32), TrainConfig(epochs=1))
    rest = 0.5 * (1 - both["local_information"])
    assert both["loss"] == pytest.approx(plain["loss"] + both["push_loss"] + rest, rel=1e-6)


def discriminants(x: Tensor, y: Tensor) -> float:
    """Σv of images, with a small ridge, by explicit matrices."""
    T, W, _ = (factor.double() for factor in factors(x, y))
    within = W.T @ W
    eye = torch.eye(len(within), dtype=torch.float64)
    inverse = torch.linalg.inv(within + 1e-3 * within.diagonal().mean() * eye)
    return float((inverse @ (T.T @ T - within)).trace())


@pytest.mark.parametrize("form", ["lda", "di"])
def test_digits_pushed_have_larger_discriminants_at_no_loss(form: str) -> None:
    data = load_data("digits", input_shape=(1, 8, 8), batch_size=128)
    loader = balanced_loader(data.train)
    x, y = map(torch.cat, zip(*data.calibration, strict=True))
    found = {}
    for push in (None, PushConfig(form=form)):  # type: ignore[arg-type]
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16), nn.ReLU(),
            nn.Linear(16, 10),
        )  # fmt: skip
        config = TrainConfig(epochs=12, lr=0.01, push=push)
        rows = fit_(model, loader, config, validation=data.validation)
        with torch.no_grad():
            found[push is None] = discriminants(model[:5](x), y), rows[-1]["validation_accuracy"]
    assert found[False][0] > 2 * found[True][0]
    assert found[False][1] > found[True][1] - 0.01


def test_a_killed_phase_ends_with_the_same_weights(tmp_path: Path) -> None:
    config = TrainConfig(epochs=4, push=PushConfig(ramp=0.6))
    whole = net()
    expected = fit_(whole, blobs(), config, validation=blobs())

    def kill(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    path, half = tmp_path / "fit.pt", net()
    with pytest.raises(KeyboardInterrupt):
        fit_(half, blobs(), config, validation=blobs(), checkpoint=path, on_epoch=kill)
    assert not any(module._forward_hooks for module in half.modules())
    resumed = net(seed=9)
    rows = fit_(resumed, blobs(), config, validation=blobs(), checkpoint=path)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    for key in ("loss", "push_loss", "push_lda", "push_cov", "push_align"):
        assert [row[key] for row in rows] == [row[key] for row in expected]


def test_batches_of_one_class_are_left_out_of_the_row() -> None:
    x = torch.randn(16, 8)
    batches = [(x, torch.zeros(16).long()), (x, torch.arange(16) % 4)]
    (row,) = fit_(net(), batches, TrainConfig(epochs=1, push=PushConfig()))
    assert row["push_loss"] > 0
    (row,) = fit_(net(), batches[:1], TrainConfig(epochs=1, push=PushConfig()))
    assert "push_loss" not in row


@pytest.mark.parametrize(
    ("model", "config", "error", "sentence"),
    [
        (net(), PushConfig(layer="fc7"), ConfigError, r"for 'fc7', which Sequential.*0, 3, 5"),
        (nn.Sequential(nn.ReLU()), PushConfig(), ConfigError, r"does not have.*: none\)"),
        (nn.Linear(8, 4), PushConfig(), ConfigError, r"training cannot change the input of"),
        (
            nn.Sequential(
                nn.Linear(8, 6), nn.Unflatten(1, (6, 1)), nn.Conv1d(6, 4, 1), nn.Flatten()
            ),
            PushConfig(),
            ConfigError,
            r"no linear layer produces the output of Sequential: name its.* push\.layer.*: 0\)",
        ),
        (
            nn.Sequential(nn.Linear(8, 8), nn.Unflatten(1, (2, 4)), nn.Flatten(0, 1),
                          nn.Linear(4, 2), nn.Unflatten(0, (32, 2)), nn.Flatten()),
            PushConfig(layer="3"),
            DataError,
            r"'3' reads 64 rows for 32 images",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_pushed_is_named(
    model: nn.Module, config: PushConfig, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        fit_(model, blobs(), TrainConfig(epochs=1, push=config))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_does_not_run_is_an_error() -> None:
    push = Push(Heads(), PushConfig(layer="unused"))
    with push.listening():
        push.model(torch.randn(24, 4))
        with pytest.raises(ConfigError, match="got no features from 'unused'"):
            push.read(torch.arange(24) % 3, 1.0)


def test_images_for_targets_are_an_error() -> None:
    images = torch.randn(2, 3, 8, 8)
    restorer = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    config = TrainConfig(epochs=1, push=PushConfig())
    with pytest.raises(ConfigError, match=r"targets are images: set train\.push to null"):
        fit_(restorer, [(images, images)], config)
    pairs = DataLoader(TensorDataset(images, images), batch_size=16)
    with pytest.raises(ConfigError, match=r"targets are images: set train\.push to null"):
        balanced_loader(pairs)


def test_a_diverging_layer_is_named() -> None:
    model = net()
    nn.init.constant_(model[0].weight, float("nan"))
    with pytest.raises(NonFiniteError, match=r"'5' reads NaN or infinity.*learning rate"):
        fit_(model, blobs(), TrainConfig(epochs=1, push=PushConfig()))


def test_settings_are_checked_and_come_back() -> None:
    config = TrainConfig(push=PushConfig(form="di", classes=5))
    assert from_dict(TrainConfig, to_dict(config)) == config
    assert from_dict(TrainConfig, to_dict(TrainConfig())).push is None
    assert from_dict(TrainConfig, {"push": {}}).push == PushConfig()
    for key, value in {"form": "lde", "ridge": 0, "ramp": 2, "classes": 1, "cov": -1}.items():
        with pytest.raises(ConfigError, match=rf"push\.{key} is"):
            from_dict(TrainConfig, {"push": {key: value}})
    with pytest.raises(ConfigError, match="weight"):
        from_dict(TrainConfig, {"push": {"weight": 1}})


def test_local_teachers_keep_their_weight() -> None:
    model = net().eval()
    teachers = LocalTeachers(model, weight=0.25)
    with teachers.listening():
        model(torch.randn(32, 8))
        found = teachers.read(torch.arange(32) % 4, done=0.0)
    assert found is not None
    loss, row = found
    assert float(loss.detach()) == pytest.approx(0.25 * (1 - float(row["local_information"])))
