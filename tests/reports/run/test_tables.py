from typing import Any

from prunus.core.rows import last, trajectory
from prunus.reports import HeadlineRow, headline, layer_table
from prunus.reports.run.tables import group_table, knowledge, knowledge_table, refusals, untimed

Row = dict[str, Any]


def plain(row: HeadlineRow) -> tuple[str, ...]:
    cells = (row.metric, row.dense, row.pruned, row.change)
    return tuple(cell.replace("\u00a0", " ") for cell in cells)


def test_headline_to_the_letter(journal: list[Row]) -> None:
    assert [plain(row) for row in headline(journal)] == [
        ("Test accuracy", "98.61 %", "98.33 %", "−0.28 points"),
        ("Validation accuracy", "98.61 %", "98.33 %", "−0.28 points"),
        ("Parameters", "431 080", "42 913", "10.0 % kept, 10.0× fewer"),
        ("MACs", "2 293 000", "559 268", "24.4 % kept, 4.1× fewer"),
        ("Size on disk", "1 683.9 KiB", "167.6 KiB", "10.0 % kept, 10.0× smaller"),
        (
            "PyTorch, batch 1",
            "1.23 ms (1.10–1.40)",
            "0.68 ms (0.64–0.75)",
            "1.8× faster (1.70–1.90)",
        ),
        (
            "PyTorch, batch 64",
            "12.8 ms (12.1–13.9)",
            "5.58 ms (5.40–6.10)",
            "2.3× faster (2.2–2.4)",
        ),
        (
            "ONNX Runtime, batch 1",
            "0.60 ms (0.50–0.70)",
            "0.60 ms (0.50–0.70)",
            "same speed, within noise (0.97–1.04)",
        ),
    ]


def test_latency_change_is_the_paired_ratio_not_the_ratio_of_medians(journal: list[Row]) -> None:
    timing = next(row for row in journal if row["event"] == "timing")
    timing["batches"]["64"]["speedup"] = {"median": 0.8, "low": 0.5, "high": 0.9}
    assert headline(journal)[-2].change == "1.2× slower (1.1–2.0)"


def test_batches_are_ordered_as_numbers(journal: list[Row]) -> None:
    timing = last(journal, "timing")
    assert timing is not None
    timing["batches"] = dict.fromkeys(("256", "64", "8"), timing["batches"]["1"])
    assert [row.metric.split()[-1] for row in headline(journal)[-3:]] == ["8", "64", "256"]


def test_what_could_not_be_timed_says_why(journal: list[Row]) -> None:
    assert untimed(journal) == []
    journal.append({"event": "timing", "runtime": "compile", "skipped": "there is no compiler"})
    assert untimed(journal) == [("torch.compile", "there is no compiler")]
    assert len(headline(journal)) == 8


def test_before_the_result_the_newest_iteration_stands_in(journal: list[Row]) -> None:
    rows = [row for row in journal if row["event"] != "result" and row.get("iteration") != 4]
    table = {row.metric: row for row in headline(rows)}
    assert list(table) == ["Validation accuracy", "Parameters", "MACs"]
    assert plain(table["Validation accuracy"])[2:] == ("98.01 %", "−0.60 points")
    assert headline(journal[:3]) == []


def test_layer_table(journal: list[Row]) -> None:
    first, *_, classifier = layer_table(journal)
    assert (first.module, first.kind, first.inputs, first.outputs) == (
        "conv1",
        "Conv2d",
        "1",
        "20 → 5",
    )
    assert (first.params_before, first.params_after) == ("520", "130")
    assert first.params_kept.replace("\u00a0", " ") == "25.0 %"
    assert classifier.outputs == "10"
    assert layer_table(journal[:5]) == []


def test_a_layer_without_parameters_has_no_share_to_keep(journal: list[Row]) -> None:
    layers = next(row for row in journal if row["event"] == "layers")["layers"]
    layers[0]["params"] = [0, 0]
    assert layer_table(journal)[0].params_kept == "–"


def test_group_table_counts_what_the_newest_cut_left(journal: list[Row]) -> None:
    newest = trajectory(journal, "prune")[4]["groups"]
    assert [row.left for row in group_table(journal)] == [str(group["after"]) for group in newest]
    assert [row.left for row in group_table(journal[:2])] == ["20", "50", "500"]


def test_a_repeated_iteration_counts_once_and_a_refusal_is_told_once(journal: list[Row]) -> None:
    again = {**journal[3], "params": 7}
    assert trajectory([*journal, again], "iteration")[0]["params"] == 7
    assert list(trajectory([*journal, again], "iteration")) == [0, 1, 2, 3, 4]
    assert refusals(journal) == [("fc2", "its Gram matrix is singular")]


def test_knowledge_is_of_the_dense_and_the_newest_network(journal: list[Row]) -> None:
    assert list(knowledge(journal)) == [0, 4]
    assert list(knowledge(journal[:5])) == [0]
    assert knowledge(journal[:4]) == {}
    assert knowledge_table(journal[:4]) == []
    first, _, classifier = knowledge_table(journal)
    assert (first.module, first.features) == ("conv2", "20")
    cells = (first.first, first.first_gain, first.newest, first.newest_gain)
    assert [cell.replace("\u00a0", " ") for cell in cells] == [
        "50.0 % (48.0–52.0)",
        "+50.00 points",
        "46.0 % (44.0–48.0)",
        "+46.00 points",
    ]
    assert classifier.first.replace("\u00a0", " ") == "87.5 %"


def test_a_layer_only_one_network_has_is_a_dash_in_the_other(journal: list[Row]) -> None:
    dense, newest = (trajectory(journal, "information")[at]["layers"] for at in (0, 4))
    newest[0] |= {"features": 7, "gain": None}
    del newest[2], dense[1]
    table = {row.module: row for row in knowledge_table(journal)}
    assert list(table) == ["conv2", "fc2", "fc1"]
    assert (table["conv2"].features, table["conv2"].newest_gain) == ("20 → 7", "–")
    assert (table["fc2"].newest, table["fc2"].newest_gain) == ("–", "–")
    assert (table["fc1"].first, table["fc1"].features) == ("–", "50")
