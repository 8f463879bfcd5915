"""Measure a network on a split of its data: `prunus eval`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as settings
from scipy.stats import binomtest
from torch import nn

from prunus.batches import Batch, Inputs, read
from prunus.core import STRICT, Task, html_table, keeping_random_state
from prunus.evaluation import count_bytes, count_params, measure
from prunus.graph import count_macs
from prunus.modules import private_copy, unwrapped
from prunus.runs import (
    Loader,
    Watch,
    open_job,
)

__all__ = ["EvalConfig", "Evaluation", "evaluate", "run_eval", "wilson"]

Size = Annotated[int, Field(gt=0)]


@settings(frozen=True, kw_only=True, config=STRICT)
class EvalConfig:
    """Which network, on which images. With `run` it is the network of that run."""

    model: str
    data: str
    weights: str | None = None
    run: str | None = None
    split: Literal["train", "validation", "test"] = "test"
    seed: int = 0
    data_root: str = "data"
    batch_size: Size = 256
    input_shape: tuple[Size, Size, Size] | None = None
    device: str = "auto"


@dataclass(frozen=True, kw_only=True, repr=False)
class Evaluation:
    """What was measured. `interval` is the 95 % interval of the accuracy, None without labels.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> loader = [(torch.randn(32, 4), torch.arange(32) % 2)]
        >>> found = prunus.evaluate(net, loader)
        >>> found.images, found.params, found.macs, found.bytes
        (32, 58, 48, 232)
    """

    model: str
    data: str
    split: str
    task: Task
    images: int
    quality: dict[str, float]
    interval: tuple[float, float] | None
    params: int
    macs: int
    bytes: int
    input_shape: tuple[int, ...]
    notes: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        quality = ", ".join(f"{key} {value:.4g}" for key, value in self.quality.items())
        if self.interval is not None:
            quality += f" (95 % interval {self.interval[0]:.4g} to {self.interval[1]:.4g})"
        return (
            f"Evaluation({quality} on {self.images:,} images; {self.params:,} params, "
            f"{self.macs:,} MACs, {self.bytes:,} bytes)"
        )

    def _repr_html_(self) -> str:
        sizes = {key: getattr(self, key) for key in ("images", "params", "macs", "bytes")}
        rows: list[tuple[str, str | float]] = [*self.quality.items(), *sizes.items()]
        if self.interval is not None:
            low, high = self.interval
            rows.insert(1, ("95 % interval", f"{low:.4g} to {high:.4g}"))
        where = f" on {self.data}, {self.split}" if self.data else ""
        return html_table(f"{self.model}{where}", ("", "measured"), rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


@keeping_random_state("evaluate")
def evaluate(model: nn.Module, loader: Loader) -> Evaluation:
    """Measure a network: quality with its 95 % interval, parameters, MACs and bytes.

    Quality is the accuracy, with Wilson's interval (`wilson`), where the targets are labels, and
    PSNR in dB and SSIM where they are images. MACs are those of one image.

    Args:
        model: any `nn.Module`; it is left untouched, and measured where its parameters are.
        loader: batches of images (B, C, H, W) and labels int64 (B,) or target images.

    Raises:
        DataError: the loader yields no image.
        NonFiniteError: an output is NaN.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> found = evaluate(net, [(torch.zeros(8, 1, 2, 2), torch.zeros(8, dtype=torch.long))])
        >>> found.images, found.params, found.macs, found.bytes
        (8, 10, 8, 40)
    """
    model = unwrapped(model)
    network = private_copy(model).eval()
    seen: list[Inputs] = []
    count = 0

    def counted() -> Iterator[Batch]:
        nonlocal count
        for batch in read(loader, network):
            if not seen:
                seen.append(batch.inputs.first(1))
            count += batch.size
            yield batch

    quality = measure(network, counted())
    share = quality.get("accuracy")
    return Evaluation(
        model=type(model).__name__,
        data="",
        split="",
        task="restoration" if share is None else "classification",
        images=count,
        quality=quality,
        interval=None if share is None else wilson(share, count),
        params=count_params(network),
        macs=count_macs(network, seen[0]),
        bytes=count_bytes(network),
        input_shape=tuple(seen[0].tensors[0].shape[1:]),
    )


def run_eval(config: EvalConfig, *, watch: Watch | None = None, trust: bool = False) -> Evaluation:
    """Measure a network on one split, unaugmented: accuracy, or PSNR and SSIM.

    Parameters and MACs are counted on the network as it is, for the shape of its images. With
    `trust` a source file that only the folder of `config.run` names is run, see `load`.

    Raises:
        ConfigError: no trained weights are given, or two sources of them.
        UnknownNameError, DataError, WeightsError, RunFolderError, NonFiniteError: see their
            messages.
    """
    watch = watch or Watch()
    job = open_job(config, "eval", trust=trust)
    config, data = job.config, job.data
    notes: tuple[str, ...] = ()
    if config.run is None and config.weights is None:
        notes = ("no weights given: the network is as it was built",)
    loader = {"train": data.calibration, "validation": data.validation, "test": data.test}[
        config.split
    ]
    model = job.network.to(job.device).eval()
    quality = measure(model, loader, watch.batches(f"measuring on the {config.split} split"))
    dataset: Any = loader.dataset
    images = len(dataset)
    share = quality.get("accuracy")
    return Evaluation(
        model=config.run or config.model,
        data=config.data,
        split=config.split,
        task=data.task,
        images=images,
        quality=quality,
        interval=None if share is None else wilson(share, images),
        params=count_params(model),
        macs=count_macs(model, job.example.to(job.device)),
        bytes=count_bytes(model),
        input_shape=data.input_shape,
        notes=notes,
    )


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share seen in `count` trials [Wilson], theory.md (47).

    (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n), with p = `share`, a multiple of 1/n, and
    n = `count`.

    Example:
        >>> low, high = wilson(0.5, 100)
        >>> round(low, 4), round(high, 4)
        (0.4038, 0.5962)
    """
    found = binomtest(round(share * count), count).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)
