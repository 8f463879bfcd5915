"""Every event of a run's journal with its keys, and functions that select rows.

A row is one JSON object with the key `event`; its other keys are a `TypedDict` here, one per event,
in the order in which a run writes them. Old journals may lack keys that are `NotRequired`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from prunus.core.entries import (
    BatchEntry,
    Count,
    Digest,
    EpochEntry,
    GroupEntry,
    LayerEntry,
    LeadEntry,
    Measured,
    NetworkEntry,
    ScoredEntry,
    Share,
    SharesEntry,
    Whole,
    Within,
)

__all__ = [
    "DERIVED",
    "EVENTS",
    "PLAIN",
    "ArmRow",
    "CandidateRow",
    "Costs",
    "Event",
    "ResultRow",
    "Row",
    "RunRow",
    "SideRow",
    "StepRow",
    "last",
    "latest",
    "networks",
    "of_event",
    "rejected",
    "trajectory",
]

#: A row as it is read back: any event.
Row = dict[str, Any]

#: The arm whose networks the search is for; all others are compared with it.
DERIVED = "derived"
#: The arm of the grown network trained without push, which the baselines prune.
PLAIN = "plain"


class RunRow(TypedDict):
    """How and where a run started. `workers` are the processes of `prunus grow`."""

    command: str
    prunus: str
    torch: str
    python: str
    device: str
    seed: int
    started: str
    workers: NotRequired[int]


class LatencyRow(TypedDict):
    """The latency table that a budget in milliseconds uses; `ms` of the dense network."""

    batch: int
    threads: int
    machine: str
    rest: float
    ms: float


class FitRow(TypedDict):
    """One training phase, with a row per epoch; `iteration` is null outside of iterations."""

    phase: str
    iteration: Count | None
    epochs: list[EpochEntry]


class GraphRow(TypedDict):
    """Which parts of the dense network can be pruned, and which cannot.

    `baked`: by module, what computed its weight before it became a plain one.
    """

    groups: list[GroupEntry]
    unprunable: list[Whole]
    baked: NotRequired[dict[str, str]]


class ProtectedRow(TypedDict):
    """Units of the dense network that are kept for a class, by group."""

    classes: list[int]
    groups: dict[str, list[int]]


class RoundToRow(TypedDict):
    """The multiple that widths are rounded to, and why; `excess` are shares by multiple."""

    multiple: int
    reason: str
    layers: int
    excess: dict[str, list[float]]


class Costs(TypedDict):
    """What a network costs; `ms` where there is a latency table."""

    params: Count
    macs: Count
    bytes: Count
    ms: NotRequired[Measured]


class IterationRow(Costs):
    """A network after an iteration, 0 for the dense one; `kept` where there is a floor."""

    iteration: Count
    validation_accuracy: Share
    kept: NotRequired[bool]


class InformationRow(TypedDict):
    """What share of the labels each layer explains; `final` marks the resulting network."""

    iteration: Count
    layers: Annotated[list[SharesEntry], Field(min_length=1)]
    final: NotRequired[bool]


class LatentRow(TypedDict):
    """Which of the last hidden layer's `width` dimensions were chosen and traced, and by what rule.

    For an `iteration` of pruning, or for the `network` before or after a push.
    """

    iteration: NotRequired[int]
    network: NotRequired[str]
    head: str
    width: int
    constant: int
    copies: int
    by: str
    values: list[float]
    discriminants: list[float]
    counts: NotRequired[list[int]]
    accuracy: NotRequired[dict[str, list[float]]]
    kept: int
    rule: NotRequired[str]
    traced_images: NotRequired[int]
    held_out: NotRequired[list[float]]


class PruneRow(Costs):
    """A cut: its target, what was left, accuracies before and after, scores by group."""

    iteration: Count
    target: str
    validation_before: Share
    validation_cut: Share
    predicted: Row
    curves: dict[str, float] | None
    groups: list[ScoredEntry]
    compensated: list[str]
    not_compensated: list[Whole]


class StopRow(TypedDict):
    """Why the iterations or the growing stopped."""

    reason: str


class FinalRow(TypedDict):
    """What the final training did to validation accuracy, where there is a floor."""

    before: Share
    after: Share
    floor: float
    kept: bool


class FilesRow(TypedDict):
    """SHA-256 of plan and weights, by file name."""

    sha256: dict[Within, Digest]


class SideRow(TypedDict):
    """One of the two networks of a result; `predicted_ms` by the latency table."""

    validation_accuracy: Share
    test_accuracy: NotRequired[Share]
    params: Count
    macs: Count
    bytes: Count
    predicted_ms: NotRequired[Measured]


class ResultRow(TypedDict):
    """The dense and the pruned network; `collapsed` modules have only 1×1 filters left."""

    dense: SideRow
    pruned: SideRow
    test_images: NotRequired[Annotated[Count, Field(gt=0)]]
    collapsed: NotRequired[list[str]]


class LayersRow(TypedDict):
    """Widths, parameters and MACs of each layer, before and after."""

    layers: list[LayerEntry]


class ExportRow(TypedDict):
    """The ONNX file and its largest difference from PyTorch on `images` images."""

    onnx: str
    largest_difference: Measured
    tolerance: Measured
    images: Count


class ArtefactRow(TypedDict):
    """An exported file of another format, and the same figures."""

    format: str
    file: str
    runtime: str
    largest_difference: Measured
    tolerance: Measured
    images: Count


class TimingRow(TypedDict):
    """Both networks timed in one runtime, by batch; or why they could not be: `skipped`."""

    runtime: str
    threads: int
    batches: NotRequired[dict[Annotated[str, Field(pattern="^[1-9][0-9]{0,8}$")], BatchEntry]]
    skipped: NotRequired[str]


class TrainedRow(TypedDict):
    """A trained network: accuracies, or PSNR and SSIM, on validation and test."""

    params: Count
    macs: Count
    bytes: Count
    test_images: Count
    validation_accuracy: NotRequired[Share]
    test_accuracy: NotRequired[Share]
    validation_psnr: NotRequired[float]
    validation_ssim: NotRequired[float]
    test_psnr: NotRequired[float]
    test_ssim: NotRequired[float]


class ScoreRow(TypedDict):
    """How many images `prunus score` read, and how long it took."""

    images: int
    statistics_seconds: float
    score_seconds: float


class CandidateRow(Costs):
    """A candidate of a growing step; accuracies are null before it is trained."""

    step: Count
    stage: Count
    model: str
    sizes: list[Count]
    accuracy: Share | None
    information: float
    trained_information: float | None
    seconds: float


class StepRow(Costs):
    """The network that a growing step kept, 0 for the start; `choices`: the stage by each rule."""

    step: Count
    stage: Count | None
    model: str
    sizes: list[Count]
    accuracy: Share
    information: float
    weights: Within
    choices: NotRequired[dict[str, int]]


class GrownRow(TypedDict):
    """The best network of growing, after its training."""

    step: Count
    model: str
    folder: Within
    validation_accuracy: Share
    test_accuracy: Share


class StartRow(TypedDict):
    """The network that a search pushes and prunes, and how many images it is evaluated on."""

    model: str
    steps: list[StepRow]
    validation_images: Count
    test_images: Count


class ArmRow(TypedDict):
    """A finished arm of a search, with a row per network that it found."""

    key: str
    networks: list[NetworkEntry]
    seconds: float


class FailedRow(TypedDict):
    """What could not be done, and why: an arm of a search, or a file in a format."""

    key: str
    reason: str


class ComparisonRow(TypedDict):
    """How far the derived networks lead at equal cost, by arm and currency."""

    arms: list[LeadEntry]


Event = Literal[
    "run",
    "latency",
    "fit",
    "graph",
    "iteration",
    "protected",
    "round_to",
    "information",
    "latent",
    "prune",
    "stop",
    "final",
    "files",
    "result",
    "layers",
    "export",
    "artefact",
    "timing",
    "trained",
    "score",
    "candidate",
    "step",
    "grown",
    "start",
    "arm",
    "failed",
    "comparison",
]

#: The keys of each event, except `event` itself.
EVENTS: Mapping[Event, type] = {
    "run": RunRow,
    "latency": LatencyRow,
    "fit": FitRow,
    "graph": GraphRow,
    "iteration": IterationRow,
    "protected": ProtectedRow,
    "round_to": RoundToRow,
    "information": InformationRow,
    "latent": LatentRow,
    "prune": PruneRow,
    "stop": StopRow,
    "final": FinalRow,
    "files": FilesRow,
    "result": ResultRow,
    "layers": LayersRow,
    "export": ExportRow,
    "artefact": ArtefactRow,
    "timing": TimingRow,
    "trained": TrainedRow,
    "score": ScoreRow,
    "candidate": CandidateRow,
    "step": StepRow,
    "grown": GrownRow,
    "start": StartRow,
    "arm": ArmRow,
    "failed": FailedRow,
    "comparison": ComparisonRow,
}


def of_event(rows: Iterable[Row], event: Event) -> list[Row]:
    """Return the rows of `event`, oldest first."""
    return [row for row in rows if row["event"] == event]


def last(rows: Iterable[Row], event: Event) -> Row | None:
    """Return the newest row of `event`, or None."""
    return next(iter(of_event(rows, event)[::-1]), None)


def trajectory(rows: Sequence[Row], event: Event) -> dict[int, Row]:
    """Return the rows of `event` by iteration, in order; of a repeated iteration, the newest.

    Iterations that a search reverted are left out.
    """
    lost = {row["iteration"] for row in rejected(rows)}
    found = {row["iteration"]: row for row in of_event(rows, event)}
    return {at: row for at, row in sorted(found.items()) if at not in lost}


def rejected(rows: Sequence[Row]) -> list[Row]:
    """Return the iterations that fell below the floor of accuracy."""
    return [row for row in of_event(rows, "iteration") if row.get("kept") is False]


def networks(rows: Sequence[Row]) -> list[Row]:
    """Return one row per network found so far, arm by arm."""
    return [network for arm in of_event(rows, "arm") for network in arm["networks"]]


def latest(rows: Sequence[Row], currency: str) -> list[Row]:
    """Return an arm's networks; of those with the same cost, only the last.

    That is the same structure after more training. Networks that do not form a curve are all kept.
    """
    found = {(row["name"] if row["alone"] else "", row[currency]): row for row in rows}
    return list(found.values())
