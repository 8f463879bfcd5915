"""The run folder as a journal of steps: what has been done is never done again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from prunus.core import Record, write_whole
from prunus.export import save_weights
from prunus.graph.copies import private_copy
from prunus.plan import Plan
from prunus.surgery import replay_

__all__ = ["Journal"]


class Journal:
    """Rows of measurements and, with a folder, the network after every step.

    A step's files are written whole before its row is appended, so a row means that the step
    can be taken up. Without a folder (the Python call) only the rows are kept, in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Open the journal of `folder`, which may hold steps already."""
        self.folder = folder
        self.record = Record(folder / "record.jsonl" if folder else None)

    def append_once(self, event: str, row: dict[str, Any], **keys: Any) -> None:
        """Append a row unless one with these keys is there."""
        if self.record.find(event, **keys) is None:
            self.record.append(event, **keys, **row)

    def checkpoint(self, step: str) -> Path | None:
        """Return where a training phase keeps its state, or None without a folder."""
        return self.folder / "steps" / f"{step}.pt" if self.folder else None

    def save(self, step: str, model: nn.Module, plan: Plan) -> None:
        """Keep the network after `step`; its training state is no longer needed then."""
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

    def clean(self) -> None:
        """Remove the steps of a finished run, but for the plans, which are small."""
        if self.folder is None:
            return
        for path in sorted(self._steps.glob("[0-9][0-9][0-9].json")):
            write_whole(self.plan_of(int(path.stem)), path.read_text())
        shutil.rmtree(self._steps, ignore_errors=True)

    def plan_of(self, iteration: int) -> Path:
        """Return where the plan after an iteration of a finished run is, from the dense network."""
        assert self.folder is not None
        return self.folder / "plans" / f"{iteration:03d}.json"

    @property
    def _steps(self) -> Path:
        assert self.folder is not None
        return self.folder / "steps"
