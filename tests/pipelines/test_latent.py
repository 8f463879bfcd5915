"""Deep LDA through the main job: dimensions chosen, traced, cut by one threshold."""

from pathlib import Path

import pytest
import torch

from prunus.core.errors import ConfigError
from prunus.criteria import latent_utility
from prunus.data import load_data
from prunus.evaluation import accuracy
from prunus.graph import find_groups
from prunus.models import build_model
from prunus.pipelines import PruneConfig, RunConfig, load, run_prune
from prunus.pipelines.latent import choose_dimensions, principal_components
from prunus.runs.config import LatentConfig
from prunus.statistics import collect
from prunus.training import TrainConfig


def test_prune_by_traces_and_one_threshold(tmp_path: Path) -> None:
    config = RunConfig(
        model="lenet5",
        data="digits",
        budget="params=30%",
        export=(),
        train=TrainConfig(epochs=4),
        prune=PruneConfig(
            criterion="deep_lda",
            allocation="threshold",
            latent=LatentConfig(images_a_class=3),
            iterations=2,
            finetune=TrainConfig(epochs=1),
            final=TrainConfig(epochs=0),
            runtimes=(),
        ),
    )
    rows = run_prune(config, tmp_path / "run").record.rows
    latent = [row for row in rows if row["event"] == "latent"]
    assert [row["iteration"] for row in latent] == [1, 2]
    for row in latent:
        assert row["head"] == "fc2"
        assert row["traced_images"] == 30
        assert 1 <= row["kept"] <= row["width"]
        assert row["values"] == sorted(row["values"], reverse=True)
        assert len(row["discriminants"]) == 9
        assert row["counts"][-1] == row["width"]
        lda, pca = row["accuracy"]["lda"], row["accuracy"]["pca"]
        assert lda[-1] == pca[-1]  # all dimensions are all components
        assert all(a >= lda[-1] - 0.005 for a in lda[row["counts"].index(row["kept"]) :])
    result = next(row for row in rows if row["event"] == "result")
    assert result["pruned"]["params"] <= 0.3 * result["dense"]["params"]
    assert result["pruned"]["test_accuracy"] > 0.5
    assert load(tmp_path / "run").fc2.in_features < latent[0]["width"]


@pytest.fixture(scope="module")
def trained() -> tuple:
    torch.manual_seed(0)
    data = load_data("digits")
    model = build_model("lenet5", num_classes=10, input_shape=data.input_shape).eval()
    groups = find_groups(model, torch.zeros(1, *data.input_shape))
    latent = latent_utility(groups, collect(model, data.calibration, groups, batches=4))
    return model, groups, latent, data


@pytest.mark.parametrize("select", ["all", "otsu", "7"])
def test_dimensions_without_validation(trained: tuple, select: str) -> None:
    model, groups, latent, _ = trained
    kept, row = choose_dimensions(model, groups, latent, LatentConfig(select=select), [])
    alive = int((latent.values > 0).sum())
    assert row["kept"] == len(kept) == {"all": alive, "otsu": len(latent.otsu()), "7": 7}[select]
    assert "accuracy" not in row
    assert kept.tolist() == latent.order[: len(kept)].tolist()


def test_principal_components_are_uncorrelated_and_fall(trained: tuple) -> None:
    model, _, latent, data = trained
    V, mean = principal_components(latent)
    read: list[torch.Tensor] = []
    model.fc2.register_forward_pre_hook(lambda _, args: read.append(args[0].detach().double()))
    batches = [batch for batch, _ in zip(data.calibration, range(4), strict=False)]
    accuracy(model, batches)
    parts = (torch.cat(read) - mean) @ V
    covariance = parts.T @ parts / len(parts)
    variances = covariance.diagonal()
    assert (variances.diff() <= 1e-9).all()
    assert (covariance - variances.diag()).abs().max() < 1e-6 * variances.max()


def test_a_choice_that_is_none_is_refused() -> None:
    for wrong in ("best", "0", "-3", "1.5"):
        with pytest.raises(ConfigError, match="select"):
            from prunus.core import from_dict

            from_dict(LatentConfig, {"select": wrong}, "the settings")
