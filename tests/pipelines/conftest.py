"""A small trained network, and PS-iteration in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from prunus.data import DataSplits, load_data
from prunus.evaluation import LatencyTable, accuracy
from prunus.models import build_model
from prunus.pipelines import Journal, Loaders, PruneConfig, Session, Watch, ps_iteration
from prunus.plan import Budget, Plan
from prunus.training import TrainConfig, fit_

EXAMPLE = torch.zeros(1, 1, 28, 28)
Run = Callable[..., tuple[nn.Module, Plan, Journal]]


def quick(**changed: object) -> PruneConfig:
    """Return settings that take seconds."""
    settings = {
        "finetune": TrainConfig(epochs=1),
        "final": TrainConfig(epochs=1),
        "iterations": 2,
        "intervals": False,
        "inputs": False,
        **changed,
    }
    return PruneConfig(**settings)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def digits() -> DataSplits:
    return load_data("digits", batch_size=128)


@pytest.fixture(scope="session")
def lenet(digits: DataSplits) -> nn.Module:
    torch.manual_seed(0)
    model = build_model("lenet300", num_classes=10, input_shape=(1, 28, 28))
    fit_(model, digits.train, TrainConfig(epochs=8))
    assert accuracy(model, digits.validation) > 0.94
    return model


@pytest.fixture
def run(lenet: nn.Module, digits: DataSplits) -> Run:
    """Prune the network to a budget."""

    def start(
        budget: str,
        config: PruneConfig,
        folder: Path | None = None,
        table: LatencyTable | None = None,
    ) -> tuple[nn.Module, Plan, Journal]:
        session = Session(
            loaders=Loaders(
                train=digits.train, calibration=digits.calibration, validation=digits.validation
            ),
            fabric=Fabric(accelerator="cpu", devices=1),
            seed=0,
            journal=Journal(folder),
            watch=Watch(),
            table=table,
        )
        model, plan = ps_iteration(lenet, Budget.parse(budget), config, session, example=EXAMPLE)
        return model, plan, session.journal

    return start
