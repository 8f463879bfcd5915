"""Measure a network on a split of its data: `prunus eval`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as settings
from scipy.stats import binomtest

from prunus.core import STRICT, Task, html_table
from prunus.evaluation import count_bytes, count_params, measure
from prunus.graph import count_macs
from prunus.runs import (
    Watch,
    open_job,
)

__all__ = ["EvalConfig", "Evaluation", "run_eval", "wilson"]

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
    """What was measured. `interval` is the 95 % interval of the accuracy, None without labels."""

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
    input_shape: tuple[int, int, int]
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
        return html_table(f"{self.model} on {self.data}, {self.split}", ("", "measured"), rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def run_eval(config: EvalConfig, *, watch: Watch | None = None) -> Evaluation:
    """Measure a network on one split, unaugmented: accuracy, or PSNR and SSIM.

    Parameters and MACs are counted on the network as it is, for the shape of its images.

    Raises:
        ConfigError: no trained weights are given, or two sources of them.
        UnknownNameError, DataError, WeightsError, RunFolderError, NonFiniteError: see their
            messages.
    """
    watch = watch or Watch()
    job = open_job(config, "eval")
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
