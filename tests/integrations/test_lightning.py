"""Pruning in the middle of a Lightning training."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import prunus
from prunus.core.errors import BudgetError, ConfigError, PlanError, WeightsError
from prunus.integrations.lightning import PruningCallback, load_checkpoint_
from prunus.pipelines import PruneConfig
from prunus.plan import Plan
from tests.borders.untouched import state
from tests.integrations.digits import digits, network

pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

QUICK = PruneConfig(blocks=2, intervals=False)


def lit(base: Any) -> Any:
    """A module of `lightning` or of `pytorch_lightning`."""

    class Module(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = network()
            self.losses: list[float] = []
            self.rates: list[float] = []
            self.seen: list[float] = []

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, index: int) -> Tensor:
            loss = F.cross_entropy(self(batch[0]), batch[1])
            self.losses.append(float(loss.detach()))
            self.rates.append(self.optimizers().param_groups[0]["lr"])
            self.seen.append(float(batch[0].sum()))
            return loss

        def test_step(self, batch: Any, index: int) -> None:
            self.log("loss", F.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            wide = [p for p in self.parameters() if p.dim() > 1]
            flat = [p for p in self.parameters() if p.dim() <= 1]
            groups = [{"params": wide, "weight_decay": 0.1}, {"params": flat, "weight_decay": 0.0}]
            self.optimizer = torch.optim.AdamW(groups, lr=3e-3)
            schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 3e-3, total_steps=100)
            each = {"scheduler": schedule, "interval": "step"}
            return {"optimizer": self.optimizer, "lr_scheduler": each}

    return Module()


def module() -> Any:
    return lit(pl.LightningModule)


def loader(shuffle: bool = False) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*digits(256)), 64, shuffle=shuffle)


def callback(budget: str = "macs=40%", **given: Any) -> PruningCallback:
    options: dict[str, Any] = {"at_epochs": [1, 2], "config": QUICK}
    return PruningCallback(budget, **{**options, **given})


def trainer(*callbacks: Any, epochs: int = 4, library: Any = pl, **given: Any) -> Any:
    options = {"logger": False, "enable_checkpointing": False, **given}
    return library.Trainer(
        max_epochs=epochs, callbacks=list(callbacks), accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip


def same(one: Any, other: Any) -> bool:
    x = digits(64)[0]
    with torch.no_grad():
        return torch.equal(one.eval()(x), other.eval()(x))


@pytest.mark.parametrize("library", [pl, pytorch_lightning], ids=["lightning", "pytorch_lightning"])
def test_prunes_in_mid_training(library: Any, tmp_path: Path) -> None:
    model, pruning = lit(library.LightningModule), callback(out=tmp_path)
    run = trainer(pruning, library=library)
    run.fit(model, loader())

    optimizer = run.optimizers[0]
    assert optimizer is model.optimizer
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.0]
    trained = [p for g in optimizer.param_groups for p in g["params"]]
    assert {id(p) for p in trained} == {id(p) for p in model.parameters()}
    for p in trained:
        assert (
            optimizer.state[p]["exp_avg"].shape == optimizer.state[p]["exp_avg_sq"].shape == p.shape
        )
        assert int(optimizer.state[p]["step"]) == len(model.losses) == 16

    assert all(torch.isfinite(torch.tensor(model.losses)))
    assert model.losses[-1] < model.losses[0]
    groups = prunus.find_groups(model, digits(1)[0])
    dense = prunus.find_groups(module(), digits(1)[0])
    assert groups.total_macs <= 0.4 * dense.total_macs < pruning.history[0]["macs"]
    assert [row["epoch"] for row in pruning.history] == [1, 2]
    assert Plan.from_json((tmp_path / "plan.json").read_text()) == pruning.plan
    assert same(prunus.load(tmp_path, model=module()), model)


def test_training_is_the_same_but_for_the_cut() -> None:
    """Learning rates and the order of the images are those of a training without the callback."""
    runs = []
    for callbacks in ([], [callback()]):
        model = module()
        torch.manual_seed(5)
        trainer(*callbacks).fit(model, loader(shuffle=True))
        runs.append(model)
    assert runs[0].rates == runs[1].rates
    assert runs[0].seen == runs[1].seen
    assert runs[0].losses[:4] == runs[1].losses[:4]
    assert runs[0].losses[4:] != runs[1].losses[4:]


class Kill(pl.Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("killed", [1, 2, 3])
def test_goes_on_after_a_kill(killed: int, tmp_path: Path) -> None:
    """Killed before, between or after the steps: the same weights at the end."""
    whole, pruning = module(), callback()
    trainer(pruning).fit(whole, loader())

    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    with pytest.raises(SystemExit):
        trainer(callback(), keep, Kill(killed), enable_checkpointing=True).fit(module(), loader())
    path = tmp_path / f"epoch={killed - 1}.ckpt"
    again, second, keep = module(), callback(), ModelCheckpoint(tmp_path, save_top_k=0)
    run = trainer(second, keep, enable_checkpointing=True)
    run.fit(again, loader(), ckpt_path=path, weights_only=True)
    assert second.plan == pruning.plan
    assert len(second.history) == 2
    assert same(again, whole)
    assert "on_load_checkpoint" not in vars(again)


def test_checkpoints_load(tmp_path: Path) -> None:
    model, pruning = module(), callback(network="net")
    run = trainer(pruning)
    run.fit(model, loader())
    assert all(
        name[0].isdigit() for name in pruning.plan.modules
    )  # names of `net`, not of the module
    run.save_checkpoint(tmp_path / "pruned.ckpt")
    fresh = module()
    load_checkpoint_(fresh, tmp_path / "pruned.ckpt", network="net")
    assert same(fresh, model)
    with pytest.raises(PlanError, match="does not fit"):
        load_checkpoint_(fresh, tmp_path / "pruned.ckpt", network="net")
    broken = torch.load(tmp_path / "pruned.ckpt", weights_only=True)
    name = list(broken["state_dict"])[-1]
    broken["state_dict"][name] = torch.zeros(2)
    torch.save(broken, tmp_path / "broken.ckpt")
    fresh = module()
    before = state(fresh)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_checkpoint_(fresh, tmp_path / "broken.ckpt", network="net")
    assert state(fresh) == before

    dense = module()
    run = trainer(callback("macs=60%", network="net", at_epochs=[3]), epochs=4)
    run.fit(dense, loader())
    with pytest.raises(PlanError, match="after 2 steps, but this network has had 1"):
        run.test(dense, loader(), ckpt_path=tmp_path / "pruned.ckpt", weights_only=True)


def test_a_checkpoint_without_a_plan(tmp_path: Path) -> None:
    model = module()
    run = trainer(epochs=1)
    run.fit(model, loader())
    run.save_checkpoint(tmp_path / "dense.ckpt")
    with pytest.raises(WeightsError, match="contains no plan"):
        load_checkpoint_(module(), tmp_path / "dense.ckpt")
    trainer(callback()).fit(model, loader(), ckpt_path=tmp_path / "dense.ckpt", weights_only=True)


def test_refusals_come_before_training() -> None:
    for given, error, words in (
        ({"budget": "params=1"}, BudgetError, "the least is"),
        ({"at_epochs": [1, 9]}, ConfigError, "training has 4 epochs"),
        ({"network": "backbone"}, ConfigError, "no such module, give one of: net"),
    ):
        model = module()
        with pytest.raises(error, match=words):
            trainer(callback(**given)).fit(model, loader())
        assert not model.losses
