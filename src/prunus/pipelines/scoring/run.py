"""`prunus score`: the class information of layers of a trained network, and channel scores."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from prunus.core import (
    RECORD,
    ConfigError,
    Record,
    RunFolderError,
    digest,
    find_scratch,
    html_table,
    rows_to_lines,
    share_svg,
    to_dict,
    to_json,
    to_yaml,
    write_whole,
)
from prunus.criteria import (
    LayerInformation,
    Scores,
    make_criterion,
    needs_of,
    rank_layers,
    score,
)
from prunus.pipelines.latent import add_traces
from prunus.pipelines.pruning import find_sound_groups
from prunus.pipelines.scoring.config import ScoreConfig
from prunus.pipelines.scoring.content import score_content
from prunus.reports import print_scores, render_scores
from prunus.runs import (
    PruneConfig,
    Watch,
    describe_run,
    locked,
    open_job,
    require_weights,
)
from prunus.statistics import Sampling, collect

__all__ = ["ScoreReport", "run_score"]


@dataclass(frozen=True, repr=False)
class ScoreReport:
    """The result of `run_score`: layers in execution order and scores by group.

    `content` is the content of `scores.json`: plain values with intervals, None for unknown ones.
    `record` is the journal.
    """

    config: ScoreConfig
    layers: list[LayerInformation]
    scores: Scores
    content: dict[str, Any]
    record: Record

    def __repr__(self) -> str:
        return f"ScoreReport({len(self.layers)} layers ranked; {self.scores!r})"

    def _repr_html_(self) -> str:
        rows = [
            (layer.module, layer.share, share_svg(layer.share, f"{layer.module}: share explained"))
            for layer in self.layers
        ]
        layers = html_table(
            "What each layer explains of the labels", ("layer", "share", "share"), rows
        )
        return layers + self.scores._repr_html_()

    def __str__(self) -> str:
        """Return the rankings of layers and channels as text of 80 columns."""
        text = io.StringIO()
        print_scores(self.content, Console(file=text, width=80))
        return text.getvalue()

    def to_html(self) -> str:
        """Return the rankings as one self-contained page."""
        return render_scores(self.content, self.record.rows, to_dict(self.config))

    def save(self, folder: str | Path) -> None:
        """Write `config.yaml`, `record.jsonl`, `scores.json` and `scores.html`."""
        folder = Path(folder)
        with locked(folder):
            write_whole(folder / "scores.json", to_json(self.content))  # marks the folder as ours
            write_whole(folder / "config.yaml", to_yaml(self.config))
            sums = {name: digest(folder / name) for name in ("config.yaml", "scores.json")}
            rows = (*self.record.rows, {"event": "files", "sha256": sums})
            write_whole(folder / RECORD, rows_to_lines(rows)[0])
            write_whole(folder / "scores.html", self.to_html())


def run_score(
    config: ScoreConfig,
    out: str | Path | None = None,
    *,
    command: str = "",
    watch: Watch | None = None,
    trust: bool = False,
) -> ScoreReport:
    """Rank the layers of a trained network and the units of its groups, with intervals.

    One pass over the calibration images (the training split, unaugmented, in a fixed order)
    → the share of the class labels that each layer explains (`rank_layers`) and the cost of each
    unit (`score`). All input is validated before that pass. Earlier scores in `out` are replaced;
    without `out` nothing is written. With `trust` a source file that only the folder of
    `config.run` names is run, see `load`.

    Raises:
        ConfigError: a setting is out of range, or something that the criterion needs is missing.
        RunFolderError: `out` contains other files, or the run to score is not finished.
        UnknownNameError, DataError, WeightsError, TraceError, NothingToPruneError,
            NonFiniteError: see their messages.

    Example:
        >>> config = ScoreConfig(model="lenet5", data="digits", weights="w.safetensors")
        >>> print(run_score(config, "runs/scores"))  # doctest: +SKIP
    """
    watch = watch or Watch()
    require_weights(config.model, config.weights, config.run, verb="score")
    options = dict(config.options)
    if config.criterion == "random":
        options.setdefault("seed", config.seed)
    rule = make_criterion(config.criterion, **options)
    needs = needs_of(rule)
    Sampling.parse(config.sampling)
    if "parents" in needs and not config.parents:
        raise ConfigError(
            f"criterion {config.criterion!r} needs the coarser class of each class: pass "
            "--set parents=[[0,0,1,…]], one number per class"
        )
    if out is not None:
        _check_folder(Path(out))
    job = open_job(config, "score", trust=trust)
    config, data, model = job.config, job.data, job.network.to(job.device).eval()
    groups = find_sound_groups(
        model,
        job.example.to(job.device),
        PruneConfig(inputs=config.inputs, ignored_layers=config.ignored_layers),
    )
    groups.require_any()
    record = Record()
    record.append("run", **describe_run(command, job.device, config.seed))
    started = time.monotonic()
    statistics = collect(
        model,
        data.calibration,
        groups,
        parents=config.parents,
        sampling=config.sampling,
        blocks=config.blocks,
        balance=config.balance,
        gradients="gradients" in needs,
        batches=config.batches,
        progress=watch.batches("statistics"),
    )
    traced = None
    if "traces" in needs:
        statistics, traced = add_traces(
            model,
            groups,
            statistics,
            config.latent,
            calibration=data.calibration,
            validation=data.validation,
            progress=watch.batches("tracing"),
        )
        record.append("latent", **traced)
    collected = time.monotonic()
    layers = rank_layers(groups, statistics, ridge=config.ridge, level=config.level)
    scores = score(groups, statistics, rule)
    record.append(
        "score",
        images=statistics.images,
        statistics_seconds=round(collected - started, 3),
        score_seconds=round(time.monotonic() - collected, 3),
    )
    content = score_content(config, groups, statistics, layers, scores, traced)
    report = ScoreReport(config, layers, scores, content, record)
    if out is not None:
        report.save(out)
    return report


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise RunFolderError(f"{out} is a file: give a folder with --out")
    found = set(out.iterdir()) - set(find_scratch(out)) if out.exists() else set()
    if found and not (out / "scores.json").exists():
        raise RunFolderError(
            f"{out} is not empty and contains no scores: give another folder with --out"
        )
