"""The published recipes: each reads, names its table, and asks for what there is."""

from pathlib import Path

import pytest

from prunus.core import read_yaml
from prunus.criteria import CRITERIA
from prunus.data import DATASETS
from prunus.models import MODELS, build_model
from prunus.pipelines import GrowRunConfig, RunConfig, SearchConfig
from prunus.pipelines.pruning.checks import checked
from prunus.plan import Budget

FOLDER = Path(__file__).resolve().parents[1] / "configs"
KINDS = {"grow": GrowRunConfig, "search": SearchConfig}
RECIPES = sorted(FOLDER.glob("*.yaml"))
DOCUMENTS = ("Kung-Hou", "Kung-slides", "Tian", "Dense-xUnit", "Data-feature")


def test_there_are_recipes_of_every_document() -> None:
    heads = [path.read_text().splitlines()[0] for path in RECIPES]
    for key in DOCUMENTS:
        assert any(f"[{key}, " in head for head in heads), key


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_names_its_table_and_what_exists(path: Path) -> None:
    comment = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert comment[0].startswith(tuple(f"# [{key}, " for key in DOCUMENTS))
    where = " ".join(comment).lower()
    assert any(word in where for word in ("table", "figure", "section", "4.3", "rows"))
    verb = path.stem.rpartition("_")[2]
    config = read_yaml(KINDS.get(verb, RunConfig), path)
    entry = MODELS[config.model]
    data = DATASETS[config.data.partition(":")[0]]
    assert entry.task == data.task
    assert config.train.epochs > 0
    if path.stem.endswith("_push"):
        assert config.train.push is not None
    if path.stem.endswith("_prune"):
        assert config.budget and checked(config.prune).criterion == "deep_lda"
    if path.stem.endswith("_search"):
        assert Budget.parse(config.budget) and checked(config.prune).criterion == "deep_lda"
        assert all(name in MODELS for name in config.fixed)
        assert all(name in CRITERIA for name in config.rivals)
    shape = config.input_shape or data.input_shape
    import torch

    with torch.device("meta"):
        build_model(config.model, num_classes=entry.num_classes or None, input_shape=shape)
