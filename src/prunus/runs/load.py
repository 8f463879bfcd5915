"""Rebuild a pruned network: the plan replayed on its constructor, then the weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from prunus.core import (
    RECORD,
    PlanError,
    RunFolderError,
    WeightsError,
    keeping_random_state,
    read_text,
    read_yaml,
    require_regular,
    require_sealed,
)
from prunus.models import build_model, load_weights_, source_file_of
from prunus.modules import SelectLinear, bake_, reparametrised, rolling_back
from prunus.plan import Plan
from prunus.runs.config import RunConfig
from prunus.surgery import replay_

__all__ = [
    "Shape",
    "build_dense",
    "load",
    "read_plan",
    "rebuild",
    "require_finished",
    "require_intact",
]

Shape = tuple[int, int, int]


@keeping_random_state("load")
def load(
    folder: str | Path,
    model: nn.Module | None = None,
    *,
    dense: bool = False,
    trust: bool = False,
) -> nn.Module:
    """Return the pruned network of a run folder, in eval mode, on the CPU.

    `model` is a freshly built dense network, which is changed in place and returned, or left as it
    is where anything is raised; without it, the constructor that `config.yaml` names is called.
    Nothing is unpickled. With `dense`, the network before any cut is returned,
    with the weights of `dense.safetensors`.

    Every file that is read must have the SHA-256 that the run's journal records. `trust` says that
    the folder is your own: the source file that `config.yaml` names as `FILE.py:factory` is run,
    and a file that no journal vouches for is used.

    Raises:
        RunFolderError: the folder is missing, the run has not finished, a file is damaged, or the
            folder does not specify how its network is built, or only by code that is not trusted.
        PlanError, WeightsError: the given network is not the one that was pruned.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> loader = [(torch.randn(32, 4), torch.arange(32) % 2)]
        >>> untrained = prunus.TrainConfig(epochs=0)
        >>> config = prunus.PruneConfig(iterations=1, finetune=untrained, final=untrained)
        >>> small, report = prunus.prune(net, loader, "macs=50%", config=config, device="cpu")
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = report.save(folder)
        ...     again = prunus.load(folder, model=net)
        >>> torch.equal(again[0].weight, small[0].weight)
        True
    """
    folder = Path(folder)
    require_finished(folder)
    require_intact(folder, dense=dense, trust=trust)
    if model is None:
        model, _ = build_dense(folder, trust=trust)
    return rebuild(folder, model, dense=dense)


def rebuild(folder: Path, model: nn.Module, *, dense: bool = False) -> nn.Module:
    """Return the network of a run, made of the freshly built dense one; no seal is checked."""
    with rolling_back(model):  # `load_weights_`, which alone writes into tensors, does so too
        return _rebuilt_(model, folder, dense=dense).eval()


def _rebuilt_(model: nn.Module, folder: Path, *, dense: bool) -> nn.Module:
    """Give a dense network the structure and the weights of a run's."""
    _bake_(model, folder / ("dense.safetensors" if dense else "model.safetensors"))
    if dense:
        load_weights_(model, folder / "dense.safetensors", checked=True)
        return model
    plan = read_plan(folder / "plan.json")
    try:
        replay_(model, plan)
    except PlanError as error:
        raise PlanError(f"{folder / 'plan.json'}: {error}") from error
    _require_selected(model, folder / "model.safetensors")
    load_weights_(model, folder / "model.safetensors", checked=True)
    return model


def require_intact(folder: Path, *, dense: bool = False, trust: bool = False) -> None:
    """Raise `RunFolderError` if a file that a network is rebuilt from is not what was sealed.

    A file without a seal will do with `trust`, or where there is no run but a plan and weights
    alone, as in a trainer's checkpoint.
    """
    weights = ("dense.safetensors",) if dense else ("plan.json", "model.safetensors")
    alone = not any((folder / name).exists() for name in ("config.yaml", RECORD))
    needed = () if trust or alone else weights
    require_sealed(folder, "config.yaml", "plan.json", *weights, needed=needed)


def _require_selected(model: nn.Module, path: Path) -> None:
    """Raise `WeightsError` if the inputs that a layer selects in the file are not the plan's."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, SelectLinear)}
    require_regular(path, raising=WeightsError)
    try:
        with safe_open(path, framework="pt") as file:
            held = set(file.keys())
            found = {n: file.get_tensor(f"{n}.index") for n in layers if f"{n}.index" in held}
    except (OSError, SafetensorError):  # said when the weights are read
        return
    for name, index in found.items():
        if not torch.equal(index.long(), layers[name].index.long()):
            raise WeightsError(
                f"{path}: the inputs that {name!r} selects are not those of plan.json: both must "
                "be of the same run"
            )


def _bake_(model: nn.Module, path: Path) -> None:
    """Make the weights plain that a file holds as plain ones, and `model` computes from others."""
    require_regular(path, raising=WeightsError)  # safetensors would wait for a FIFO for ever
    try:
        with safe_open(path, framework="pt") as file:
            held = set(file.keys())
    except (OSError, SafetensorError):  # said when the weights are read
        return
    found = ((name, reparametrised(module)) for name, module in model.named_modules())
    bake_(model, {n for n, keys in found if any(f"{n}.{k}".lstrip(".") in held for k in keys)})


def build_dense(
    folder: Path,
    model: str | None = None,
    *,
    input_shape: Shape | None = None,
    num_classes: int | None = None,
    trust: bool = False,
) -> tuple[nn.Module, Shape]:
    """Build the dense network of a run with random weights; return it and its image shape.

    Missing arguments are read from the run's `config.yaml`; `model` is a spec of `build_model`.
    A source file that only the folder names is run with `trust`.

    Raises:
        RunFolderError: an argument is neither given nor in the folder, or it is a source file there
            that is not trusted.
        UnknownNameError, ConfigError: the network cannot be built.
    """
    path = folder / "config.yaml"
    run = read_yaml(RunConfig, path) if path.exists() else None
    if run is not None:
        if model is None and not trust and (file := source_file_of(run.model)) is not None:
            raise RunFolderError(
                f"{path} builds its network with the code of {file}, which is only run if you name "
                f"it (model=, --model {run.model}) or trust the folder (trust=True, --trust)"
            )
        model = run.model if model is None else model
        input_shape = run.input_shape if input_shape is None else input_shape
        num_classes = run.num_classes if num_classes is None else num_classes
    if model is None:
        raise RunFolderError(
            f"{folder} does not specify how its network is built: pass model=<a freshly built "
            "dense network>, or --model path/to/file.py:factory on the command line"
        )
    if input_shape is None or (num_classes is None and run is None):
        raise RunFolderError(
            f"{folder} does not specify the input shape or the number of classes: pass model=<a "
            "freshly built dense network>, or --input-shape and --num-classes on the command line"
        )
    return build_model(model, num_classes=num_classes, input_shape=input_shape), input_shape


def read_plan(path: Path) -> Plan:
    """Read a plan of a run.

    Raises:
        PlanError: the file contains no plan in a known format; names the file.
        RunFolderError: the file cannot be read.
    """
    text = read_text(path, raising=RunFolderError)
    try:
        return Plan.from_json(text)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error


def require_finished(folder: Path) -> None:
    """Raise `RunFolderError` if `folder` does not contain the network of a finished run."""
    if not folder.is_dir():
        raise RunFolderError(f"there is no folder {folder}: give the folder of a finished run")
    for name in ("plan.json", "model.safetensors"):
        if not (folder / name).exists():
            raise RunFolderError(
                f"{folder} has no {name}: give the folder of a finished run "
                "(`prunus prune … --resume` finishes a run)"
            )
