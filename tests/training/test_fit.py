import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from prunus.batches import Heads
from prunus.core import from_dict
from prunus.core.errors import ConfigError, DataError, NonFiniteError, WeightsError
from prunus.training import TrainConfig, distillation, fit_, task_loss
from prunus.training.schedule import plateaus


def blobs(n: int = 96, seed: int = 0) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = torch.randn(n, 8, generator=generator) + 4 * nn.functional.one_hot(y, 8)
    return DataLoader(TensorDataset(x, y), batch_size=16)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_training_learns(optimizer: str) -> None:
    model = network()
    rows = fit_(
        model,
        blobs(),
        TrainConfig(epochs=12, optimizer=optimizer, lr=0.02),
        validation=blobs(seed=1),
    )
    assert [row["epoch"] for row in rows] == list(range(1, 13))
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert rows[-1]["validation_accuracy"] > 0.95
    assert not model.training


def test_same_seed_same_weights_another_seed_others() -> None:
    models = [network() for _ in range(3)]
    for model, seed in zip(models, (5, 5, 6), strict=True):
        fit_(model, blobs(), TrainConfig(epochs=2), seed=seed)
    assert torch.equal(models[0][0].weight, models[1][0].weight)
    assert not torch.equal(models[0][0].weight, models[2][0].weight)


