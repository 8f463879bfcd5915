"""The before/after rows of a run: the test split is read once, at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from prunus.batches import Example, Inputs, Loader, read
from prunus.core import ResultRow, Row, SideRow, last, of_event, trajectory
from prunus.evaluation import LatencyTable, accuracy, count_bytes, count_params
from prunus.graph import collapsed_modules, count_macs, find_groups
from prunus.pipelines.pruning.latency import costs_of

__all__ = ["result_row"]


def validation_accuracies(rows: Sequence[Row]) -> dict[str, float]:
    """Return the validation accuracy of the dense and of the final network, from the journal.

    The final network is the one after the final training if that was kept, else the one after the
    last iteration that was kept.
    """
    way = list(trajectory(rows, "iteration").values())
    found = way[-1]["validation_accuracy"]
    final, fits = last(rows, "final"), of_event(rows, "fit")
    if final is not None:
        found = final["after"] if final["kept"] else final["before"]
    else:
        for fit in fits:
            if fit["phase"] == "final" and fit["epochs"]:
                found = fit["epochs"][-1]["validation_accuracy"]
    return {"dense": way[0]["validation_accuracy"], "pruned": found}


def result_row(
    dense: nn.Module,
    pruned: nn.Module,
    *,
    example: Example,
    validation: Mapping[str, float],
    test: Loader | None,
    table: LatencyTable | None = None,
) -> ResultRow:
    """Measure both networks; without a test loader the test accuracy is omitted.

    `validation` has both accuracies measured during the run, see `validation_accuracies`.

    With a latency table each side also has `predicted_ms`. Latency is measured by `timing_row`.
    `collapsed` names the modules that have only 1×1 filters left, if there are any.
    """
    example = Inputs.of(example)

    def side(network: nn.Module, validated: float) -> SideRow:
        network = network.cpu().eval()
        found: SideRow = {
            "validation_accuracy": validated,
            "params": count_params(network),
            "macs": count_macs(network, example),
            "bytes": count_bytes(network),
        }
        if table is not None:
            found["predicted_ms"] = costs_of(find_groups(network, example.first(1)), table)["ms"]
        if test is not None:
            found["test_accuracy"] = accuracy(network, test)
        return found

    row: ResultRow = {
        "dense": side(dense, validation["dense"]),
        "pruned": side(pruned, validation["pruned"]),
    }
    if collapsed := collapsed_modules(pruned):
        row["collapsed"] = collapsed
    if test is not None:
        row["test_images"] = sum(batch.size for batch in read(test, dense))
    return row
