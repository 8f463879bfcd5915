"""`prune` on networks whose weights other tensors compute, from the network to `load`."""

from pathlib import Path

import pytest
import torch

import prunus
from tests.modules.test_reparametrised import KINDS, build, old

ONE_SHOT = prunus.PruneConfig(
    iterations=1, finetune=prunus.TrainConfig(epochs=0), final=prunus.TrainConfig(epochs=0)
)


@old
@pytest.mark.parametrize("name", ["new weight norm", "old spectral norm", "masks"])
def test_it_is_pruned_said_and_loaded_again(name: str, tmp_path: Path) -> None:
    model = build(name)
    x = torch.randn(16, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    before = {key: t.clone() for key, t in model.state_dict().items()}
    loader = [(x, torch.arange(16) % 4)]
    small, report = prunus.prune(model, loader, "params=60%,bytes=60%", config=ONE_SHOT)
    assert all(torch.equal(before[key], t) for key, t in model.state_dict().items())
    report.save(tmp_path)
    assert "Before the first cut, the" in (tmp_path / "report.html").read_text()
    again = prunus.load(tmp_path, model=build(name))
    assert torch.equal(again(x), small(x))
    assert KINDS[name][0] in str(prunus.diagnose(model, x[:1])).replace("\n", "")
