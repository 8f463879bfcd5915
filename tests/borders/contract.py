"""What holds for every network that Prunus does not refuse: each function checks one part."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunus
import prunus.core
from prunus.evaluation import count_macs, count_params
from prunus.graph import find_groups as find_unverified
from prunus.surgery import mask_
from tests.borders.case import Network, run, tensors
from tests.borders.untouched import untouched, values
from tests.conftest import random_plan

__all__ = ["check_cut", "check_doctor", "check_prune", "check_refusal", "check_steps", "find"]

UNTRAINED = prunus.TrainConfig(epochs=0)
ONE_SHOT = prunus.PruneConfig(
    iterations=1, finetune=UNTRAINED, final=UNTRAINED, intervals=False, blocks=2
)


#: What `diagnose` found, by network: it gives the budgets that can be reached.
FOUND: dict[str, prunus.Diagnosis] = {}


def check_refusal(case: Network) -> None:
    """`diagnose` and `find_groups` refuse the network by name, and change nothing."""
    model, example = case.used(), case.example()
    with untouched(model, example, writes=case.writes):
        refused(lambda: healthy(prunus.diagnose(model, example)), case.refused)
        refused(lambda: prunus.find_groups(model, example).require_any(), case.refused)


def find(case: Network) -> prunus.Groups:
    """Return the groups; nothing is changed by looking for them."""
    model, example = case.used(), case.example()
    with untouched(model, example, writes=case.writes):
        FOUND[case.name] = prunus.diagnose(model, example)
        return prunus.find_groups(model, example)


def check_doctor(case: Network, groups: prunus.Groups) -> None:
    """What is expected can be cut, doctor says the same as `find_groups`, and counts right."""
    model, example, found = case.used(), case.example(), FOUND[case.name]
    made = {m.module for g in groups.values() for m in g.producers} | set(groups)
    lost = [name for name in case.cuts if name not in made]
    reasons = {u.module: u.reason for u in groups.unprunable}
    assert not lost, f"stays whole: { ({name: reasons.get(name) for name in lost} or reasons) }"
    can = {g.name for g in groups.values() if g.units > g.least}
    odd = sorted({g.name for g in found.groups} ^ can)
    assert not odd, f"doctor and find_groups disagree about {odd}"
    whole = {f.module for f in found.findings}
    with_it = find_unverified(model, example) if whole - made else {}
    told = {m.module for g in with_it.values() for m in g.members if g.name in whole}
    told |= {m.module for g in groups.values() for m in g.members} | whole
    told = {name.partition(":")[0].removesuffix(".T") for name in {*told, *found.outputs}}
    if type(model).__name__ in told:  # its own parameters
        told |= dict(model.named_parameters(recurse=False)).keys()
    unnamed = [
        name
        for name, tensor in case.inside(model).named_parameters()
        if heavy(tensor, found.params) and not named(name, told)
    ]
    assert not unnamed, f"neither prunable nor named: {unnamed}"
    for what, count, own in (
        ("params", found.params, count_params(model)),
        ("MACs", found.macs, count_macs(model, example)),
    ):
        assert count == own, f"doctor counts {count} {what} of {own}"


def check_cut(case: Network, groups: prunus.Groups) -> None:
    """A random cut computes what its mask computes, and is undone bit for bit."""
    if not groups:
        return
    plan = random_plan(groups, seed=1, most=case.most)
    example = case.example(3, seed=5)
    model = case.inside(case.used())
    dense = run(model.eval(), example)
    masked = run(mask_(case.inside(case.used()), plan).eval(), example)
    cut = case.inside(case.used())
    before = values(cut, case.writes)
    receipt = prunus.apply_(cut, plan, compensate="none")
    if not case.random:
        after = run(cut.eval(), example)
        far = max(distance(one, other) for one, other in zip(masked, after, strict=True))
        assert far <= case.tolerance, f"masked and cut differ by {far:.1e}"
        changed = max(distance(one, other) for one, other in zip(dense, after, strict=True))
        assert changed > 1e-7, "the cut changes nothing"
    left = dict(cut.named_modules())
    for name, module in case.inside(case.used()).named_modules():  # the modes before `eval`
        if name in left:
            left[name].training = module.training
    prunus.undo_(cut, receipt)
    same(before, values(cut, case.writes))
    assert same_outputs(dense, run(cut.eval(), example)), "undone, it computes something else"


def check_steps(case: Network, groups: prunus.Groups) -> None:
    """README's steps meet the budget by the counter that reports it."""
    model, example, loader = case.used(), case.example(), case.loader()
    with untouched(model, example, *loader, writes=case.writes):
        if case.steps_refused:
            refused(lambda: prunus.collect(model, loader, groups, case.teacher), case.steps_refused)
            return
        statistics = prunus.collect(
            model, loader, groups, case.teacher, output=case.output, blocks=2
        )
        scores = prunus.score(groups, statistics)
        budget = reachable(case, "macs")
        try:
            plan = prunus.make_plan(groups, scores, budget)
        except prunus.core.BudgetError as error:
            names_what_is_not_scored(error, scores)
            plan = prunus.make_plan(groups, prunus.score(groups, statistics, "l1"), budget)
    model = case.inside(model)
    before = values(model, case.writes)
    dense = count_macs(model, example)
    receipt = prunus.apply_(model, plan, statistics, loader=loader)
    holds(budget, dense, count_macs(model, example))
    assert all(bool(t.isfinite().all()) for t in run(model.eval(), example))
    left = dict(model.named_modules())
    for name, module in case.inside(case.used()).named_modules():
        if name in left:
            left[name].training = module.training
    prunus.undo_(model, receipt)
    same(before, values(model, case.writes))


