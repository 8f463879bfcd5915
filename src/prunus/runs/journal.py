"""The run folder as a journal of steps: a finished step is never repeated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from prunus.core import Event, Record, to_json, write_whole
from prunus.export import save_weights
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
        self.record = Record(folder / "record.jsonl" if folder else None)

    def append_once(self, event: Event, row: Mapping[str, Any], **keys: Any) -> None:
        """Append a row unless one with these keys exists."""
        if self.record.find(event, **keys) is None:
            self.record.append(event, **keys, **row)

    def checkpoint(self, step: str) -> Path | None:
        """Return where a training phase keeps its state, or None without a folder."""
        return self.folder / "steps" / f"{step}.pt" if self.folder else None

    def save(self, step: str, model: nn.Module, plan: Plan) -> None:
        """Save the network after `step` and delete its training state."""
        if self.folder is None:
            return
        write_whole(self._steps / f"{step}.json", plan.to_json())
        save_weights(model, self._steps / f"{step}.safetensors")
        (self._steps / f"{step}.pt").unlink(missing_ok=True)

    def has(self, step: str) -> bool:
        """Tell whether `step` was saved."""
        return self.folder is not None and (self._steps / f"{step}.safetensors").exists()

    def restore(self, step: str, dense: nn.Module) -> tuple[nn.Module, Plan]:
        """Return the network and the plan after `step`, built from a copy of the dense one."""
        plan = Plan.from_json((self._steps / f"{step}.json").read_text())
        model = replay_(private_copy(dense), plan)
        model.load_state_dict(load_file(self._steps / f"{step}.safetensors"))
        return model, plan

    def clean(self, *, keep_networks: bool = False) -> None:
        """Remove the steps of a finished run, except the plans of its iterations (`plans`).

        With `keep_networks` the weights after each iteration are kept too (`weights_after`).
        """
        if self.folder is None:
            return
        if keep_networks:
            for path in sorted(self._steps.glob("[0-9][0-9][0-9].safetensors")):
                kept = self.weights_after(int(path.stem))
                kept.parent.mkdir(exist_ok=True)
                path.replace(kept)
        found = sorted(self._steps.glob("[0-9][0-9][0-9].json"))
        if found:
            plans = {int(path.stem): json.loads(path.read_text()) for path in found}
            write_whole(self.folder / PLANS, to_json(plans))
        shutil.rmtree(self._steps, ignore_errors=True)

    def weights_after(self, iteration: int) -> Path:
        """Return the path of the weights after an iteration of a finished run, if kept."""
        assert self.folder is not None
        return self.folder / NETWORKS / f"{iteration:03d}.safetensors"

    def plans(self) -> dict[int, Plan]:
        """Return the plan after each iteration of a finished run, relative to its dense network."""
        if self.folder is None or not (self.folder / PLANS).exists():
            return {}
        kept = json.loads((self.folder / PLANS).read_text())
        return {
            int(iteration): Plan.from_json(json.dumps(plan)) for iteration, plan in kept.items()
        }

    @property
    def _steps(self) -> Path:
        assert self.folder is not None
        return self.folder / "steps"
