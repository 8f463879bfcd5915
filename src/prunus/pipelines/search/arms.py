"""The runs of a search: each in its own folder, returned as rows of networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunus.core import DERIVED, PLAIN, read_yaml, require_sealed
from prunus.pipelines.grow import GrowRunConfig, run_grow
from prunus.pipelines.pruning import run_prune
from prunus.pipelines.push import run_push
from prunus.pipelines.search.config import SearchConfig
from prunus.pipelines.train import run_train
from prunus.runs import JobConfig, Journal, PruneConfig, RunConfig, Watch, load
from prunus.training import TrainConfig

__all__ = ["Arms", "Start", "split_rival"]

Row = dict[str, Any]

#: Folders of the grown network's training, with the push and without.
TRAINED = {DERIVED: "pushed", PLAIN: "plain"}
MEASURES = ("params", "macs", "bytes", "validation_accuracy", "test_accuracy")


@dataclass(frozen=True, kw_only=True)
class Start:
    """The network that is pushed and pruned; its weights were trained for `epochs`.

    `grown` are the `step` rows that lead to it, starting with the initial network.
    """

    model: str
    weights: str | None
    epochs: int
    grown: tuple[Row, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Arms:
    """Runs the parts of a search in folders of `out`, or resumes them.

    Each method finishes one run and yields one row per network: its `arm`, `name`, folder, costs,
    accuracies (test accuracy only for finished networks) and the epochs its weights were trained
    for. `alone` marks networks that form no curve.
    """

    config: SearchConfig
    out: Path
    command: str
    watch: Watch
    workers: int | None = None

    def grow(self) -> Start:
        """Grow as specified by `config.grow`; without it the network is used as it is."""
        config = self.config
        if config.grow is None:
            return Start(model=config.model, weights=config.weights, epochs=0)
        folder, grow = self.out / "grow", config.grow
        if grow.threads is None and (folder / "config.yaml").exists():  # as many as it started with
            require_sealed(folder, "config.yaml")
            begun = read_yaml(GrowRunConfig, folder / "config.yaml").grow
            grow = dataclasses.replace(grow, threads=begun.threads)
        settings = GrowRunConfig(**self._shared(), grow=grow, train=TrainConfig(epochs=0))
        run = run_grow(settings, folder, **self._ways(folder), workers=self.workers)
        grown = run.record.find("grown")
        assert grown is not None
        steps = [row for row in run.record.all("step") if row["step"] <= grown["step"]]
        return Start(
            model=grown["model"],
            weights=str(folder / "grown" / "model.safetensors"),
            epochs=self._seen(grown["step"]),
            grown=tuple(steps),
        )

    def train(self, start: Start, arm: str) -> Iterator[Row]:
        """Train the grown network, with the push if `arm` is the derived one."""
        folder = self.out / TRAINED[arm]
        push = self.config.push if arm == DERIVED else None
        train = dataclasses.replace(self.config.train, push=push)
        settings = self._settings(model=start.model, weights=start.weights, train=train)
        run = (run_train if push is None else run_push)(settings, folder, **self._ways(folder))
        epochs = start.epochs + train.epochs
        yield self._trained(run, folder, arm=arm, name=start.model, epochs=epochs)

    def prune(self, start: Start, arm: str, folder: str, **changes: Any) -> Iterator[Row]:
        """Prune the grown network, after that training, to the budget."""
        config, out = self.config, self.out / folder
        trained = self.out / TRAINED[DERIVED if arm == DERIVED else PLAIN]
        push = config.push if arm == DERIVED and config.repush else None
        fields = {each.name for each in dataclasses.fields(PruneConfig)}
        prune = PruneConfig(**{name: getattr(config.prune, name) for name in fields} | changes)
        prune = dataclasses.replace(
            prune,
            runtimes=prune.runtimes if arm == DERIVED else (),
            keep_networks=prune.keep_networks or (arm == DERIVED and config.finish),
            finetune=dataclasses.replace(prune.finetune, push=push),
            final=dataclasses.replace(prune.final, push=push),
        )
        settings = self._settings(
            model=start.model,
            weights=str(trained / "model.safetensors"),
            budget=config.budget,
            export=config.export if arm == DERIVED else (),
            prune=prune,
        )
        run = run_prune(settings, out, **self._ways(out))
        epochs = start.epochs + config.train.epochs
        for row in run.record.all("iteration"):
            if row["iteration"] == 0 or row.get("kept") is False:
                continue  # already a row of `train`, or rejected by the loop
            seen = epochs + prune.finetune.epochs * row["iteration"]
            name = f"iteration {row['iteration']}"
            yield self._row(row, out, arm=arm, epochs=seen, name=name)
        result = run.record.find("result")
        assert result is not None
        epochs += sum(len(fit["epochs"]) for fit in run.record.all("fit"))
        yield self._row(result["pruned"], out, arm=arm, epochs=epochs, name="finished")

    def finish(self, start: Start, row: Row, iteration: int, epochs: int) -> Iterator[Row]:
        """Continue training the derived network of an iteration up to `epochs` in total.

        As after a cut: distilled from the pushed network, and pushed if `repush` is set.
        """
        config, folder = self.config, self.out / "finished" / f"{iteration:03d}"
        push = config.push if config.repush else None
        train = dataclasses.replace(
            config.prune.finetune, push=push, epochs=max(0, epochs - row["epochs"])
        )
        settings = self._settings(model=start.model, train=train)
        pushed, derived = self.out / TRAINED[DERIVED], Journal(self.out / DERIVED)
        name, plan, weights = start.model, None, pushed / "model.safetensors"
        if iteration:  # it no longer has the pushed network's structure and weights
            name, plan = f"iteration {iteration}", derived.plans()[iteration]
            weights = derived.weights_after(iteration)
        ways = self._ways(folder) | {"plan": plan, "pruned_weights": weights}
        run = run_train(settings, folder, **ways, teacher=load(pushed, trust=True))
        yield self._trained(run, folder, arm=DERIVED, name=f"{name}, trained on", epochs=epochs)

    def grown(self, step: Row, epochs: int) -> Iterator[Row]:
        """Continue training the network of a growing step up to `epochs` in total."""
        folder = self.out / "trained" / f"{step['step']:03d}"
        settings = self._settings(
            model=step["model"],
            weights=str(self.out / "grow" / step["weights"]),
            train=self._epochs(epochs - self._seen(step["step"])),
        )
        run = run_train(settings, folder, **self._ways(folder))
        yield self._trained(run, folder, arm="grown", name=step["model"], epochs=epochs)

    def scratch(self, start: Start, iteration: int, epochs: int) -> Iterator[Row]:
        """Train the structure of an iteration of `derived` from random weights."""
        folder = self.out / "scratch" / f"{iteration:03d}"
        settings = self._settings(model=start.model, train=self._epochs(epochs))
        plan = Journal(self.out / DERIVED).plans()[iteration]
        run = run_train(settings, folder, **self._ways(folder), plan=plan)
        name = f"structure of iteration {iteration}"
        yield self._trained(run, folder, arm="scratch", name=name, epochs=epochs)

    def fixed(self, name: str, epochs: int) -> Iterator[Row]:
        """Train another network on the same data."""
        folder = self.out / "fixed" / name.replace("/", "_").replace(":", "_")
        settings = self._settings(model=name, train=self._epochs(epochs))
        run = run_train(settings, folder, **self._ways(folder))
        row = self._trained(run, folder, arm="fixed", name=name, epochs=epochs)
        yield {**row, "alone": True}

    def _seen(self, step: int) -> int:
        """Return the epochs that the weights of a growing step were trained for."""
        grow = self.config.grow
        assert grow is not None
        base = grow.base.epochs if self.config.weights is None else 0
        return base + step * grow.candidate.epochs

    def _epochs(self, epochs: int) -> TrainConfig:
        return dataclasses.replace(self.config.train, push=None, epochs=max(0, epochs))

    def _trained(self, run: Journal, folder: Path, **place: Any) -> Row:
        row = run.record.find("trained")
        assert row is not None
        return self._row(row, folder, **place)

    def _row(self, measured: Row, folder: Path, **place: Any) -> Row:
        measures = {key: measured.get(key) for key in MEASURES}
        where = str(folder.relative_to(self.out))
        return {**place, **measures, "folder": where, "alone": False}

    def _settings(self, **changes: Any) -> RunConfig:
        """Return the settings of an arm; without weights in `changes` they start random."""
        return RunConfig(**{**self._shared(), "weights": None, "export": (), **changes})

    def _shared(self) -> dict[str, Any]:
        """Return the settings that all runs share with the search: data, seed, device."""
        names = (each.name for each in dataclasses.fields(JobConfig))
        return {name: getattr(self.config, name) for name in names}

    def _ways(self, folder: Path) -> dict[str, Any]:
        resume = (folder / "config.yaml").exists()
        return {"resume": resume, "command": self.command, "watch": self.watch}


def split_rival(rival: str) -> tuple[str, str | None]:
    """Return the criterion of a rival and its own allocation, None if it has none."""
    criterion, _, allocation = rival.partition("/")
    return criterion, allocation or None
