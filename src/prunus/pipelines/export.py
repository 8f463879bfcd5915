"""`prunus export`: artefacts of a finished run, or of weights, each checked by the export gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor, nn

from prunus.core import ConfigError, ExportError
from prunus.export import FORMATS, Parity, export_model, require_formats
from prunus.runs import (
    Journal,
    Shape,
    Watch,
    build_dense,
    build_network,
    locked,
    random_images,
    rebuild,
    require_finished,
    require_intact,
    require_weights,
)

__all__ = ["Exported", "export_all", "exported", "run_export"]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One format: its files and their difference from PyTorch, or why there are none."""

    format: str
    runtime: str
    files: tuple[Path, ...]
    parity: Parity | None = None
    error: str = ""


def run_export(
    run: str | Path | None,
    formats: Sequence[str],
    *,
    out: str | Path | None = None,
    model: str | None = None,
    weights: str | Path | None = None,
    input_shape: Shape | None = None,
    num_classes: int | None = None,
    batch: int = 64,
    watch: Watch | None = None,
    trust: bool = False,
) -> tuple[Exported, ...]:
    """Write the pruned network of a run, or the network of `model` with `weights`, in formats.

    Each artefact is compared with PyTorch on `batch` random images before it is written as
    `model.*` to `out`, by default the folder of the run, whose journal then records it. If one
    format fails, the others are still written.

    Args:
        model: a spec as for `prunus prune --model`; with a run, the constructor of its dense
            network if the folder does not specify it or the file has moved.
        input_shape, num_classes: default to those recorded in the folder.
        trust: whether a source file that only the folder names is run, see `load`.

    Raises:
        ConfigError: the arguments do not specify what to export, or a format needs a package that
            is not installed; raised before anything is written.
        UnknownNameError: unknown format or network.
        RunFolderError, PlanError, WeightsError: the network cannot be rebuilt.
    """
    require_formats(formats)
    if run is not None:
        require_weights(model, weights, run, verb="export")
        folder = Path(run)
        require_finished(folder)
        require_intact(folder, trust=trust)
        dense, shape = build_dense(
            folder, model, input_shape=input_shape, num_classes=num_classes, trust=trust
        )
        network = rebuild(folder, dense)
    else:
        network, shape = _from_weights(model, weights, input_shape, num_classes)
        if out is None:
            raise ConfigError("no run given, so there is no folder to write to: pass --out")
        folder = Path(out)
    target = folder if out is None else Path(out)
    inside = run is not None and target.resolve() == folder.resolve()
    with locked(target):
        journal = Journal(folder if inside else None)
        return export_all(network, random_images(shape, batch), target, formats, journal, watch)


def export_all(
    network: nn.Module,
    images: Tensor,
    folder: Path,
    formats: Sequence[str],
    journal: Journal,
    watch: Watch | None = None,
) -> tuple[Exported, ...]:
    """Export in every format; journal a row for each that passed the gate, and seal its files."""
    return tuple(_export(network, images, folder, name, journal, watch) for name in formats)


def exported(journal: Journal, name: str) -> bool:
    """Return whether a format was written according to the journal, and is still there."""
    record, folder = journal.record, journal.folder
    if folder is not None and not all(path.exists() for path in FORMATS[name].files(folder)):
        return False
    if name == "onnx":
        return record.find("export") is not None
    return record.find("artefact", format=name) is not None


def _export(
    network: nn.Module,
    images: Tensor,
    folder: Path,
    name: str,
    journal: Journal,
    watch: Watch | None,
) -> Exported:
    kind, record = FORMATS[name], journal.record
    files = kind.files(folder)
    if watch is not None:
        watch.say(f"exporting to {kind.title} and comparing in {kind.runtime}")
    try:
        parity = export_model(network, images, files[0], name)
    except ExportError as error:
        record.append("failed", key=name, reason=str(error))
        return Exported(format=name, runtime=kind.runtime, files=files, error=str(error))
    journal.seal(*(file.name for file in files))  # first: a resume skips what has its row
    if name == "onnx":  # the artefact that the report is about
        journal.append_once("export", {}, onnx=files[0].name, **asdict(parity))
    else:
        keys = {"format": name, "file": files[0].name, "runtime": kind.runtime}
        journal.append_once("artefact", {}, **keys, **asdict(parity))
    return Exported(format=name, runtime=kind.runtime, files=files, parity=parity)


def _from_weights(
    model: str | None,
    weights: str | Path | None,
    input_shape: Shape | None,
    num_classes: int | None,
) -> tuple[nn.Module, Shape]:
    """Build the network of a spec; weights are required unless it is built by the user's file."""
    if model is None:
        raise ConfigError("nothing to export: give the folder of a run, or --model")
    if input_shape is None or num_classes is None:
        raise ConfigError(f"{model} given without a run: pass --input-shape and --num-classes too")
    require_weights(model, weights, verb="export")
    network = build_network(
        model, num_classes=num_classes, input_shape=input_shape, weights=weights
    )
    return network.eval(), input_shape
