"""`prunus load`: rebuild a run's network in this process and compare it with the record."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prunus.core import ConfigError, ExportError, derive_seed, read_rows
from prunus.evaluation import count_bytes, count_params
from prunus.export import FORMATS, check_parity
from prunus.graph import count_macs
from prunus.runs.load import Shape, build_dense, load, read_plan, require_finished

__all__ = ["Audit", "Check", "fingerprints", "random_images", "run_load"]

#: Format version of `Audit.to_dict`; raised when a key changes its meaning.
VERSION = 1
#: Files of a run whose fingerprints are in its journal.
SEALED = ("plan.json", "model.safetensors", "dense.safetensors")


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
) -> Audit:
    """Rebuild the pruned network of a run from its plan and weights, and verify the folder.

    It checks the fingerprints (SHA-256) of plan and weights, the sizes of the pruned and of the
    dense network, and, with the export gate on `batch` random images, the outputs of every
    exported artefact in the folder. The arguments supply what the folder does not specify:
    `model` is a spec as for `prunus prune --model`, needed for a run of the Python call or one
    whose source file has moved.

    Raises:
        RunFolderError, PlanError, WeightsError, ConfigError: the network cannot be rebuilt.
    """
    folder = Path(run)
    require_finished(folder)
    dense, shape = build_dense(folder, model, input_shape=input_shape, num_classes=num_classes)
    sizes = {"dense": _sizes(dense, shape)}
    network = load(folder, dense)
    sizes["pruned"] = _sizes(network, shape)
    record = folder / "record.jsonl"
    rows = {row.get("event"): row for row in read_rows(record)[0]} if record.is_file() else {}
    plan = read_plan(folder / "plan.json")
    return Audit(
        run=str(folder),
        network=type(network).__name__,
        input_shape=shape,
        removed=sum(len(edit.removed) for edit in plan.groups.values()),
        units=sum(edit.of for edit in plan.groups.values()),
        checks=(
            *_files(folder, rows.get("files", {}).get("sha256", {})),
            *_counts(sizes, rows.get("result", {})),
            *_artefacts(network, random_images(shape, batch), folder),
        ),
    )


def random_images(shape: Shape, batch: int) -> Tensor:
    """Return images (B, C, H, W) of standard normal noise, from a fixed seed."""
    generator = torch.Generator().manual_seed(derive_seed(0, "audit", "images"))
    return torch.randn(batch, *shape, generator=generator)


def fingerprints(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the plan and the weights of a run, by file name."""
    return {name: _sha256(folder / name) for name in SEALED if (folder / name).is_file()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def _files(folder: Path, recorded: Mapping[str, str]) -> Iterator[Check]:
    found = fingerprints(folder)
    for name in SEALED:
        if name in found:
            yield _compared(name, recorded.get(name), found[name])
        elif name in recorded:  # the dense weights: the network is rebuilt without them
            note = "the file is missing, so the dense network cannot be restored"
            yield Check(
                subject=name, recorded=recorded[name], found=None, status="unknown", note=note
            )


def _counts(sizes: Mapping[str, Mapping[str, int]], result: Mapping[str, Any]) -> Iterator[Check]:
    for side in ("pruned", "dense"):
        for key, noun in (("params", "parameters"), ("macs", "MACs"), ("bytes", "bytes")):
            recorded = result.get(side, {}).get(key)
            yield _compared(f"{side} {noun}", recorded, sizes[side][key])


def _artefacts(network: nn.Module, images: Tensor, folder: Path) -> Iterator[Check]:
    """Compare every artefact in the folder with the network."""
    for name in FORMATS:
        path = FORMATS[name].files(folder)[0]
        if not path.is_file():
            continue
        found, note = None, ""
        status: Literal["same", "differs", "unknown"] = "same"
        try:
            found = check_parity(network, images, path, name).largest_difference
        except ExportError as error:
            status, note = "differs", str(error)
        except ConfigError as error:  # its runtime is not installed
            status, note = "unknown", str(error)
        yield Check(subject=path.name, recorded=None, found=found, status=status, note=note)
