from typing import Any

from prunus.reports.run import words

Row = dict[str, Any]


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def test_the_verdict_is_one_sentence(journal: list[Row], config: Row) -> None:
    assert words.title(config) == "lenet5 on digits"
    assert plain(words.verdict(journal)) == (
        "10.0× fewer parameters, 4.1× fewer MACs, 2.3× faster at batch 64, "
        "test accuracy 98.6 % → 98.3 %."
    )


def test_the_verdict_of_a_run_in_progress(journal: list[Row]) -> None:
    assert plain(words.verdict(journal[:8])) == (
        "So far, after 1 iteration: 1.8× fewer parameters, 1.4× fewer MACs, "
        "validation accuracy 98.6 % → 98.4 %."
    )
    assert words.verdict(journal[:4]) == "Nothing has been pruned yet."


def test_a_slower_larger_network_is_called_so(journal: list[Row]) -> None:
    result = next(row for row in journal if row["event"] == "result")
    result["pruned"] |= {"params": 862160, "macs": 2293000}
    timing = next(row for row in journal if row["event"] == "timing")
    timing["batches"]["64"]["speedup"]["median"] = 0.5
    assert plain(words.verdict(journal)).startswith(
        "2.0× more parameters, the same MACs, 2.0× slower at batch 64"
    )


def test_names_may_be_nested_or_missing() -> None:
    assert words.title({"model": {"name": "resnet56"}, "dataset": "cifar10"}) == (
        "resnet56 on cifar10"
    )
    assert words.title({}) == "A pruning run"


def test_missing_tells_where_the_journal_ends(journal: list[Row]) -> None:
    assert words.missing(journal) == ""
    assert "after “prune” of iteration 1" in words.missing(journal[:6])
    assert "journal is empty" in words.missing([])


def test_captions_say_the_numbers(journal: list[Row]) -> None:
    accuracy = plain(words.accuracy_caption(journal))
    assert "98.61 % with 431 080 parameters; after 4 iterations, 97.81 % with 42 913" in accuracy
    assert "The ring is the finished network, at 98.33 %." in accuracy
    known = plain(words.knowledge_caption(journal))
    assert "at fc1: +25.00 points." in known
    assert "The last layer, fc2, explained 87.5 % and now explains 80.5 %." in known
    assert "jackknife" in known
    layers = plain(words.layer_caption(journal))
    assert "The convolutions have 5.9 % of the parameters shown, so theirs are also shown" in layers
    assert "fc1 lost the most parameters: 360 027 of its 400 500, which is 93 % of all" in layers
    assert "conv2 lost the most MACs: 1 520 000 of its 1 600 000, which is 72 % of all" in layers
    assert layers.endswith("1 of 4 layers kept all outputs.")
    assert "norms" not in layers
    assert "30 epochs in 6 phases, 38 s in total" in plain(words.training_caption(journal))
    assert "one image is 0.28 points" in words.headline_caption(journal)


def test_what_the_deepest_cut_cost_is_told(journal: list[Row]) -> None:
    def caption(cut: float, trained: float) -> str:
        for row in journal:
            if row["event"] == "prune":
                row |= {"validation_before": 0.98, "validation_cut": cut}
            elif row["event"] == "iteration":
                row["validation_accuracy"] = trained
        return plain(words.accuracy_caption(journal))

    costliest = "The costliest cut, in iteration 1, lost 3.0 points; training then "
    assert costliest + "gained 2.0." in caption(0.95, 0.97)
    assert costliest + "lost 1.0." in caption(0.95, 0.94)
    assert "No cut lost accuracy before training." in caption(0.98, 0.97)


def test_layers_that_multiply_nothing_or_lose_nothing_are_told(journal: list[Row]) -> None:
    layers = next(row for row in journal if row["event"] == "layers")["layers"]
    for layer in layers:
        layer |= {key: [layer[key][0]] * 2 for key in ("params", "macs", "out", "in")}
        layer["kind"] = "Linear"
    layers[0] |= {"kind": "BatchNorm2d", "macs": [0, 0]}
    assert words.layer_caption(journal) == (
        "Grey is the dense network, blue the pruned one; the first layer is on top. "
        "Layers without MACs, such as norms, are only in the table. No layer lost parameters."
    )


def test_what_the_layers_know_is_said_of_the_networks_there_are(journal: list[Row]) -> None:
    dense = [row for row in journal if row.get("iteration") in {0, None}]
    assert "In the dense network" in words.knowledge_caption(dense)
    assert "now explains" not in words.knowledge_caption(dense)
    later = [row for row in journal if row.get("iteration") == 2]
    for layer in next(row for row in later if row["event"] == "information")["layers"]:
        layer |= {"low": None, "high": None}
    caption = plain(words.knowledge_caption(later))
    assert "After iteration 2, the largest gain" in caption
    assert "jackknife" not in caption
    assert words.knowledge_name(0) == "Dense network"


def test_a_runtime_that_failed_and_a_chosen_multiple_are_told(journal: list[Row]) -> None:
    assert "not timed" not in words.headline_caption(journal)
    assert words.widths_caption(journal) == ""
    journal.append({"event": "timing", "runtime": "compile", "skipped": "there is no compiler"})
    journal.append({"event": "round_to", "multiple": 8, "reason": "multiples of 8: they are fast"})
    said = words.headline_caption(journal)
    assert said.endswith("torch.compile was not timed: there is no compiler.")
    assert "95 % intervals" in said
    assert words.widths_caption(journal) == (
        "Chosen from the latency table: multiples of 8: they are fast."
    )