@pytest.mark.parametrize("old", [False, True], ids=["", "old checkpoint"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_checkpoint_of_any_epoch_ends_with_the_same_weights(
    optimizer: str, old: bool, tmp_path: Path
) -> None:
    config = TrainConfig(epochs=5, optimizer=optimizer)
    whole = network()
    expected = fit_(whole, blobs(), config, seed=3)

    class KilledError(Exception):
        pass

    def kill(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise KilledError

    path = tmp_path / "fit.pt"
    with pytest.raises(KilledError):
        fit_(network(), blobs(), config, seed=3, checkpoint=path, on_epoch=kill)
    if old:  # as version 0.1 wrote it at first: two numbers of the schedule
        state = torch.load(path, weights_only=True)
        schedule = state["schedule"]
        state["schedule"] = {
            "last_epoch": schedule["last_epoch"],
            "step": schedule["_step_count"],
        }
        torch.save(state, path)
    resumed = network(seed=9)  # whatever it holds is replaced
    rows = fit_(resumed, blobs(), config, seed=3, checkpoint=path)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert [r["loss"] for r in rows] == [r["loss"] for r in expected]
    assert [r["lr"] for r in rows] == [r["lr"] for r in expected]


def test_a_damaged_checkpoint_is_one_sentence_and_restores_nothing(tmp_path: Path) -> None:
    path = tmp_path / "fit.pt"
    config = TrainConfig(epochs=1)
    trained = network()
    fit_(trained, blobs(), config, checkpoint=path)
    whole = path.read_bytes()
    ways = {"empty": b"", "cut": whole[: len(whole) // 2], "text": b"no checkpoint"}
    for at in range(200, len(whole), len(whole) // 40):  # one bit
        ways[f"bit at {at}"] = whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]
    undisturbed = network(seed=5)
    harmless = 0
    for way, content in ways.items():
        path.write_bytes(content)
        model = network(seed=5)
        try:
            fit_(model, blobs(), config, checkpoint=path)
        except WeightsError as error:
            assert str(error).startswith(str(path)), way
            same = model.state_dict().items()
            assert all(torch.equal(t, undisturbed.state_dict()[n]) for n, t in same), way
        else:  # padding between the entries
            harmless += 1
            assert torch.equal(model[0].weight, trained[0].weight)
    assert harmless < len(ways) / 2
    path.write_bytes(whole)
    with pytest.raises(WeightsError, match=r"of another network's training: remove fit\.pt"):
        fit_(nn.Linear(8, 3), blobs(), config, checkpoint=path)
    with pytest.raises(WeightsError, match=r"the state of another training: remove fit\.pt"):
        fit_(network(), blobs(), TrainConfig(epochs=2), checkpoint=path)


def test_channels_last_trains_the_same_network_and_puts_it_back(tmp_path: Path) -> None:
    def images(noted: list[bool]) -> nn.Sequential:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 3),
        )
        model[0].register_forward_hook(
            lambda _m, _x, out: noted.append(out.is_contiguous(memory_format=torch.channels_last))
        )
        return model

    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(48, 3, 6, 6, generator=generator), torch.arange(48) % 3
    loader = DataLoader(TensorDataset(x, y), batch_size=16)
    config = TrainConfig(epochs=3, distill=0.5)
    trained, noted = {}, {}
    for channels_last in (False, True):
        noted[channels_last] = []
        trained[channels_last] = images(noted[channels_last])
        teacher = images([])
        fit_(trained[channels_last], loader, config, teacher=teacher, channels_last=channels_last)
        assert trained[channels_last][0].weight.is_contiguous()
        assert teacher[0].weight.is_contiguous()
    assert all(noted[True]) and not any(noted[False])
    for plain, other in zip(trained[False].parameters(), trained[True].parameters(), strict=True):
        torch.testing.assert_close(plain, other, rtol=1e-3, atol=1e-5)

    resumed = images([])
    checkpoint = tmp_path / "fit.pt"

    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_(resumed, loader, config, channels_last=True, teacher=images([]), checkpoint=checkpoint,
             on_epoch=stop)  # fmt: skip
    resumed = images([])
    fit_(resumed, loader, config, channels_last=True, teacher=images([]), checkpoint=checkpoint)
    for whole, other in zip(trained[True].parameters(), resumed.parameters(), strict=True):
        assert torch.equal(whole, other)


def test_frozen_parameters_stay() -> None:
    model = network()
    model[0].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    fit_(model, blobs(), TrainConfig(epochs=1))
    assert torch.equal(model[0].weight, before["0.weight"])
    assert not torch.equal(model[3].weight, before["3.weight"])


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    rows = fit_(network(), blobs(), TrainConfig(epochs=10, warmup=0.3, lr=0.1))
    rates = [row["lr"] for row in rows]
    peak = rates.index(max(rates))
    assert 1 <= peak <= 4
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 0.1 * max(rates)


def test_distillation_is_the_softened_divergence() -> None:
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    T = 3.0
    p, q = (teacher / T).softmax(1), (student / T).softmax(1)
    expected = T**2 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(distillation(student, teacher, T), expected)
    torch.testing.assert_close(distillation(student, student, T), torch.zeros(()))


def test_distillation_pulls_the_student_to_the_teacher() -> None:
    teacher = network(seed=1).eval()
    x = torch.cat([batch for batch, _ in blobs()])
    gaps = []
    for weight in (0.0, 1.0):
        student = network(seed=2)
        fit_(
            student,
            blobs(),
            TrainConfig(epochs=20, lr=0.02, distill=weight),
            teacher=teacher,
        )
        with torch.no_grad():
            gaps.append(float(distillation(student(x), teacher(x), 1.0)))
    assert gaps[1] < 0.1 * gaps[0]


def test_auxiliary_heads_count_three_tenths() -> None:
    main, aux, y = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    ce = nn.functional.cross_entropy
    expected = ce(main, y) + 0.3 * ce(aux, y)
    torch.testing.assert_close(task_loss(Heads((main, aux)), y, TrainConfig()), expected)
    torch.testing.assert_close(task_loss((main, None), y, TrainConfig()), ce(main, y))


def test_images_are_compared_pixel_by_pixel() -> None:
    main, small, target = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4), torch.randn(2, 3, 8, 8)
    expected = (main - target).abs().mean()
    torch.testing.assert_close(task_loss(main, target, TrainConfig()), expected)
    squared = task_loss(main, target, TrainConfig(loss="mse"))
    torch.testing.assert_close(squared, (main - target).square().mean())
    half = nn.functional.interpolate(target, (4, 4), mode="bicubic", antialias=True)
    expected = expected + (small - half).abs().mean()
    torch.testing.assert_close(task_loss(Heads((main, small)), target, TrainConfig()), expected)
    torch.testing.assert_close(distillation(main, target, 4.0), (main - target).abs().mean())


def test_a_loss_that_does_not_fit_the_targets_is_an_error() -> None:
    images, labels = torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
    with pytest.raises(DataError, match=r"'l1' does not fit targets of torch.int64"):
        task_loss(torch.randn(2, 5), labels, TrainConfig(loss="l1"))
    with pytest.raises(DataError, match=r"'cross_entropy' does not fit targets of torch.float32"):
        task_loss(images, images, TrainConfig(loss="cross_entropy"))
    restorer = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1))
    with pytest.raises(DataError, match=r"the targets are images: set train\.local to 0"):
        fit_(restorer, [(images, images)], TrainConfig(epochs=1, local=0.1))
    with pytest.raises(DataError, match="use data with the scale of the network"):
        task_loss(images, torch.randn(2, 3, 16, 16), TrainConfig())


def test_a_restorer_learns_and_is_measured_in_decibel() -> None:
    torch.manual_seed(0)
    clean = torch.rand(32, 1, 16, 16)
    pairs = DataLoader(TensorDataset(0.5 * clean, clean), batch_size=8)
    model = nn.Conv2d(1, 1, 3, padding=1)
    config = TrainConfig(epochs=20, lr=0.05, optimizer="adam", schedule="constant")
    rows = fit_(model, pairs, config, validation=pairs)
    assert rows[-1]["validation_psnr"] > rows[0]["validation_psnr"] + 6  # half the error
    assert 0 < rows[-1]["validation_ssim"] <= 1
    assert "train_accuracy" not in rows[-1]


def rates(**changed: object) -> list[float]:
    config = TrainConfig(epochs=8, warmup=0.0, lr=1.0, **changed)  # type: ignore[arg-type]
    loader = blobs(32)  # two steps an epoch
    return [row["lr"] for row in fit_(network(), loader, config)]


