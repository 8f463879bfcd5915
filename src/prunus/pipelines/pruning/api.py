"""`prunus.prune(model, loader, budget=…)`: the main job on the user's own network."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from torch import nn

from prunus.batches import Example, Loader, OutputChoice, choose_output, read, rereadable
from prunus.core import (
    RECORD,
    DataError,
    ExportError,
    Record,
    digest,
    html_table,
    keeping_random_state,
    last,
    rows_to_lines,
    share_svg,
    to_dict,
    write_whole,
)
from prunus.evaluation import layer_rows
from prunus.export import Parity, export_onnx, save_weights
from prunus.modules import bake_, private_copy, unwrapped
from prunus.pipelines.pruning.checks import checked
from prunus.pipelines.pruning.examples import one_example, say_output
from prunus.pipelines.pruning.groups import find_sound_groups, require_reachable
from prunus.pipelines.pruning.late import attempt
from prunus.pipelines.pruning.latency import keep_table, table_for
from prunus.pipelines.pruning.measure import result_row, validation_accuracies
from prunus.pipelines.pruning.ps_iteration import ps_iteration
from prunus.pipelines.pruning.timing import timing_row
from prunus.pipelines.pruning.trial import try_phases
from prunus.plan import Budget, BudgetLike, Plan
from prunus.reports import failed_measures, print_headline, render_page
from prunus.runs import (
    Journal,
    Loaders,
    PruneConfig,
    Session,
    Watch,
    locked,
    open_fabric,
    require_one_process,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Report", "prune"]


@dataclass(frozen=True, repr=False)
class Report:
    """The result of `prune`: the plan and every measurement, to print, render and save.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> loader = [(torch.randn(32, 4), torch.arange(32) % 2)]
        >>> untrained = prunus.TrainConfig(epochs=0)
        >>> config = prunus.PruneConfig(iterations=1, finetune=untrained, final=untrained)
        >>> small, report = prunus.prune(net, loader, "macs=50%", config=config, device="cpu")
        >>> [row["event"] for row in report.record.rows][-2:]
        ['layers', 'timing']
    """

    plan: Plan
    record: Record
    config: PruneConfig
    model: nn.Module
    example: Example

    def __repr__(self) -> str:
        changes = ", ".join(f"{was} → {now} {what}" for what, was, now, _ in self._changes())
        return f"Report({type(self.model).__name__}: {changes})"

    def _repr_html_(self) -> str:
        rows = [
            (what, was, now, "" if share is None else share_svg(share, f"share of {what} left"))
            for what, was, now, share in self._changes()
        ]
        return html_table(repr(self.plan), ("", "dense", "pruned", "share left"), rows)

    def _changes(self) -> list[tuple[str, str, str, float | None]]:
        """Return what was measured of both networks: (what, dense, pruned, share left)."""
        result = last(self.record.rows, "result")
        if result is None:
            return []
        dense, pruned = result["dense"], result["pruned"]
        rows: list[tuple[str, str, str, float | None]] = []
        for key in ("test_accuracy", "validation_accuracy"):
            if key in dense:
                what = f"% {key.replace('_', ' ')}"
                rows.append((what, f"{100 * dense[key]:.2f}", f"{100 * pruned[key]:.2f}", None))
        for key, what in (("params", "params"), ("macs", "MACs"), ("bytes", "bytes")):
            share = pruned[key] / max(dense[key], 1)
            rows.append((what, f"{dense[key]:,}", f"{pruned[key]:,}", share))
        return rows

    def __str__(self) -> str:
        """Return the before/after table as text of 80 columns."""
        text = io.StringIO()
        print_headline(self.record.rows, Console(file=text, width=80))
        return text.getvalue()

    def to_html(self) -> str:
        """Return the report as one self-contained page."""
        config = {"model": type(self.model).__name__, "prune": to_dict(self.config)}
        return render_page(self.record.rows, config, json.loads(self.plan.to_json()))

    def save(self, folder: str | Path) -> Parity:
        """Write the plan, weights, journal, page and ONNX file of a run; return the parity.

        `prunus.load(folder, model=<a freshly built dense network>)` restores the model.

        Raises:
            ExportError: the network cannot be exported to ONNX, or the outputs of ONNX Runtime
                differ from PyTorch's. Everything else has been written then; the journal and the
                page give the reason.
        """
        folder = Path(folder)
        with locked(folder):
            write_whole(folder / "plan.json", self.plan.to_json())
            save_weights(self.model, folder / "model.safetensors")
            self._write_record(folder)
            parity, failed = None, None
            try:
                parity = export_onnx(self.model, self.example, folder / "model.onnx")
            except ExportError as error:
                failed = error
                self.record.append("failed", key="onnx", reason=str(error))
            self._write_record(folder)
            if parity is None:
                raise ExportError(f"{failed}; everything else is in {folder}") from failed
            return parity

    def _write_record(self, folder: Path) -> None:
        written = ("plan.json", "model.safetensors", "model.onnx")
        sums = {name: digest(folder / name) for name in written if (folder / name).is_file()}
        lines, _ = rows_to_lines((*self.record.rows, {"event": "files", "sha256": sums}))
        write_whole(folder / RECORD, lines)
        write_whole(folder / "report.html", self.to_html())


@torch.inference_mode(False)
def prune(
    model: nn.Module,
    loader: Loader,
    budget: BudgetLike,
    *,
    validation: Loader | None = None,
    test: Loader | None = None,
    config: PruneConfig | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "32-true",
    channels_last: bool = False,
    watch: Watch | None = None,
    output: OutputChoice | None = None,
) -> tuple[nn.Module, Report]:
    """Prune a trained classifier to a budget, with repair and retraining after each cut.

    Args:
        model: any `nn.Module` from inputs to class scores; it is not changed.
        loader: training batches, in any form that `read` knows; statistics are collected on them
            too.
        budget: upper limits such as `"macs=50%"`, `"params=20000"`, `"bytes=200k"`, `"ms=60%"`
            (from a latency table measured first), comma-separated; and a minimum:
            `"accuracy>=97%"` searches for the smallest network that reaches it on `validation`.
        validation: held-out training images for all choices. Without them the training images are
            used, and accuracies are those of training.
        test: measured once, at the end.
        channels_last: train in that memory format, see `fit_`.
        config: the settings; `PruneConfig(iterations=1, finetune=TrainConfig(epochs=0),
            final=TrainConfig(epochs=0))` cuts and repairs in one shot, without training.
        output: which of several outputs are the class scores: its name or index, or a function from
            what the network returns to them.

    Returns:
        The pruned network, on the CPU in eval mode, and a `Report`.

    Raises:
        BudgetError: the budget cannot be parsed or reached.
        ConfigError: settings are incompatible, or this is one of several ranks.
        NothingToPruneError, TraceError, NonFiniteError, DataError: see their messages.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> loader = [(torch.randn(32, 4), torch.arange(32) % 2)]
        >>> untrained = prunus.TrainConfig(epochs=0)
        >>> config = prunus.PruneConfig(iterations=1, finetune=untrained, final=untrained)
        >>> small, report = prunus.prune(net, loader, {"macs": "50%"}, config=config, device="cpu")
        >>> sum(p.numel() for p in small.parameters()) < 58
        True
    """
    require_one_process()
    config = checked(config or PruneConfig())
    limits = Budget.of(budget)
    model = unwrapped(model)
    with keeping_random_state("prune", seed=seed), choose_output(output):
        return _prune(
            model,
            Loaders(
                train=(loader := rereadable(loader)),
                calibration=loader,
                validation=loader if validation is None else rereadable(validation),
            ),
            limits,
            None if test is None else rereadable(test),
            config,
            open_fabric(device, precision),
            seed=seed,
            channels_last=channels_last,
            watch=watch or Watch(),
        )


def _prune(
    model: nn.Module,
    loaders: Loaders,
    limits: Budget,
    test: Loader | None,
    config: PruneConfig,
    fabric: Fabric,
    *,
    seed: int,
    channels_last: bool,
    watch: Watch,
) -> tuple[nn.Module, Report]:
    dense = private_copy(model)
    baked = {each.name: each.kind for each in bake_(dense)}
    first = next(iter(read(loaders.train, dense)), None)
    if first is None:
        raise DataError("the loader yields no batch: it needs at least one image per class")
    say_output(dense, first, watch)
    example = first.inputs.first(64).to("cpu")
    one = one_example(dense, example)
    groups = replace(find_sound_groups(dense, one, config), baked=baked)
    table = table_for(limits, dense, groups, example, config, watch=watch)
    require_reachable(groups, limits, config, table=table)
    on_device = private_copy(dense).to(fabric.device)
    groups = replace(groups, model=on_device)
    try_phases(
        groups,
        loaders,
        config,
        trainings=(config.finetune, config.final),
        test=test,
        fabric=fabric,
    )
    session = Session(
        loaders=loaders,
        fabric=fabric,
        seed=seed,
        journal=Journal(),
        watch=watch,
        table=table,
        channels_last=channels_last,
    )
    keep_table(table, groups, session.journal)
    pruned, plan = ps_iteration(on_device, limits, config, session, example=one, groups=groups)
    record = session.journal.record
    found = validation_accuracies(record.rows)
    whole = private_copy(model) if baked else dense
    for loader in (test, None) if test is not None else (None,):
        measure = partial(
            result_row, whole, pruned, example=example, validation=found, test=loader, table=table
        )
        key = "result" if loader is None else "test"  # without that split if it cannot be read
        if (result := attempt(record, key, measure)) is not None:
            record.append("result", **result)
            break
    if (
        rows := attempt(record, "layers", lambda: layer_rows(dense.cpu(), pruned, one))
    ) is not None:
        record.append("layers", layers=rows)
    for runtime in ("eager", *(each for each in config.runtimes if each == "compile")):
        timed = partial(timing_row, runtime, dense, pruned, example, table=table)
        if (row := attempt(record, f"timing {runtime}", timed)) is not None:
            record.append("timing", runtime=runtime, **row)
    for failed in failed_measures(record.rows):
        watch.say(f"not measured ({failed['key']}): {failed['reason']}")
    return pruned, Report(plan, record, config, pruned, example)
