"""Give a pruned network back: the plan replayed on its constructor, then the weights."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from prunus.core import read_yaml
from prunus.core.errors import RunFolderError
from prunus.models import build_model, load_weights_
from prunus.pipelines.config import RunConfig
from prunus.plan import Plan
from prunus.surgery import replay_

__all__ = ["load", "require_finished"]


def load(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Return the pruned network of a run folder, in eval mode, on the CPU.

    `model` is a freshly built dense network; without it, the constructor that `config.yaml`
    names is called. Nothing is unpickled.

    Raises:
        RunFolderError: the folder is missing or the run has not finished.
        PlanError, WeightsError: the network given is not the one that was pruned.

    Example:
        >>> model = prunus.load("runs/demo")  # doctest: +SKIP
    """
    folder = Path(folder)
    require_finished(folder)
    if model is None:
        if not (folder / "config.yaml").exists():
            raise RunFolderError(
                f"{folder} does not say how its network is built: pass model=<a freshly built "
                "dense network>"
            )
        config = read_yaml(RunConfig, folder / "config.yaml")
        if config.num_classes is None or config.input_shape is None:
            raise RunFolderError(
                f"{folder / 'config.yaml'} lacks num_classes or input_shape: pass model=<a freshly "
                "built dense network>"
            )
        model = build_model(
            config.model, num_classes=config.num_classes, input_shape=config.input_shape
        )
    replay_(model, Plan.from_json((folder / "plan.json").read_text()))
    load_weights_(model, folder / "model.safetensors")
    return model.eval()


def require_finished(folder: Path) -> None:
    """Raise `RunFolderError` where `folder` does not hold the network of a finished run."""
    for name in ("plan.json", "model.safetensors"):
        if not (folder / name).exists():
            raise RunFolderError(
                f"{folder} has no {name}: give the folder of a finished run "
                "(`prunus prune … --resume` finishes one)"
            )
