"""Each form of batch is read right or refused in one sentence, and read only."""

import copy
import dataclasses
import functools
import re
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from prunus.evaluation import accuracy
from tests.borders.batches import BATCHES, NETWORKS, Form
from tests.borders.case import stirred_
from tests.borders.contract import ONE_SHOT
from tests.borders.known import KNOWN
from tests.borders.untouched import untouched

FORMS = [
    pytest.param(name, marks=[pytest.mark.xfail(strict=False, reason=KNOWN["batches", name])])
    if ("batches", name) in KNOWN
    else name
    for name in BATCHES
]


#: What the usual batches gave, by network, data and call.
USUAL: dict[Any, Any] = {}


@functools.cache
def network(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return stirred_(NETWORKS[name]()).eval()


def config(form: Form) -> prunus.PruneConfig:
    trained = prunus.TrainConfig(epochs=form.epochs, lr=0.01)
    return dataclasses.replace(ONE_SHOT, finetune=trained)


def example(form: Form) -> Any:
    """Return what the network is called with, from its own data."""
    shapes = {"segmenter": (1, 3, 8, 8), "siamese": (1, 3, 8, 8)}
    if form.network == "language":
        return torch.zeros(1, 6, dtype=torch.long)
    if form.network.startswith("regressor"):
        return torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    x = torch.randn(
        shapes.get(form.network, (1, 3, 8, 8)), generator=torch.Generator().manual_seed(0)
    )
    x = x.to(next(network(form.network).parameters()).dtype)
    return (x, x + 1) if form.network == "siamese" else x


@pytest.mark.parametrize("name", FORMS)
def test_a_form_of_batch(name: str) -> None:
    form = BATCHES[name]
    model = network(form.network)
    groups = prunus.find_groups(model, example(form))
    calls: dict[str, Any] = {
        "accuracy": lambda loader: accuracy(model, loader),
        "prune": lambda loader: prunus.prune(
            model, loader, "params=70%", config=config(form), device="cpu"
        ),
    }
    steps = {
        "collect": lambda loader: prunus.collect(model, loader, groups, form.teacher, blocks=2)
    }
    for called, call in (steps | calls).items():
        taken = called in steps or (called == "accuracy" and form.measured)
        words = form.refused or ("" if taken else form.prune_refused)
        loader = form.loader()
        kept = loader if isinstance(loader, list) else ()
        with untouched(model, kept):
            if words:
                refuses(called, call, loader, words)
            else:
                found = call(loader)
        if words:
            continue
        if called == "accuracy":
            assert 0 <= found <= 1
        if form.plain is not None:
            equals(called, found, usual(form, called, call))
    if form.prune_refused:
        cut(form, model, groups)


def refuses(called: str, call: Any, loader: Any, words: str) -> None:
    try:
        call(loader)
    except prunus.PrunusError as error:
        text = str(error)
    else:
        raise AssertionError(f"{called} takes it, expected to be refused with {words!r}")
    assert re.search(words, text), f"{called} refuses in other words: {text}"
    assert len(text) < 700, f"{len(text)} characters"


def usual(form: Form, called: str, call: Any) -> Any:
    """Return what the same data give as (inputs, labels); the usual ones are worked out once."""
    assert form.plain is not None
    key = (form.network, form.plain.__name__, form.teacher, form.epochs, called)
    if form.plain.__name__ == "<lambda>":
        return call(form.plain())
    if key not in USUAL:
        USUAL[key] = call(form.plain())
    return USUAL[key]


def equals(called: str, found: Any, wanted: Any) -> None:
    """Assert that the same data in another form gave the same result."""
    if called == "accuracy":
        assert found == wanted
    elif called == "collect":
        for name in wanted:
            torch.testing.assert_close(found[name].gram, wanted[name].gram, atol=1e-3, rtol=1e-4)
    else:
        (one, report), (other, usual) = found, wanted
        assert report.plan == usual.plan
        for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3, msg=name)


def cut(form: Form, model: nn.Module, groups: prunus.Groups) -> None:
    """Assert that the steps repair with batches that `prune` refuses, and fit if they can."""
    scores = prunus.score(groups, None, "l1")
    plan = prunus.make_plan(groups, scores, "params=70%")
    smaller = copy.deepcopy(model)
    prunus.apply_(smaller, plan, loader=form.loader(), groups=groups)
    assert all(bool(p.isfinite().all()) for p in smaller.parameters())
    if form.loss:
        with torch.random.fork_rng(devices=[]):
            fitted = prunus.TrainConfig(epochs=1, loss=form.loss, lr=0.01)
            prunus.fit_(smaller, form.loader(), fitted)
        assert all(bool(p.isfinite().all()) for p in smaller.parameters())
