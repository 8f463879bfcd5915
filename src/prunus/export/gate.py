"""The gate: an artefact is kept only if its own runtime computes the same as PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from prunus.batches import primary
from prunus.core import ExportError, write_whole
from prunus.export.format import FORMATS, OUTPUT, Format
from prunus.modules import private_copy

__all__ = ["Parity", "check_parity", "export", "export_model"]

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Parity:
    """Difference of a runtime's outputs from PyTorch's, over `images` images and at batch 1."""

    largest_difference: float
    tolerance: float
    images: int


class _Primary(nn.Module):
    """Only the main output, in a module that can be exported."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return primary(self.model(images))


def export_model(
    model: nn.Module,
    images: Tensor,
    path: Path,
    format: str = "onnx",  # noqa: A002 - the word of the command line
    *,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Export the main output of `model` in a format, open the file again, and compare on `images`.

    The comparison is that of `check_parity`. The files are written to `path`, and next to it if
    the format has several, only if the outputs match; otherwise earlier files are kept.

    Args:
        images: (B, C, H, W); if B is 1 the image is used twice.
        path: the file that is opened, with the suffix of the format.
        format: a name of `FORMATS`.

    Raises:
        ExportError: the network cannot be exported, or the outputs differ.
        UnknownNameError: unknown format.
        ConfigError: the format needs a package that is not installed.
    """
    kind = FORMATS[format]
    kind.require()
    network = _exportable(model)
    example = torch.zeros(2, *images.shape[1:])  # batch 1 would be specialised
    with tempfile.TemporaryDirectory(prefix="prunus-") as folder:
        scratch = kind.files(Path(folder), path.stem)
        try:
            kind.write(network, example, scratch[0])
        except Exception as error:
            raise ExportError(
                f"{type(model).__name__} cannot be exported to {kind.title}: "
                f"{type(error).__name__}: {_first_line(error)}"
            ) from error
        try:
            parity = _compare(network, images, scratch[0], kind, tolerance)
        except ExportError as error:
            raise ExportError(f"{error}: {path} was not written") from error
        targets = (path, *kind.files(path.parent, path.stem)[1:])
        if len(targets) > 1:
            path.unlink(missing_ok=True)  # never a new file next to an old one
        for written, target in reversed(list(zip(scratch, targets, strict=True))):
            write_whole(target, written.read_bytes())
    return parity


def export(
    model: nn.Module,
    images: Tensor,
    path: str | Path,
    format: str | None = None,  # noqa: A002 - the word of the command line
    *,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Write a network to a file, open it in its own runtime, and compare with PyTorch.

    max |PyTorch − runtime| ≤ tolerance·max(1, max |PyTorch|), on all of `images` and on the first
    alone, in float32 on the CPU. It is `export_model` with the format read off the file's name.

    Args:
        model: any `nn.Module`; its main output is exported. It is left untouched.
        images: (B, C, H, W), to compare on.
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
    images: Tensor,
    path: Path,
    format: str = "onnx",  # noqa: A002 - the word of the command line
    *,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Compare the outputs of the artefact at `path` with the main output of `model`.

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
        return _compare(_exportable(model), images, path, kind, tolerance)
    except ExportError as error:
        raise ExportError(
            f"{path}: {error}: the file is damaged or was exported from another network, export "
            "it again"
        ) from error


def _exportable(model: nn.Module) -> nn.Module:
    return _Primary(private_copy(model).cpu().float().eval())


def _compare(
    network: nn.Module, images: Tensor, path: Path, kind: Format, tolerance: float
) -> Parity:
    try:
        run = kind.open(path)
    except Exception as error:
        raise ExportError(f"{kind.runtime} cannot open it ({_first_line(error)})") from error
    largest = 0.0
    for batch in _batches(images):
        shape = "×".join(map(str, batch.shape))
        with torch.no_grad():
            expected = network(batch)
        if not bool(expected.isfinite().all()):
            raise ExportError(
                f"PyTorch itself produced NaN or infinity in output {OUTPUT!r} for images of shape "
                f"{shape}, so nothing can be compared"
            )
        try:
            found = run(batch)
        except Exception as error:
            raise ExportError(
                f"{kind.runtime} fails on images of shape {shape} ({_first_line(error)})"
            ) from error
        if found.shape != expected.shape:
            raise ExportError(
                f"{kind.runtime} produced output {OUTPUT!r} of shape {tuple(found.shape)} for "
                f"images of shape {shape}, PyTorch {tuple(expected.shape)}"
            )
        difference = (expected - found).abs().nan_to_num(nan=float("inf"))
        worst = float(difference.max())
        limit = tolerance * max(1.0, float(expected.abs().max()))
        if worst > limit:
            place = [int(i) for i in torch.unravel_index(difference.argmax(), difference.shape)]
            raise ExportError(
                f"{kind.runtime} differs from PyTorch by {worst:.2g} in output {OUTPUT!r} at "
                f"{place} for images of shape {shape}, more than the tolerance of {limit:.2g}"
            )
        largest = max(largest, worst)
    return Parity(largest, tolerance, len(images))


def _batches(images: Tensor) -> Iterator[Tensor]:
    """Yield images at two batch sizes: all of them (a single one twice), and only the first."""
    images = images.detach().cpu().float()
    yield images if len(images) > 1 else torch.cat([images, images])
    yield images[:1]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no text"])[0].rstrip(".")
