"""Hugging Face: their classifiers pruned as any network, and inside their Trainer."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import prunus
from prunus.core.errors import BudgetError, ConfigError, RunFolderError
from prunus.integrations.transformers import PruningCallback
from prunus.pipelines import PruneConfig
from prunus.surgery import mask_, replay_
from prunus.training import TrainConfig
from tests.conftest import random_plan, randomise_norms_
from tests.integrations.digits import digits

SMALL = {"num_channels": 1, "num_labels": 10}
KINDS = {
    "vit": lambda: hf.ViTForImageClassification(
        hf.ViTConfig(image_size=8, patch_size=2, hidden_size=24, num_hidden_layers=2,
                     num_attention_heads=4, intermediate_size=32, **SMALL)),
    "resnet": lambda: hf.ResNetForImageClassification(
        hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1],
                        layer_type="basic", **SMALL)),
    "convnext": lambda: hf.ConvNextForImageClassification(
        hf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=2,
                          **SMALL)),
    "swin": lambda: hf.SwinForImageClassification(
        hf.SwinConfig(image_size=16, patch_size=1, embed_dim=12, depths=[2, 2], num_heads=[2, 4],
                      window_size=4, **SMALL)),
}  # fmt: skip


def build(kind: str = "vit") -> Any:
    torch.manual_seed(0)
    return KINDS[kind]()


@pytest.mark.parametrize("kind", KINDS)
def test_cut_is_masked(kind: str) -> None:
    """Every group of each, heads among them; numbers that modules read follow."""
    model = randomise_norms_(build(kind)).eval()
    x = torch.rand(3, 1, *[getattr(model.config, "image_size", 8)] * 2)
    found = prunus.diagnose(model, x)
    assert found.status == "healthy"
    groups = prunus.find_groups(model, x)
    plan = random_plan(groups, seed=2)
    masked, cut = mask_(copy.deepcopy(model), plan), replay_(copy.deepcopy(model), plan)
    with torch.no_grad():
        expected, got = masked(x).logits, cut(x).logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_heads_go_whole() -> None:
    model = build()
    groups = prunus.find_groups(model, digits(1)[0])
    group = groups["vit.layers.0.attention.q_proj"]
    assert group.units == 4
    replay_(model, prunus.plan.plan_units(groups, {group.name: [1, 2]}))
    assert model.vit.layers[0].attention.num_attention_heads == 2
    assert model.vit.layers[0].attention.q_proj.out_features == 12


def test_pipelines_take_their_outputs(tmp_path: Path) -> None:
    """`prune` trains and measures on logits, exports, and the folder gives the model back."""
    images, labels = digits(192)
    loader = DataLoader(TensorDataset(images, labels), 64)
    once = TrainConfig(epochs=1, distill=0.5, local=0.1)
    config = PruneConfig(iterations=1, blocks=1, finetune=once, final=TrainConfig(epochs=0))
    small, report = prunus.prune(build("resnet"), loader, "params=60%", config=config)
    report.save(tmp_path)
    again = prunus.load(tmp_path, model=build("resnet"))
    with torch.no_grad():
        assert torch.equal(again(images).logits, small(images).logits)


def data(count: int = 192) -> list[dict[str, Any]]:
    return [{"pixel_values": x, "labels": int(y)} for x, y in zip(*digits(count), strict=True)]


def callback(budget: str = "macs=50%", **given: Any) -> PruningCallback:
    quick = PruneConfig(blocks=2, intervals=False)
    return PruningCallback(budget, **{"at_epochs": [1, 2], "config": quick, **given})


def trainer(model: nn.Module, folder: Path, *callbacks: Any, **given: Any) -> hf.Trainer:
    options: dict[str, Any] = {
        "num_train_epochs": 4, "per_device_train_batch_size": 64, "learning_rate": 3e-3,
        "save_strategy": "epoch", "report_to": [], "use_cpu": True, "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }  # fmt: skip
    settings = hf.TrainingArguments(output_dir=str(folder), **{**options, **given})
    return hf.Trainer(
        model, settings, train_dataset=data(), eval_dataset=data(8), callbacks=list(callbacks)
    )


def same(one: nn.Module, other: nn.Module) -> bool:
    x = digits(64)[0]
    with torch.no_grad():
        return torch.equal(one.eval()(x).logits, other.eval()(x).logits)


def test_prunes_in_mid_training_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    model, pruning = build(), callback(out=tmp_path)
    run = trainer(model, tmp_path, pruning)
    run.train()
    run.save_model(str(tmp_path))

    optimizer = run.optimizer.optimizer
    trained = [p for g in optimizer.param_groups for p in g["params"]]
    assert {id(p) for p in trained} == {id(p) for p in model.parameters()}
    assert all(optimizer.state[p]["exp_avg"].shape == p.shape for p in trained)
    losses = [row["train_loss"] for row in run.state.log_history if "train_loss" in row]
    assert torch.isfinite(torch.tensor(losses)).all()
    groups = prunus.find_groups(model, digits(1)[0])
    dense = prunus.find_groups(build(), digits(1)[0])
    assert groups.total_macs <= 0.5 * dense.total_macs < pruning.history[0]["macs"]
    assert same(prunus.load(tmp_path, model=build()), model)

    for checkpoint in ("checkpoint-3", "checkpoint-6", "checkpoint-9"):  # before, between, after
        folder = tmp_path / checkpoint
        prunus.load(folder, model=build())
        second = callback()
        again = second.resume_(build(), folder)
        trainer(again, tmp_path / "again", second).train(resume_from_checkpoint=str(folder))
        assert second.plan == pruning.plan
        assert len(second.history) == 2
        assert same(again, model)


def test_batches_of_another_form(tmp_path: Path) -> None:
    """What a batch is called is the user's: `reader=` says what is what."""

    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build("resnet")

        def forward(self, image: torch.Tensor, answer: Any = None) -> Any:
            return self.inner(image, answer)

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images = torch.stack([row["pixel_values"] for row in rows])
        return {"image": images, "answer": torch.tensor([row["labels"] for row in rows])}

    once = {"at_epochs": [1], "reader": lambda batch: (batch["image"], batch["answer"])}
    pruning = callback(**once)
    settings = hf.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=2, per_device_train_batch_size=64,
        save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
        dataloader_pin_memory=False, remove_unused_columns=False,
    )  # fmt: skip
    model = Renamed()
    hf.Trainer(
        model, settings, train_dataset=data(), data_collator=collate, callbacks=[pruning]
    ).train()
    assert pruning.history


def test_refusals_come_before_training(tmp_path: Path) -> None:
    for given, options, error, words in (
        ({"budget": "params=1"}, {}, BudgetError, "the least is"),
        ({"at_epochs": [1, 9]}, {}, ConfigError, "training has 4 epochs"),
        ({}, {"load_best_model_at_end": True, "eval_strategy": "epoch"}, ConfigError, "load_best"),
        ({}, {"torch_compile": True}, ConfigError, "torch_compile"),
    ):
        model = build()
        before = copy.deepcopy(model)
        run = trainer(model, tmp_path, callback(**given), **options)
        with pytest.raises(error, match=words):
            run.train()
        assert same(model, before)
    with pytest.raises(RunFolderError, match=r"has no pruning\.json"):
        callback().resume_(build(), tmp_path)
    (tmp_path / "pruning.json").write_bytes(b'{"plan": ')
    with pytest.raises(RunFolderError, match=r"pruning\.json is not JSON"):
        callback().resume_(build(), tmp_path)
    (tmp_path / "pruning.json").write_bytes(b'{"plan": "\xfc"}')
    with pytest.raises(RunFolderError, match=r"pruning\.json is not a text file in UTF-8"):
        callback().resume_(build(), tmp_path)