def test_schedules() -> None:
    assert rates(schedule="constant") == [1.0] * 8
    steps = rates(schedule="step", milestones=(0.25, 0.75), gamma=0.5)
    assert steps == [1.0] * 2 + [0.5] * 4 + [0.25] * 2


def test_a_plateau_lowers_the_rate_and_a_resumed_phase_knows_it(tmp_path: Path) -> None:
    losses = [3.0, 2.0, 2.0, 1.99999, 2.5, 1.0, 1.0, 1.0]
    counts = [plateaus(losses[:n], patience=2) for n in range(len(losses) + 1)]
    assert counts == [0, 0, 0, 0, 1, 1, 1, 1, 2]

    # Labels that nothing can learn: the loss stalls.
    x, y = torch.zeros(32, 8), torch.arange(32) % 3
    loader = DataLoader(TensorDataset(x, y), batch_size=16)
    config = TrainConfig(
        epochs=9, warmup=0.0, lr=1e-6, schedule="plateau", patience=2, gamma=0.5, weight_decay=0
    )
    whole = fit_(nn.Linear(8, 3, bias=False), loader, config)
    assert [row["lr"] for row in whole] == [1e-6 * 0.5**n for n in (0, 0, 0, 1, 1, 2, 2, 3, 3)]

    class KilledError(Exception):
        pass

    def kill(row: dict[str, float]) -> None:
        if row["epoch"] == 4:
            raise KilledError

    path = tmp_path / "fit.pt"
    with pytest.raises(KilledError):
        fit_(nn.Linear(8, 3, bias=False), loader, config, checkpoint=path, on_epoch=kill)
    again = fit_(nn.Linear(8, 3, bias=False), loader, config, checkpoint=path)
    assert [row["lr"] for row in again] == [row["lr"] for row in whole]


def test_a_diverging_loss_names_the_epoch() -> None:
    model = network()
    nn.init.constant_(model[0].weight, float("inf"))
    with pytest.raises(NonFiniteError, match=r"epoch 1 of training Sequential.*learning rate"):
        fit_(model, blobs(), TrainConfig(epochs=2))


def test_an_empty_loader_is_an_error() -> None:
    with pytest.raises(DataError, match="no batch"):
        fit_(network(), [], TrainConfig(epochs=1))


def test_settings_are_checked_when_made() -> None:
    with pytest.raises(ConfigError, match="lr is -1"):
        from_dict(TrainConfig, {"lr": -1.0})
    with pytest.raises(ConfigError, match="nesterov"):
        from_dict(TrainConfig, {"nesterov": 0.9})
    assert from_dict(TrainConfig, {"lr": "1e-3"}).lr == 1e-3


def test_a_last_batch_of_one_is_passed_over_where_it_has_no_variance() -> None:
    def net(*layers: nn.Module) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), *layers, nn.Linear(6, 3))

    batches = [(torch.randn(n, 4), torch.arange(n) % 3) for n in (8, 8, 1)]
    (row,) = fit_(net(nn.BatchNorm1d(6)), batches, TrainConfig(epochs=1))
    assert row["batches_passed_over"] == 1
    (row,) = fit_(net(), batches, TrainConfig(epochs=1))
    assert "batches_passed_over" not in row
    with pytest.raises(DataError, match="two in a batch where a BatchNorm"):
        fit_(net(nn.BatchNorm1d(6)), batches[2:], TrainConfig(epochs=1))


def test_numbers_are_fitted_by_their_squared_error() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    loader = [(x, x.sum(1))]
    net = nn.Linear(4, 1)
    first, *_, last = fit_(
        net, loader, TrainConfig(epochs=60, lr=0.1, optimizer="adamw"), validation=loader
    )
    assert "train_accuracy" not in last
    expected = (net(x)[:, 0] - x.sum(1)).detach().square().mean().item()
    assert last["validation_mse"] == pytest.approx(expected, rel=1e-5)
    assert last["validation_mse"] < 0.5 * first["validation_mse"]


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.uint8])
def test_labels_of_any_integer_type(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    loader = [(torch.randn(8, 4), (torch.arange(8) % 2).to(dtype)[:, None])]
    (row,) = fit_(nn.Linear(4, 2), loader, TrainConfig(epochs=1), validation=loader)
    assert 0 <= row["train_accuracy"] <= 1
    assert 0 <= row["validation_accuracy"] <= 1


def test_only_the_named_output_is_trained() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"first": self.a(x), "second": self.b(x)}

    net, loader = Several(), [(torch.randn(9, 4), torch.arange(9) % 3)]
    before = net.a.weight.clone()
    with pytest.raises(DataError, match=r"first \(9, 3\), second \(9, 3\): pass output="):
        fit_(net, loader, TrainConfig(epochs=1))
    fit_(net, loader, TrainConfig(epochs=1, weight_decay=0), output="second")
    assert torch.equal(net.a.weight, before)
    assert not torch.equal(net.b.weight, before)
