"""`prunus load`: rebuild a run's network in this process and compare it with the record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prunus.core import (
    RECORD,
    ConfigError,
    ExportError,
    PrunusError,
    Row,
    RunFolderError,
    broken_seal,
    derive_seed,
    digest,
    last,
    read_rows,
    seals_of,
)
from prunus.evaluation import count_bytes, count_params
from prunus.export import FORMATS, check_parity
from prunus.graph import count_macs
from prunus.runs.load import Shape, build_dense, read_plan, rebuild, require_finished

__all__ = ["Audit", "Check", "random_images", "run_load"]

#: Format version of `Audit.to_dict`; raised when a key changes its meaning.
VERSION = 2
#: Files that a run may lack, since its network is rebuilt without them.
OPTIONAL = ("dense.safetensors", "config.yaml")
#: Files that are sealed while a run goes on, and removed at its end.
PASSING = "steps/"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One item compared with the record.

    `status`: `same`, `differs`, or `unknown` if nothing was recorded or nothing can be compared
    here; `note` then gives the reason and what to do.
    """

    subject: str
    recorded: str | int | None
    found: str | int | float | None
    status: Literal["same", "differs", "unknown"]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What `run_load` found.

    Attributes:
        run: the folder.
        network: the class of the network.
        input_shape: channels, height, width.
        removed, units: number of units that the plan removes, and that its groups had.
        checks: in order: files, sizes, the dense network, artefacts.
    """

    run: str
    network: str
    input_shape: Shape
    removed: int
    units: int
    checks: tuple[Check, ...]

    @property
    def intact(self) -> bool:
        """Whether everything that can be compared matches."""
        return all(check.status != "differs" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `prunus load --json` prints them."""
        return {
            "version": VERSION,
            "status": "intact" if self.intact else "differs",
            "run": self.run,
            "network": self.network,
            "input_shape": list(self.input_shape),
            "removed": self.removed,
            "units": self.units,
            "checks": [asdict(check) for check in self.checks],
        }


def run_load(
    run: str | Path,
    *,
    model: str | None = None,
    input_shape: Shape | None = None,
    num_classes: int | None = None,
    batch: int = 64,
    trust: bool = False,
) -> Audit:
    """Rebuild the pruned network of a run from its plan and weights, and verify the folder.

    It checks the SHA-256 of every sealed file, the sizes of the pruned and of the dense network,
    and, with the export gate on `batch` random images, the outputs of every exported artefact in
    the folder. The arguments supply what the folder does not specify: `model` is a spec as for
    `prunus prune --model`, needed for a run of the Python call or one whose source file has moved;
    with `trust`, a source file that only the folder names is run, and artefacts of a format are
    opened whose runtime can run code in them (`.pt2`).

    Raises:
        RunFolderError, PlanError, WeightsError, ConfigError: the network cannot be rebuilt.
    """
    folder = Path(run)
    require_finished(folder)
    record = folder / RECORD
    rows = read_rows(record)[0] if record.exists() else None
    files = tuple(_files(folder, rows))
    try:
        dense, shape = build_dense(
            folder, model, input_shape=input_shape, num_classes=num_classes, trust=trust
        )
        sizes = {"dense": _sizes(dense, shape)}
        network = rebuild(folder, dense)
    except PrunusError as error:
        broken = [check.note for check in files if check.status == "differs"]
        if not broken:
            raise
        raise RunFolderError(f"{broken[0]} (the network cannot be rebuilt: {error})") from error
    sizes["pruned"] = _sizes(network, shape)
    plan = read_plan(folder / "plan.json")
    return Audit(
        run=str(folder),
        network=type(network).__name__,
        input_shape=shape,
        removed=sum(len(edit.removed) for edit in plan.groups.values()),
        units=sum(edit.of for edit in plan.groups.values()),
        checks=(
            *files,
            *_counts(sizes, last(rows or [], "result") or {}),
            *_artefacts(network, random_images(shape, batch), folder, trust=trust),
        ),
    )


def random_images(shape: Shape, batch: int) -> Tensor:
    """Return images (B, C, H, W) of standard normal noise, from a fixed seed."""
    generator = torch.Generator().manual_seed(derive_seed(0, "audit", "images"))
    return torch.randn(batch, *shape, generator=generator)


def _sizes(network: nn.Module, shape: Shape) -> dict[str, int]:
    return {
        "params": count_params(network),
        "macs": count_macs(network, torch.zeros(1, *shape)),
        "bytes": count_bytes(network),
    }


def _compared(subject: str, recorded: Any, found: Any) -> Check:
    if recorded is None:
        note = "the journal does not record it"
        return Check(subject=subject, recorded=None, found=found, status="unknown", note=note)
    status: Literal["same", "differs"] = "same" if recorded == found else "differs"
    return Check(subject=subject, recorded=recorded, found=found, status=status)


def _files(folder: Path, rows: Sequence[Row] | None) -> Iterator[Check]:
    """Compare every sealed file of a folder with its seal."""
    if rows is None:
        note = f"{folder} has no {RECORD}, without which no file can be checked"
        yield Check(subject=RECORD, recorded=None, found=None, status="differs", note=note)
    seals = seals_of(rows or [])
    for name in ("plan.json", "model.safetensors"):
        if name not in seals:
            note = f"{folder / name} cannot be checked: the journal does not record it"
            yield Check(subject=name, recorded=None, found=None, status="differs", note=note)
    for name, recorded in seals.items():
        if name.startswith(PASSING):
            continue
        if (folder / name).is_file():
            broken = broken_seal(folder, name, seals)
            yield Check(
                subject=name,
                recorded=recorded,
                found=digest(folder / name),
                status="differs" if broken else "same",
                note=broken or "",
            )
        else:
            optional = name in OPTIONAL
            note = f"{folder / name} is missing"
            note += ", so the dense network cannot be restored" if optional else ""
            yield Check(
                subject=name,
                recorded=recorded,
                found=None,
                status="unknown" if optional else "differs",
                note=note,
            )


def _counts(sizes: Mapping[str, Mapping[str, int]], result: Mapping[str, Any]) -> Iterator[Check]:
    for side in ("pruned", "dense"):
        for key, noun in (("params", "parameters"), ("macs", "MACs"), ("bytes", "bytes")):
            recorded = result.get(side, {}).get(key)
            yield _compared(f"{side} {noun}", recorded, sizes[side][key])


def _artefacts(network: nn.Module, images: Tensor, folder: Path, *, trust: bool) -> Iterator[Check]:
    """Compare every artefact in the folder with the network."""
    for name in FORMATS:
        path = FORMATS[name].files(folder)[0]
        if not path.is_file():
            continue
        found, note = None, ""
        status: Literal["same", "differs", "unknown"] = "same"
        if FORMATS[name].runs_code and not trust:
            note = (
                f"{FORMATS[name].runtime} can run code that {path} brings, so it is only opened if "
                "you trust the folder (trust=True, --trust)"
            )
            yield Check(
                subject=f"{path.name} outputs",
                recorded=None,
                found=None,
                status="unknown",
                note=note,
            )
            continue
        try:
            found = check_parity(network, images, path, name).largest_difference
        except ExportError as error:
            status, note = "differs", str(error)
        except ConfigError as error:  # its runtime is not installed
            status, note = "unknown", str(error)
        yield Check(
            subject=f"{path.name} outputs", recorded=None, found=found, status=status, note=note
        )
