"""What is within the rows of a journal: epochs, layers, groups, networks; each a `TypedDict`."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

__all__ = [
    "BatchEntry",
    "Count",
    "Digest",
    "EpochEntry",
    "GroupEntry",
    "HistogramEntry",
    "LayerEntry",
    "LeadEntry",
    "Measured",
    "MedianEntry",
    "NetworkEntry",
    "Pair",
    "ScoredEntry",
    "Share",
    "SharesEntry",
    "Whole",
    "Within",
]

#: A number of things, which 64 bits hold.
Count = Annotated[int, Field(ge=0, lt=2**63)]
#: A measured number that can still be added up and drawn.
Measured = Annotated[float, Field(ge=-1e30, le=1e30)]
#: An accuracy or another share of a whole.
Share = Annotated[float, Field(ge=0, le=1)]
#: The same of the dense and of the pruned network.
Pair = Annotated[list[Count], Field(min_length=2, max_length=2)]
#: A SHA-256 in hexadecimal digits.
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _within(name: str) -> str:
    if name.startswith(("/", "~")) or {"", ".", ".."} & set(name.split("/")) or "\\" in name:
        raise ValueError("a path within the folder is expected")
    return name


#: The path of a file within the folder of its run.
Within = Annotated[str, AfterValidator(_within)]


class EpochEntry(TypedDict):
    """One epoch of a training; the terms of its loss and what was measured are further keys."""

    epoch: Count
    loss: Measured
    seconds: Measured
    train_accuracy: NotRequired[Share]
    validation_accuracy: NotRequired[Share]
    push_loss: NotRequired[Measured]
    push_lda: NotRequired[Measured]
    push_cov: NotRequired[Measured]
    push_align: NotRequired[Measured]


class GroupEntry(TypedDict):
    """A group of coupled units, and the modules that consume it."""

    name: str
    kind: str
    units: Count
    consumers: list[str]


class Whole(TypedDict):
    """A module that cannot be pruned, and why."""

    module: str
    reason: str


class HistogramEntry(TypedDict):
    """How many units of a group were kept and removed, by score."""

    edges: Annotated[list[Measured], Field(min_length=2)]
    kept: list[Count]
    removed: list[Count]


class ScoredEntry(TypedDict):
    """A group at a cut: its units before and after, and their scores, or why there are none."""

    name: str
    before: Count
    after: Count
    score_unit: str
    histogram: NotRequired[HistogramEntry]
    not_scored: NotRequired[str]


class SharesEntry(TypedDict):
    """The share of the labels that the input of a layer explains, with its interval."""

    module: str
    features: Count
    share: Measured
    low: Measured | None
    high: Measured | None
    gain: Measured | None


#: A layer of the dense and of the pruned network; `in` is a word of Python.
LayerEntry = TypedDict(
    "LayerEntry",
    {"module": str, "kind": str, "params": Pair, "macs": Pair, "out": Pair, "in": Pair},
)


class MedianEntry(TypedDict):
    """A time in seconds or a ratio of two, with its interval."""

    median: Annotated[float, Field(gt=0, le=1e30)]
    low: Annotated[float, Field(ge=0, le=1e30)]
    high: Annotated[float, Field(ge=0, le=1e30)]


class BatchEntry(TypedDict):
    """Both networks timed at one batch size."""

    dense: MedianEntry
    pruned: MedianEntry
    speedup: MedianEntry


class NetworkEntry(TypedDict):
    """A network that an arm of a search found; without a test accuracy before it is finished."""

    arm: str
    name: str
    params: Count
    macs: Count
    validation_accuracy: Share
    test_accuracy: Share | None
    epochs: Count
    folder: str
    alone: bool


class LeadEntry(TypedDict):
    """How far the derived networks lead over one arm at equal cost in one currency."""

    arm: str
    currency: str
    points: Count
    left_out: Count
    lead: Measured | None
    least: Measured | None
    most: Measured | None
