"""One candidate of a growing step: build, inspect, train and measure it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from prunus.core import PrunusError, seed_everything
from prunus.criteria import rank_layers
from prunus.evaluation import accuracy, count_bytes, count_params
from prunus.export import save_weights
from prunus.graph import count_macs, head_groups
from prunus.models import build_model, grow_, sized_name
from prunus.modules import private_copy
from prunus.pipelines.grow.config import GrowRunConfig
from prunus.runs import Job, Journal, Loader, Loaders, Session, Watch, p_phase_
from prunus.statistics import collect
from prunus.surgery import reestimate_batchnorm_
from prunus.training import TrainConfig

__all__ = ["Bench", "Candidate", "latent_information", "sizes_row", "weights_of"]

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network to try: the weights of step `step` − 1, and one more module in `stage`.

    `parent` are the stage sizes of that step. If candidates are chosen by information, a candidate
    is inspected first (`trained` is off) and trained only if it is chosen.
    """

    step: int
    stage: int
    parent: tuple[int, ...]
    trained: bool = True

    @property
    def sizes(self) -> tuple[int, ...]:
        """The stage sizes with the new module."""
        return tuple(n + (stage == self.stage) for stage, n in enumerate(self.parent))

    @property
    def key(self) -> str:
        """The name of its folder among the steps of a run."""
        return f"{self.step:03d}-{self.stage}" + ("" if self.trained else "-untrained")


class Bench:
    """Data, device and settings for trying candidates."""

    def __init__(self, job: Job[GrowRunConfig], out: Path, watch: Watch | None = None) -> None:
        """`out` is the folder of the run; `watch` sees the candidates train."""
        self.job, self.out, self.watch = job, out, watch or Watch()
        self.config, self.data = job.config, job.data

    @cached_property
    def images(self) -> Loader:
        """Calibration images for measuring information, evenly spread over the split."""
        loader: Any = self.data.calibration
        count = len(loader.dataset)
        chosen = np.linspace(0, count - 1, min(self.config.grow.images, count)).round()
        return DataLoader(
            Subset(loader.dataset, chosen.astype(int).tolist()),
            batch_size=loader.batch_size,
            collate_fn=loader.collate_fn,
            generator=torch.Generator(),  # leaves the global generator untouched
        )

    def build(self, sizes: tuple[int, ...], weights: Path | None = None) -> nn.Module:
        """Return the network grown to `sizes`; random weights use the global generator."""
        return build_model(
            sized_name(self.config.model, sizes),
            num_classes=self.data.num_classes,
            input_shape=self.data.input_shape,
            weights=weights,
        )

    def train_(
        self, model: nn.Module, how: TrainConfig, journal: Journal, *, seed: int, name: str
    ) -> Row | None:
        """Train in place with the settings `how` and return the last epoch's row, if any.

        Each epoch is journalled, and progress is reported as `name`.
        """
        data = self.data
        session = Session(
            loaders=Loaders.of(data),
            fabric=self.job.fabric,
            seed=seed,
            journal=journal,
            watch=_Named(self.watch, name),
            channels_last=self.config.channels_last,
        )
        parents = (data.parents,) if data.parents else ()
        return p_phase_(model, how, session, phase="train", parents=parents)

    def information(self, model: nn.Module) -> float:
        """Return the share of the classes that the last hidden layer explains."""
        return latent_information(model, self.images, self.job.example, self.config.grow.ridge)

    def measured(self, model: nn.Module, trained: Row | None) -> Row:
        """Return validation accuracy and information of a network.

        The accuracy is that of the last epoch, `trained`, where there was one.
        """
        found = (
            accuracy(model, self.data.validation)
            if trained is None
            else trained["validation_accuracy"]
        )
        return {"accuracy": found, "information": self.information(model)}

    def try_(self, candidate: Candidate) -> Row:
        """Build, inspect and, if `trained` is set, train and measure a candidate; return its row.

        Its weights and its row are kept in its folder, so it is tried only once; an interrupted
        one resumes from its last epoch. Randomness depends on the seed, the step and the stage.
        """
        folder = self.out / "steps" / candidate.key
        folder.mkdir(parents=True, exist_ok=True)
        journal = Journal(folder)
        if journal.record.find("candidate") is None:
            try:
                model, row = self._try(candidate, journal)
            except PrunusError as error:
                spec = sized_name(self.config.model, candidate.sizes)
                raise type(error)(f"candidate {spec} of step {candidate.step}: {error}") from error
            save_weights(model, folder / "model.safetensors")
            journal.seal("model.safetensors")
            journal.record.append("candidate", **row)
        found = journal.record.find("candidate")
        assert found is not None
        return {key: value for key, value in found.items() if key != "event"}

    def _try(self, candidate: Candidate, journal: Journal) -> tuple[nn.Module, Row]:
        start = time.perf_counter()
        settings = self.config.grow
        seed = seed_everything(self.config.seed, "grow", candidate.step, candidate.stage)
        model = self.build(candidate.parent, weights_of(self.out, candidate.step - 1))
        grow_(model, candidate.stage, preserve=settings.preserve)
        model.to(self.job.device)
        row: Row = {
            "step": candidate.step,
            "stage": candidate.stage,
            **sizes_row(model, self.config.model, candidate.sizes, self.job.example),
            "accuracy": None,
            "information": self._look(model),
            "trained_information": None,
        }
        if candidate.trained:
            trained = self.train_(model, settings.candidate, journal, seed=seed, name=row["model"])
            after = self.measured(model, trained)
            row |= {"accuracy": after["accuracy"], "trained_information": after["information"]}
        return model, {**row, "seconds": round(time.perf_counter() - start, 3)}

    def _look(self, model: nn.Module) -> float:
        """Return the information of an untrained candidate, its BatchNorms re-estimated."""
        copy = private_copy(model)
        reestimate_batchnorm_(copy, self.images)
        return self.information(copy)


def weights_of(out: Path, step: int) -> Path:
    """Return the path of a step's network; step 0 is the initial one."""
    return out / "models" / f"{step:03d}.safetensors"


def sizes_row(model: nn.Module, spec: str, sizes: tuple[int, ...], example: Tensor) -> Row:
    """Return the name and the costs of a network with these stage sizes."""
    device = next(model.parameters()).device
    return {
        "model": sized_name(spec, sizes),
        "sizes": list(sizes),
        "params": count_params(model),
        "macs": count_macs(model, example.to(device)),
        "bytes": count_bytes(model),
    }


def latent_information(model: nn.Module, images: Loader, example: Tensor, ridge: float) -> float:
    """Return DI/tr(YYᵀ), in [0, 1], of the input of the network's head: its latent features.

    One pass that collects the sums of this layer only. [Kung-Hou, eq. 10], theory.md (6).

    Raises:
        ConfigError: the network's output is not produced by a single layer.
    """
    groups = head_groups(model, example.to(next(model.parameters()).device))
    statistics = collect(model, images, groups, blocks=1, all_reduce=False)
    return rank_layers(groups, statistics, ridge=ridge)[0].share


class _Named(Watch):
    """Adds the candidate's name to the title of its epochs."""

    def __init__(self, watch: Watch, name: str) -> None:
        self.watch, self.name = watch, name

    @contextlib.contextmanager
    def epochs(self, title: str, total: int) -> Iterator[Callable[[dict[str, Any]], None]]:
        with self.watch.epochs(f"{self.name}: {title}", total) as on_epoch:
            yield on_epoch
