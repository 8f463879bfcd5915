"""`prunus diff`: what one run removed that another kept."""

from __future__ import annotations

import filecmp
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prunus.core import RECORD, RunFolderError, read_rows, read_seals, read_yaml, require_sealed
from prunus.plan import PlanDifference, compare_plans
from prunus.runs import RunConfig, read_plan

__all__ = ["RunDifference", "Side", "run_diff"]

#: Format version of `RunDifference.to_dict`; raised when a key changes its meaning.
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two runs: the path of its plan, and what its folder records, else None.

    `params` and `macs` of the pruned network are shares of the dense network's.
    """

    path: str
    model: str | None = None
    data: str | None = None
    budget: str | None = None
    criterion: str | None = None
    params: float | None = None
    macs: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunDifference:
    """Two runs and the difference of their plans.

    `same_dense`: whether both cut the same trained network; None if a folder lacks it.
    """

    a: Side
    b: Side
    same_dense: bool | None
    plans: PlanDifference

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `prunus diff --json` prints them."""
        return {
            "version": VERSION,
            "a": asdict(self.a),
            "b": asdict(self.b),
            "same_dense": self.same_dense,
            **self.plans.to_dict(),
        }


def run_diff(a: str | Path, b: str | Path) -> RunDifference:
    """Compare the plans of two run folders, or of two `plan.json` files.

    Raises:
        RunFolderError: a folder or file is missing, or the run has not finished.
        PlanError: a file is not a plan, or the plans are of different networks.
        ConfigError: a folder's `config.yaml` cannot be read.
    """
    files = [_plan_file(Path(path)) for path in (a, b)]
    for path, file in zip((Path(a), Path(b)), files, strict=True):
        if _of_run(file):
            _require_checked(path, file.parent)
    first, second = (read_plan(file) for file in files)
    plans = compare_plans(first, second)
    dense = [file.parent / "dense.safetensors" for file in files]
    there = all(_of_run(file) for file in files) and all(path.is_file() for path in dense)
    return RunDifference(
        a=_side(Path(a), files[0]),
        b=_side(Path(b), files[1]),
        same_dense=filecmp.cmp(dense[0], dense[1], shallow=False) if there else None,
        plans=plans,
    )


def _require_checked(path: Path, folder: Path) -> None:
    """Raise unless the files that are compared are those that a run sealed."""
    seals = read_seals(folder) or {}
    if path.is_dir() and (folder / "config.yaml").exists() and "plan.json" not in seals:
        raise RunFolderError(
            f"{folder / 'plan.json'} cannot be checked, for {folder / RECORD} does not seal it: "
            "restore the journal from a copy, or give the plan.json itself to compare it unchecked"
        )
    require_sealed(folder, "plan.json", "config.yaml", "dense.safetensors", seals=seals)


def _plan_file(path: Path) -> Path:
    if not path.exists():
        raise RunFolderError(f"{path} does not exist: give the folder of a run, or its plan.json")
    file = path / "plan.json" if path.is_dir() else path
    if not file.exists():
        raise RunFolderError(
            f"{path} has no plan.json: give the folder of a finished run "
            "(`prunus prune … --resume` finishes a run)"
        )
    return file


def _of_run(file: Path) -> bool:
    """Return whether the files next to a plan belong to it."""
    return file.name == "plan.json"


def _side(path: Path, file: Path) -> Side:
    said: dict[str, Any] = {}
    config, record = (file.parent / name for name in ("config.yaml", RECORD))
    if _of_run(file) and config.is_file():
        run = read_yaml(RunConfig, config)
        said = {key: getattr(run, key) for key in ("model", "data", "budget")}
        said["criterion"] = run.prune.criterion
    if _of_run(file) and record.is_file():
        for row in read_rows(record)[0]:
            if row.get("event") == "result":
                dense, pruned = row["dense"], row["pruned"]
                said |= {key: pruned[key] / max(dense[key], 1) for key in ("params", "macs")}
    return Side(path=str(path), **said)