def check_prune(case: Network, folder: Path) -> None:
    """`prune` meets the budget, reloads bit for bit, and exports."""
    model, loader = case.used(), case.loader()
    budget = "params=70%" if case.refused else reachable(case, "params")

    def go() -> tuple[nn.Module, prunus.Report]:
        chosen = {} if case.output is None else {"output": case.output}
        try:
            return prunus.prune(model, loader, budget, config=ONE_SHOT, device="cpu", **chosen)
        except prunus.core.BudgetError as error:
            groups = prunus.find_groups(model, case.example())
            statistics = prunus.collect(model, loader, groups, case.teacher, output=case.output)
            names_what_is_not_scored(error, prunus.score(groups, statistics))
            config = dataclasses.replace(ONE_SHOT, criterion="l1")
            return prunus.prune(model, loader, budget, config=config, device="cpu", **chosen)

    with untouched(model, *loader, writes=case.writes):
        if case.refused or case.prune_refused:
            refused(go, case.refused or case.prune_refused)
            return
        small, report = go()
    holds(budget, count_params(model), count_params(small))
    result = report.record.find("result")
    for side in ("dense", "pruned"):
        assert 0 <= result[side]["validation_accuracy"] <= 1, result
    for what, told, own in (
        ("params", result["dense"]["params"], count_params(model)),
        ("params after the cut", result["pruned"]["params"], count_params(small)),
        ("MACs after the cut", result["pruned"]["macs"], count_macs(small, case.example())),
    ):
        assert told == own, f"the record says {told} {what}, counted are {own}"
    report.save(folder)
    example = case.example(3, seed=5)
    again = prunus.load(folder, model=case.inside(case.fresh()))
    assert same_outputs(run(small, example), run(again, example)), "reloaded, it differs"
    if case.export == "onnx":
        assert (folder / "model.onnx").exists()
    elif case.export:
        export(case, small, folder / f"model.{case.export}")


def export(case: Network, small: nn.Module, path: Path) -> None:
    """Export a pruned network, or be refused by name."""
    example = case.example(3, seed=5)
    with untouched(small, writes=case.writes):
        if case.export_refused:
            refused(lambda: prunus.export(small, example, path), case.export_refused)
        else:
            prunus.export(small, example, path)


def names_what_is_not_scored(error: Exception, scores: prunus.Scores) -> None:
    """Raise unless a budget is out of reach because of groups that the message names."""
    if not any(name in str(error) for name in scores.skipped):
        raise error


def healthy(found: prunus.Diagnosis) -> None:
    """Raise a refusal where doctor finds nothing that can be pruned."""
    if found.status == "unprunable":
        raise prunus.PrunusError(str(found))


def heavy(tensor: torch.Tensor, whole: int) -> bool:
    """Return whether a weight holds a share of the parameters that is worth a line."""
    return tensor.dim() > 1 and tensor.numel() >= max(1, 0.03 * whole)


def named(parameter: str, told: set[str]) -> bool:
    """Return whether a parameter, its module, or a module that holds that is named."""
    parts = parameter.split(".")
    above = {".".join(parts[:i]) for i in range(1, len(parts) + 1)}
    return bool(above & told) or any(parameter.startswith(name) for name in told if name)


def refused(call: Any, words: str) -> None:
    with pytest.raises(prunus.PrunusError) as caught:
        call()
    text = str(caught.value)
    assert re.search(words, text), f"refused in other words: {text}"
    assert len(text) < 1500, f"{len(text)} characters: {text[:300]}"


def reachable(case: Network, currency: str) -> str:
    """Return a budget halfway to the smallest network."""
    if case.name not in FOUND:
        FOUND[case.name] = prunus.diagnose(case.fresh(), case.example())
    found = FOUND[case.name]
    whole = {"macs": found.macs, "params": found.params}
    if not whole[currency]:
        currency = "params"
    share = 100 * found.least[currency] / whole[currency]
    return f"{currency}={(100 + share) / 2:.1f}%"


def holds(budget: str, dense: int, cut: int) -> None:
    currency, _, share = budget.partition("=")
    limit = float(share.rstrip("%")) / 100 * dense
    if currency == "macs" or dense:
        assert cut <= limit + 1e-6, f"{cut} of {dense} {currency}, allowed {share}"
        assert cut < dense, f"nothing of the {currency} is saved"


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape, (one.shape, other.shape)
    scale = max(1e-6, float(one.double().abs().max()))
    return float((one.double() - other.double()).abs().max()) / scale if one.numel() else 0.0


def same(before: dict[str, Any], after: dict[str, Any]) -> None:
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    assert not changed, f"not restored: {', '.join(changed[:6])}"


def same_outputs(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(tensors(one)) == len(tensors(other)) and all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one, other, strict=True)
    )
