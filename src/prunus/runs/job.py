"""The opening of a job, the same for every command: settings, data, device, network; then a folder.

Opening validates all input and writes nothing; `Job.begin` then creates the folder, or resumes the
existing one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from prunus.core import seed_everything
from prunus.data import DataSplits
from prunus.evaluation import LatencyTable
from prunus.models import build_model
from prunus.runs.config import JobConfig
from prunus.runs.environment import (
    NetworkSettings,
    describe_run,
    open_data,
    open_device,
    open_fabric,
    require_labels,
    require_one_process,
    require_weights,
    resolve_paths,
)
from prunus.runs.folder import RunSettings, open_folder
from prunus.runs.load import Shape, load
from prunus.runs.lock import locked
from prunus.runs.session import Loaders, Session
from prunus.runs.watch import Watch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Job", "build_network", "open_job"]

C = TypeVar("C", bound=NetworkSettings)

#: Commands that need the classes of their images.
LABELLED = ("grow", "prune", "push", "score", "search")
#: Commands that are meaningless with random weights.
TRAINED = ("score",)


@dataclass(frozen=True, kw_only=True, eq=False)
class Job(Generic[C]):
    """A network, its data and a device as specified by the settings; nothing is written yet.

    `config` has absolute paths and, for a run, the number of classes and the input shape of the
    data. The network has the given weights, else random ones from `config.seed`. `fabric` is
    opened only for commands that train.
    """

    config: C
    data: DataSplits
    device: torch.device
    fabric: Fabric | None
    network: nn.Module

    @property
    def example(self) -> Tensor:
        """One image of zeros (1, C, H, W), on the CPU."""
        return torch.zeros(1, *self.data.input_shape)

    def with_config(self, config: C) -> Job[C]:
        """Return the job with settings completed from the data."""
        return dataclasses.replace(self, config=config)

    @contextmanager
    def begin(
        self,
        out: Path,
        *,
        resume: bool,
        command: str = "",
        watch: Watch | None = None,
        table: LatencyTable | None = None,
        **said: Any,
    ) -> Iterator[Session]:
        """Create the folder of a run, or resume the same run, and give its session in a `with`.

        No other process writes the folder until the block ends. The journal begins with a row
        `run`: command, versions, device, and `said`.

        Raises:
            RunFolderError: `out` contains another run, or this one and `resume` is off, or another
                process writes it.
        """
        config = self.config
        assert isinstance(config, JobConfig)
        with locked(out):
            journal = open_folder(cast(RunSettings, config), out, resume=resume)
            row = describe_run(command, self.device, config.seed)
            journal.append_once("run", {**row, **said})
            journal.seal("config.yaml")
            yield Session(
                loaders=Loaders.of(self.data),
                fabric=self.fabric,
                seed=config.seed,
                journal=journal,
                watch=watch or Watch(),
                table=table,
                channels_last=config.channels_last,
            )


def open_job(config: C, verb: str, *, trust: bool = False) -> Job[C]:
    """Open device, data and network, in this order, for `prunus VERB`.

    `trust` permits the code that the folder of `config.run` names; that of `config.model` is named
    in the call.

    Raises:
        ConfigError: this is one of several ranks, the device is not available, the weights are
            missing or given twice, or the command needs class labels and the data have none.
        UnknownNameError, DataError, WeightsError, RunFolderError: see their messages.
    """
    run: str | None = getattr(config, "run", None)
    trains = isinstance(config, JobConfig)
    if trains:
        require_one_process()
    if verb in TRAINED or run is not None:
        require_weights(config.model, config.weights, run, verb=verb)
    config = resolve_paths(config)
    fabric = open_fabric(config.device, config.precision) if isinstance(config, JobConfig) else None
    device = fabric.device if fabric is not None else open_device(config.device)
    data = open_data(config)
    if verb in LABELLED:
        require_labels(data, verb)
    classes = data.num_classes or None
    if trains:
        found = {"num_classes": classes, "input_shape": data.input_shape}
        config = dataclasses.replace(config, **found)  # type: ignore[type-var]
    if run is not None:
        network = load(run, trust=trust)
    else:
        network = build_network(
            config.model,
            num_classes=classes,
            input_shape=data.input_shape,
            weights=config.weights,
            seed=config.seed,
        )
    return Job(config=config, data=data, device=device, fabric=fabric, network=network)


def build_network(
    model: str,
    *,
    num_classes: int | None,
    input_shape: Shape,
    weights: str | Path | None = None,
    seed: int = 0,
) -> nn.Module:
    """Build the network that `model` names, with `weights`, else random ones from `seed`.

    Raises:
        UnknownNameError, ConfigError, WeightsError: the network cannot be built.
    """
    seed_everything(seed, "build")
    return build_model(
        model,
        num_classes=num_classes,
        input_shape=input_shape,
        weights=Path(weights) if weights else None,
    )
