"""The main output of a network, and the auxiliary ones."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch

from prunus.batches import Heads, auxiliary, choose_output, flatten_tensors, primary
from prunus.core import DataError

MAIN, OTHER = torch.zeros(2, 5), torch.ones(2, 7)
Named = namedtuple("Named", ["features", "logits", "aux_logits1", "aux_logits2"])


@pytest.mark.parametrize(
    "output",
    [
        MAIN,
        (MAIN, OTHER),
        [MAIN],
        {"features": OTHER, "logits": MAIN},
        {"out": MAIN, "aux": OTHER},
        {"anything": MAIN},
        SimpleNamespace(logits=MAIN, hidden_states=(OTHER, OTHER)),
        Named(OTHER, MAIN, OTHER, None),
        Heads((MAIN, OTHER)),
    ],
)
def test_main_output(output) -> None:
    assert primary(output) is MAIN


@pytest.mark.parametrize(
    ("output", "count"),
    [
        ((MAIN, MAIN), 0),
        (Heads((MAIN, OTHER)), 1),
        (Named(OTHER, MAIN, OTHER, None), 1),
        ({"out": MAIN, "aux": OTHER}, 1),
        (SimpleNamespace(logits=MAIN, hidden_states=(OTHER,)), 0),
        (MAIN, 0),
    ],
)
def test_auxiliary_outputs_are_those_of_which_the_network_says_so(output, count) -> None:
    assert [head is OTHER for head in auxiliary(output)] == [True] * count


@pytest.mark.parametrize(
    ("choice", "output"),
    [
        ("b", {"a": OTHER, "b": MAIN}),
        (1, (OTHER, MAIN)),
        (-1, [OTHER, OTHER, MAIN]),
        (lambda out: out[0]["x"], ({"x": MAIN}, OTHER)),
        ("features", Named(MAIN, OTHER, None, None)),
    ],
)
def test_a_chosen_output(choice, output) -> None:
    with choose_output(choice):
        assert primary(output) is MAIN
        with choose_output(None):  # an inner context without a choice leaves the outer one
            assert primary(output) is MAIN


def test_what_cannot_be_told_is_asked_for() -> None:
    with pytest.raises(DataError, match=r"a \(2, 5\), b \(2, 7\): pass output="):
        primary({"a": MAIN, "b": OTHER})
    with choose_output("c"), pytest.raises(DataError, match=r"output='c'.*a \(2, 5\)"):
        primary({"a": MAIN, "b": OTHER})
    with choose_output(2), pytest.raises(DataError, match=r"output=2.*1 \(2, 7\)"):
        primary((MAIN, OTHER))
    with pytest.raises(DataError, match="a str without a tensor"):
        primary("text")


def test_all_tensors_in_order() -> None:
    found = flatten_tensors({"a": (MAIN, [OTHER]), "b": SimpleNamespace(c=MAIN)})
    assert [t.shape[1] for t in found] == [5, 7, 5]
