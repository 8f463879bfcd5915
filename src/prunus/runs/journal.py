"""The run folder as a journal of steps: a finished step is never repeated."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from prunus.core import (
    RECORD,
    Event,
    PlanError,
    Record,
    RunFolderError,
    digest,
    parse_json,
    read_text,
    remove,
    require_sealed,
    seals_of,
    to_json,
    unwritable,
    write_whole,
)
from prunus.export import save_weights
from prunus.models import load_weights_
from prunus.modules import private_copy
from prunus.plan import Plan
from prunus.surgery import replay_

__all__ = ["Journal"]

#: The plans of a finished run's iterations, by number.
PLANS = "plans.json"
#: Their weights, if they are kept.
NETWORKS = "networks"


class Journal:
    """Rows of measurements and, with a folder, the network after every step.

    A step's files are written completely before its row is appended, so a row means that the step
    can be resumed from. Without a folder (the Python call) only the rows are kept, in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Open the journal of `folder`, which may already contain steps."""
        self.folder = folder
        self.record = Record(folder / RECORD if folder else None)

    def append_once(self, event: Event, row: Mapping[str, Any], **keys: Any) -> None:
        """Append a row unless one with these keys exists."""
        if self.record.find(event, **keys) is None:
            self.record.append(event, **keys, **row)

    def seal(self, *names: str) -> None:
        """Journal the SHA-256 of files of the folder, each content once, skipping missing files."""
        if self.folder is None:
            return
        known = seals_of(self.record.rows)
        found = {n: digest(self.folder / n) for n in names if (self.folder / n).is_file()}
        if any(known.get(name) != value for name, value in found.items()):
            self.record.append("files", sha256=found)

    def require(self, *names: str) -> None:
        """Raise `RunFolderError` if one of these files of the folder is not what was sealed."""
        if self.folder is not None:
            require_sealed(self.folder, *names, seals=seals_of(self.record.rows))

    def checkpoint(self, step: str) -> Path | None:
        """Return where a training phase keeps its state, or None without a folder."""
        return self.folder / "steps" / f"{step}.pt" if self.folder else None

    def save(self, step: str, model: nn.Module, plan: Plan) -> None:
        """Save the network after `step` and delete its training state."""
        if self.folder is None:
            return
        write_whole(self._steps / f"{step}.json", plan.to_json())
        save_weights(model, self._steps / f"{step}.safetensors")
        self.seal(f"steps/{step}.json", f"steps/{step}.safetensors")
        remove(self._steps / f"{step}.pt")

    def has(self, step: str) -> bool:
        """Tell whether `step` was saved."""
        return self.folder is not None and (self._steps / f"{step}.safetensors").exists()

    def restore(self, step: str, dense: nn.Module) -> tuple[nn.Module, Plan]:
        """Return the network and the plan after `step`, built from a copy of the dense one.

        Raises:
            RunFolderError: a file of the step is damaged.
        """
        names = f"steps/{step}.json", f"steps/{step}.safetensors"
        self.require(*names)
        assert self.folder is not None
        path = self.folder / names[0]
        text = read_text(path, raising=RunFolderError)
        try:
            plan = Plan.from_json(text)
            model = replay_(private_copy(dense), plan)
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from error
        load_weights_(model, self.folder / names[1])
        return model, plan

    def clean(self, *, keep_networks: bool = False) -> None:
        """Remove the steps of a finished run, except the plans of its iterations (`plans`).

        With `keep_networks` the weights after each iteration are kept too (`weights_after`).
        Both are complete before the first step is removed: a kill leaves nothing half kept.
        """
        if self.folder is None:
            return
        found = sorted(self._steps.glob("[0-9][0-9][0-9].json"))
        if found and not (self.folder / PLANS).exists():
            self.require(*(f"steps/{path.name}" for path in found))
            plans = {int(path.stem): parse_json(read_text(path)) for path in found}
            write_whole(self.folder / PLANS, to_json(plans))
        self.seal(PLANS)
        if keep_networks:
            self._keep_networks()
        try:
            if self._steps.exists():
                shutil.rmtree(self._steps)
        except OSError as error:
            raise unwritable(self._steps, error) from error

    def _keep_networks(self) -> None:
        """Move the weights after each iteration where they stay."""
        for path in sorted(self._steps.glob("[0-9][0-9][0-9].safetensors")):
            kept = self.weights_after(int(path.stem))
            try:
                kept.parent.mkdir(exist_ok=True)
                path.replace(kept)
            except OSError as error:
                raise unwritable(kept, error) from error
        assert self.folder is not None
        kept_all = sorted((self.folder / NETWORKS).glob("*.safetensors"))
        self.seal(*(f"{NETWORKS}/{path.name}" for path in kept_all))

    def weights_after(self, iteration: int) -> Path:
        """Return the path of the weights after an iteration of a finished run, if kept."""
        assert self.folder is not None
        return self.folder / NETWORKS / f"{iteration:03d}.safetensors"

    def plans(self) -> dict[int, Plan]:
        """Return the plan after each iteration of a finished run, relative to its dense network.

        Raises:
            RunFolderError, PlanError: `plans.json` is damaged.
        """
        sealed = PLANS in seals_of(self.record.rows)
        if self.folder is None or not (sealed or (self.folder / PLANS).exists()):
            return {}
        path = self.folder / PLANS
        self.require(PLANS)
        text = read_text(path, raising=RunFolderError)
        try:
            kept = parse_json(text)
            if not all(key.isascii() and key.isdigit() and len(key) < 10 for key in kept):
                raise ValueError("the iterations are not numbers")
            return {int(iteration): Plan.from_dict(plan) for iteration, plan in kept.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise PlanError(
                f"{path} does not hold the plans of a run ({error}): restore it from a copy"
            ) from error

    @property
    def _steps(self) -> Path:
        assert self.folder is not None
        return self.folder / "steps"
