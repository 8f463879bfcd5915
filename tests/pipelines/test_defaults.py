"""What is not said means the same in Python and on the command line."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest

import prunus
from prunus.pipelines import EvalConfig, PruneConfig, ScoreConfig
from prunus.runs import RunConfig

#: (function, parameter) → why its default reads otherwise, and means the same.
ALIKE = {
    ("score", "intervals"): "None is `True` where intervals can be had; so is the config's `True`",
    ("make_plan", "round_to"): "1, which null means without a latency table",
    ("apply_", "compensate"): "None is `joint` with a loader, which a run always has",
    ("fit_", "parents"): "None: no coarser classes, as no list of them",
}
VERBS = (
    *(prunus.collect, prunus.score, prunus.make_plan, prunus.apply_, prunus.fit_, prunus.prune),
    *(prunus.find_groups, prunus.rank_layers, prunus.train, prunus.push),
)


def defaults(config: type) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(config):
        value: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        elif hasattr(value, "default_factory"):  # pydantic's own kind of field
            value = value.get_default(call_default_factory=True)
        found[field.name] = value
    return found


SETTINGS = [defaults(each) for each in (PruneConfig, ScoreConfig, RunConfig, EvalConfig)]


@pytest.mark.parametrize("function", VERBS, ids=lambda function: function.__name__)
def test_a_default_in_python_is_that_of_the_settings(function: Callable[..., Any]) -> None:
    compared = 0
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is inspect.Parameter.empty:
            continue
        if (function.__name__, name) in ALIKE:
            continue
        for settings in SETTINGS:
            if name in settings:
                assert parameter.default == settings[name], name
                compared += 1
    assert compared


def test_the_exceptions_are_still_there() -> None:
    for function, parameter in ALIKE:
        assert parameter in inspect.signature(getattr(prunus, function)).parameters
