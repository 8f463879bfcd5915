"""The gate: an artefact is kept only if its own runtime computes the same as PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from prunus.batches import Example, Inputs, flatten_tensors
from prunus.core import (
    ExportError,
    PrunusError,
    keeping_random_state,
    one_line,
    remove,
    write_whole,
)
from prunus.export.exportable import Exportable
from prunus.export.format import FORMATS, Format

__all__ = ["Parity", "check_exportable", "check_parity", "export", "export_model"]

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Parity:
    """Difference of a runtime's outputs from PyTorch's, over `images` images and at batch 1."""

    largest_difference: float
    tolerance: float
    images: int


def export_model(
    model: nn.Module,
    images: Example,
    path: Path,
    format: str = "onnx",  # noqa: A002 - the word of the command line
    *,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Export `model` in a format, open the file again, and compare all outputs on `images`.

    The comparison is that of `check_parity`. The files are written to `path`, and next to it if
    the format has several, only if the outputs match; otherwise earlier files are kept.

    Args:
        images: (B, C, H, W), or the arguments of a network with several inputs as
            `find_groups` takes them; if B is 1 the image is used twice.
        path: the file that is opened, with the suffix of the format.
        format: a name of `FORMATS`.

    Raises:
        ExportError: the network cannot be exported, or the outputs differ.
        UnknownNameError: unknown format.
        ConfigError: the format needs a package that is not installed.
    """
    kind = FORMATS[format]
    kind.require()
    example = Inputs.of(images)
    network = _exportable(model, example)
    with _scratch_folder(path) as folder:
        scratch = kind.files(folder, path.stem)
        with _said(model, kind):
            kind.write(network, _two(example), scratch[0])
        try:
            parity = _compare(network, example, scratch[0], kind, tolerance)
        except ExportError as error:
            raise ExportError(f"{error}: {path} was not written") from error
        targets = (path, *kind.files(path.parent, path.stem)[1:])
        if len(targets) > 1:
            remove(path)  # never a new file next to an old one
        for written, target in reversed(list(zip(scratch, targets, strict=True))):
            write_whole(target, written.read_bytes())
    return parity


@contextmanager
def _scratch_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder, or say that there is none."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="prunus-", ignore_cleanup_errors=True)
    except OSError as error:
        raise ExportError(
            f"{path} was not written, for there is no temporary folder ({error.strerror or error}):"
            " set TMPDIR to a folder with room"
        ) from error
    with folder as name:
        yield Path(name)


