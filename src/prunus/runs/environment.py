"""The environment of a run: device, versions, and absolute paths."""

from __future__ import annotations

import dataclasses
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

from prunus.core import ConfigError, RunRow, imported, installed_version
from prunus.data import DATASETS, DataSplits, load_data
from prunus.models import source_file_of, split_source
from prunus.statistics import rank_and_size

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = [
    "NetworkSettings",
    "describe_run",
    "open_data",
    "open_device",
    "open_fabric",
    "require_labels",
    "require_one_process",
    "require_weights",
    "resolve_paths",
]


class NetworkSettings(Protocol):
    """The settings that name a network and its data, read-only as those of a frozen dataclass."""

    @property
    def model(self) -> str: ...  # noqa: D102
    @property
    def data(self) -> str: ...  # noqa: D102
    @property
    def weights(self) -> str | None: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def data_root(self) -> str: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def input_shape(self) -> tuple[int, int, int] | None: ...  # noqa: D102
    @property
    def device(self) -> str: ...  # noqa: D102


S = TypeVar("S", bound=NetworkSettings)


def resolve_paths(config: S) -> S:
    """Make the paths of a configuration absolute, so that it is valid in any working directory."""
    changes: dict[str, Any] = {"data_root": str(Path(config.data_root).absolute())}
    if (source := split_source(config.model)) is not None:
        file, factory = source
        changes["model"] = f"{Path(file).absolute()}" + (f":{factory}" if factory else "")
    changes["data"] = _absolute(config.data)
    if config.weights is not None:
        changes["weights"] = str(Path(config.weights).absolute())
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def _absolute(data: str) -> str:
    """Make the folders in a data set's name absolute; names of known sets stay as they are."""
    kind, _, argument = data.partition(":")
    if kind == "folder":
        return f"folder:{Path(argument).absolute()}"
    if kind not in DATASETS or DATASETS[kind].task != "restoration":
        return data
    level, _, places = argument.partition(":")
    whole = [str(Path(each).absolute()) if "/" in each else each for each in places.split(",")]
    return f"{kind}:{level}:{','.join(whole)}"


def require_weights(
    model: str | None,
    weights: str | Path | None,
    run: str | Path | None = None,
    *,
    verb: str,
) -> None:
    """Raise `ConfigError` unless a network has trained weights from exactly one source.

    The source is a `run` or a file; a network built by the user's own file may load its own.
    """
    if run is not None and weights is not None:
        raise ConfigError(
            f"weights {weights} given together with the run {run}, which has its own: give only one"
        )
    own = model is not None and source_file_of(model) is not None
    if run is None and weights is None and not own:
        raise ConfigError(
            f"{model} has no trained weights, and results of random weights are meaningless: "
            f"give --weights FILE, or the folder of a finished run (prunus {verb} runs/NAME)"
        )


def require_one_process() -> None:
    """Raise `ConfigError` with several ranks of `torch.distributed`: each would prune alone."""
    size = rank_and_size()[1]
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun's ranks, before they have met
        size = max(size, int(os.environ.get("WORLD_SIZE", "1")))
    if size > 1:
        raise ConfigError(
            f"prune runs in one process, found {size} ranks of torch.distributed, whose repairs "
            "and training would diverge: call prunus.collect, prunus.plan.broadcast_plan and "
            "prunus.apply_ on every rank, and train with DistributedDataParallel"
        )


def open_data(config: NetworkSettings) -> DataSplits:
    """Load the data that a configuration names, with augmentation if it is set."""
    return load_data(
        config.data,
        seed=config.seed,
        data_root=Path(config.data_root),
        batch_size=config.batch_size,
        input_shape=config.input_shape,
        augment=getattr(config, "augment", False),
    )


def require_labels(data: DataSplits, verb: str) -> None:
    """Raise `ConfigError` if the data have no class labels, which `verb` needs."""
    if data.task != "classification":
        raise ConfigError(
            f"{data.name} contains pairs of images, and `prunus {verb}` needs class labels: train, "
            "eval, doctor and export support restoration; prune a restoration network with your "
            "own plan (prunus.find_groups, prunus.plan, prunus.apply_)"
        )


def open_fabric(device: str, precision: str = "32-true") -> Fabric:
    """Return Lightning Fabric on one device, for training.

    Raises:
        ConfigError: the device or its precision is not available on this machine.
    """
    lightning = imported("lightning_fabric")  # takes seconds, and only training needs it
    try:
        fabric: Fabric = lightning.Fabric(accelerator=device, devices=1, precision=precision)
        return fabric
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"device {device!r} with precision {precision!r} is not available: "
            f"{str(error).splitlines()[0]}; try --device cpu --precision 32-true"
        ) from error


def open_device(name: str) -> torch.device:
    """Return the device of this name, to measure on; `auto` is a GPU if there is one.

    Raises:
        ConfigError: the device is not available on this machine.
    """
    if name == "auto":
        found = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        return found or torch.device("cpu")
    wanted = "cuda" if name == "gpu" else name
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"device {name!r} is not available: {str(error).splitlines()[0]}; try --device cpu"
        ) from error
    return device


def describe_run(command: str, device: torch.device, seed: int) -> RunRow:
    """Return the first row of a journal: command, versions, device, seed and time."""
    return {
        "command": command,
        "prunus": installed_version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": _describe(device),
        "seed": seed,
        "started": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"GPU: {torch.cuda.get_device_name(device)}"
    name = platform.processor() or platform.machine()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    return f"{device.type.upper()}: {name}, {torch.get_num_threads()} threads"
