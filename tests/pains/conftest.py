"""One network, trained on digits and pruned in one shot, for the pains that need accuracy."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.data import DataSplits, load_data
from prunus.pipelines import Report
from tests.pains.net import Net

ONE_SHOT = prunus.PruneConfig(
    iterations=1,
    finetune=prunus.TrainConfig(epochs=0),
    final=prunus.TrainConfig(epochs=0),
    round_to=4,
)


@dataclass(frozen=True)
class Digits:
    """The data, the dense network, what `prunus.prune` made of it, and the folder it saved."""

    data: DataSplits
    example: Tensor
    dense: nn.Module
    pruned: nn.Module
    report: Report
    folder: Path


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    data = load_data("digits", input_shape=(1, 8, 8), batch_size=64)
    torch.manual_seed(0)
    dense = Net()
    prunus.fit_(dense, data.train, prunus.TrainConfig(epochs=5, lr=0.05))
    few = list(data.calibration)[:6]
    pruned, report = prunus.prune(
        dense, few, "macs=30%", validation=data.validation, config=ONE_SHOT
    )
    folder = tmp_path_factory.mktemp("pruned")
    report.save(folder)
    return Digits(data, torch.zeros(1, 1, 8, 8), dense.eval(), pruned, report, folder)