@keeping_random_state("export")
def export(
    model: nn.Module,
    images: Example,
    path: str | Path,
    format: str | None = None,  # noqa: A002 - the word of the command line
    *,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Write a network to a file, open it in its own runtime, and compare with PyTorch.

    max |PyTorch − runtime| ≤ tolerance·max(1, max |PyTorch|), on all of `images` and on the first
    alone, in float32 on the CPU. It is `export_model` with the format read off the file's name.

    Args:
        model: any `nn.Module`; all its outputs are exported, with their names. It is left
            untouched.
        images: (B, C, H, W), or the arguments of a network with several inputs, to compare on.
        path: the file, such as `model.onnx`, `model.pt2` or `model.xml`.
        format: a name of `prunus.export.FORMATS`, where the name of the file does not say it.

    Raises:
        ExportError: the network cannot be exported, or the outputs differ; nothing is written.
        UnknownNameError: there is no such format; lists the known ones.
        ConfigError: the format needs a package that is not installed.

    Example:
        >>> import tempfile
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     parity = export(net, torch.randn(3, 1, 2, 2), Path(folder, "model.pt2"))
        >>> parity.images, parity.largest_difference < parity.tolerance
        (3, True)
    """
    path = Path(path)
    if format is None:
        named = [key for key in FORMATS if path in FORMATS[key].files(path.parent, path.stem)]
        format = named[0] if named else path.suffix.lstrip(".")  # noqa: A001 - as above
    return export_model(model, images, path, format, tolerance=tolerance)


def check_parity(
    model: nn.Module,
    images: Example,
    path: Path,
    format: str = "onnx",  # noqa: A002 - the word of the command line
    *,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Compare the outputs of the artefact at `path` with those of `model`.

    Both compute in float32 on the CPU, on all of `images` and on the first one alone. The
    tolerance is for |PyTorch − runtime|, relative to the largest output if that is above 1.

    Raises:
        ExportError: the file cannot be opened or run, or the outputs differ: gives the difference,
            the output and the shape of the images.
        UnknownNameError, ConfigError: see `export_model`.
    """
    kind = FORMATS[format]
    kind.require()
    for file in (path, *kind.files(path.parent, path.stem)[1:]):
        if not file.is_file():
            raise ExportError(f"{file} is missing: export the network again")
    try:
        example = Inputs.of(images)
        return _compare(_exportable(model, example), example, path, kind, tolerance)
    except ExportError as error:
        raise ExportError(
            f"{path}: {error}: the file is damaged or was exported from another network, export "
            "it again"
        ) from error


def check_exportable(
    model: nn.Module,
    images: Example,
    format: str = "onnx",  # noqa: A002 - the word of the command line
) -> None:
    """Check that the exporter of a format takes `model`, without writing anything.

    It is the first and cheapest part of `export_model`: a later one can still fail.

    Raises:
        ExportError: it does not; says why.
        UnknownNameError, ConfigError: see `export_model`.
    """
    kind = FORMATS[format]
    example = Inputs.of(images)
    network = _exportable(model, example)
    with _said(model, kind):
        kind.check(network, _two(example))


def _two(example: Inputs) -> tuple[Tensor, ...]:
    """Return two blank examples: a batch of one would be specialised."""
    return tuple(_blank(t) for t in example.repeated(2).tensors)


@contextmanager
def _said(model: nn.Module, kind: Format) -> Iterator[None]:
    """Turn what an exporter raises into one sentence."""
    try:
        yield
    except Exception as error:
        raise ExportError(
            f"{type(model).__name__} cannot be exported to {kind.title}: {one_line(error)}"
        ) from error


def _exportable(model: nn.Module, example: Inputs) -> Exportable:
    """Return the network as it is exported.

    Raises:
        ExportError: it does not run on the CPU in float32.
    """
    try:
        return Exportable(model, example.repeated(2))
    except PrunusError:
        raise
    except Exception as error:  # networks' code can raise anything
        raise ExportError(
            f"{type(model).__name__} does not run in float32 on the CPU, so it cannot be exported: "
            f"{one_line(error)}"
        ) from error


def _blank(tensor: Tensor) -> Tensor:
    """Return an input of the same shape; numbers are zero, integers and masks kept."""
    return torch.zeros_like(tensor, dtype=torch.float32) if tensor.is_floating_point() else tensor


def _compare(
    network: Exportable, example: Inputs, path: Path, kind: Format, tolerance: float
) -> Parity:
    try:
        run = kind.open(path)
    except Exception as error:
        raise ExportError(f"{kind.runtime} cannot open it ({one_line(error)})") from error
    largest = 0.0
    for batch in _batches(example):
        shape = ", ".join("×".join(map(str, t.shape)) for t in batch)
        with torch.no_grad():
            expected = flatten_tensors(network(*batch))
        try:
            found = flatten_tensors(run(*batch))
        except Exception as error:
            raise ExportError(
                f"{kind.runtime} fails on images of shape {shape} ({one_line(error)})"
            ) from error
        if len(found) != len(expected):
            raise ExportError(
                f"{kind.runtime} has {len(found)} outputs, PyTorch {len(expected)} "
                f"({', '.join(network.outputs)})"
            )
        for name, one, other in zip(network.outputs, expected, found, strict=True):
            worst = _difference(name, one, other, shape, kind, tolerance)
            largest = max(largest, worst)
    return Parity(largest, tolerance, example.size)


def _difference(
    name: str, expected: Tensor, found: Tensor, shape: str, kind: Format, tolerance: float
) -> float:
    """Return the largest difference of one output.

    Raises:
        ExportError: it is above the tolerance, or the shapes differ.
    """
    if expected.is_floating_point() and not bool(expected.isfinite().all()):
        raise ExportError(
            f"PyTorch itself produced NaN or infinity in output {name!r} for images of shape "
            f"{shape}, so nothing can be compared"
        )
    if found.shape != expected.shape:
        raise ExportError(
            f"{kind.runtime} produced output {name!r} of shape {tuple(found.shape)} for "
            f"images of shape {shape}, PyTorch {tuple(expected.shape)}"
        )
    if not expected.numel():
        return 0.0
    expected, found = expected.double(), found.double()
    difference = (expected - found).abs().nan_to_num(nan=float("inf"))
    worst = float(difference.max())
    limit = tolerance * max(1.0, float(expected.abs().max()))
    if worst > limit:
        place = [int(i) for i in torch.unravel_index(difference.argmax(), difference.shape)]
        raise ExportError(
            f"{kind.runtime} differs from PyTorch by {worst:.2g} in output {name!r} at "
            f"{place} for images of shape {shape}, more than the tolerance of {limit:.2g}"
        )
    return worst


def _batches(example: Inputs) -> Iterator[list[Tensor]]:
    """Yield inputs at two batch sizes: all of them (a single one twice), and only the first."""
    inputs = example.detached().to("cpu", torch.float32)
    yield (inputs if inputs.size > 1 else inputs.repeated(2)).tensors
    yield inputs.first(1).tensors
