"""`prunus doctor`: what can be pruned in a network, what cannot and why. It needs no data."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor, nn

from prunus.batches import Example, Inputs, flatten_tensors
from prunus.core import (
    NonFiniteError,
    TraceError,
    derive_seed,
    html_table,
    keeping_random_state,
    share_svg,
)
from prunus.graph import Group, Groups, counts_heads, find_groups, probe
from prunus.models import usual_input
from prunus.modules import (
    OPAQUE,
    Scripted,
    private_copy,
    projection_name,
    unwrapped,
    widen,
)
from prunus.pipelines.diagnosis.hints import OUTPUTS, advise
from prunus.plan import CostTracker, least_costs
from prunus.reports import print_diagnosis
from prunus.runs import build_network
from prunus.surgery import source_line, unsound_groups

__all__ = ["Diagnosis", "Finding", "Prunable", "diagnose", "run_doctor"]

#: Format version of `Diagnosis.to_dict`; raised when a key changes its meaning.
VERSION = 1
#: Least share of the parameters for which a module of unknown kind is reported.
WORTH_A_LINE = 0.01


@dataclass(frozen=True, kw_only=True)
class Prunable:
    """A group: its units, the other modules cut with it, and what cutting only this group saves.

    `saves` is the share of the network's `params` and `macs` that is saved by removing all units
    except the required minimum (one, or two if convolutions are grouped).
    """

    name: str
    kind: str
    units: int
    members: tuple[str, ...]
    saves: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A module that cannot be pruned, why, and what to change in the network.

    `fault`: it could be pruned if the forward pass were written differently.
    """

    module: str
    reason: str
    hint: str
    fault: bool


@dataclass(frozen=True, kw_only=True, repr=False)
class Diagnosis:
    """What `diagnose` found.

    Attributes:
        network: the class of the network.
        input_shape: shape of one example.
        params, macs, bytes: the dense network's size; MACs of one example, of its convolutions
            and linear layers.
        groups: what can be pruned, in execution order.
        findings: what cannot be pruned and why, faults first.
        outputs: the modules that produce the network's outputs; they are kept, which is no fault.
        least: what the smallest plan keeps, for each currency separately.
        baked: modules whose weight is computed from other tensors, with what computes it ("weight
            norm"): a cut makes it a plain weight.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> found = prunus.diagnose(net, torch.zeros(1, 4))
        >>> found.status, found.params, found.macs, [group.name for group in found.groups]
        ('healthy', 58, 48, ['0.inputs', '0'])
    """

    network: str
    input_shape: tuple[int, ...]
    params: int
    macs: int
    bytes: int
    groups: tuple[Prunable, ...]
    findings: tuple[Finding, ...]
    outputs: tuple[str, ...]
    least: dict[str, float]
    baked: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> Literal["healthy", "faulty", "unprunable"]:
        """`unprunable` without any group, `faulty` with a finding whose `fault` is set."""
        if not self.groups:
            return "unprunable"
        return "faulty" if any(f.fault for f in self.findings) else "healthy"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `prunus doctor --json` prints them."""
        dense = {"params": self.params, "macs": self.macs, "bytes": self.bytes}
        return {
            "version": VERSION,
            "status": self.status,
            "network": self.network,
            "input_shape": list(self.input_shape),
            **dense,
            "groups": [{**asdict(g), "members": list(g.members)} for g in self.groups],
            "findings": [asdict(f) for f in self.findings],
            "outputs": list(self.outputs),
            "baked": dict(self.baked),
            "least": {
                currency: {
                    "amount": int(self.least[currency]),
                    "share": self.least[currency] / max(whole, 1),
                }
                for currency, whole in dense.items()
            },
        }

    def __repr__(self) -> str:
        return (
            f"Diagnosis({self.network}: {self.status}; {len(self.groups)} groups can be pruned, "
            f"{len(self.findings)} modules cannot; {self.params:,} params, {self.macs:,} MACs)"
        )

    def _repr_html_(self) -> str:
        rows = [
            (g.name, g.kind, g.units, share_svg(g.saves["macs"], f"{g.name}: share of the MACs"))
            for g in self.groups
        ]
        found = [(each.module, each.reason, each.hint) for each in self.findings]
        groups = html_table(repr(self), ("group", "kind", "units", "MACs it can save"), rows)
        if not found:
            return groups
        return groups + html_table("What cannot be pruned", ("module", "reason", "hint"), found)

    def __str__(self) -> str:
        """Return the diagnosis as text of 80 columns."""
        text = io.StringIO()
        print_diagnosis(self.to_dict(), Console(file=text, width=80))
        return text.getvalue()


def diagnose(model: nn.Module, example: Example) -> Diagnosis:
    """Trace `model`, test the cut of every group on a random image, and report what prevents it.

    The cut is tested on a copy in which every parameter or running statistic that is still
    constant (a new norm, a LayerScale of 10⁻⁶, a zeroed head) is replaced by random values: a
    branch that adds nothing would hide a wrong cut. `model` is not changed.

    Args:
        example: one input batch, a tuple of positional or a mapping of named arguments; numbers
            are drawn at random, integers (tokens, indices) kept.

    Raises:
        TraceError: the network cannot be copied, run or traced; names the place.
        NonFiniteError: a weight or an output is NaN or infinite.

    Cost: about four forward passes, plus two per group if something is wrong.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> diagnose(net, torch.zeros(1, 3, 9, 9)).status
        'healthy'
    """
    with keeping_random_state("diagnose"):
        return _diagnose(unwrapped(model), example)


def _diagnose(model: nn.Module, example: Example) -> Diagnosis:
    own = private_copy(model).eval()
    inputs = Inputs.of(example)
    image = _random_like(inputs).like(own)
    try:
        groups = find_groups(own, image)
        ends = probe(widen(own), image.detached(gradient=True)).ends
    except TraceError as error:
        where = source_line(error.__cause__, own) if error.__cause__ else ""
        if not where:
            raise
        raise TraceError(f"{error} (at {where})") from error.__cause__
    trial = replace(groups, model=_shaken(own, image))
    sound = groups.without(unsound_groups(trial, image))
    findings = [*_findings(sound, ends), *_strangers(own, sound)]
    return Diagnosis(
        network=type(model).__name__,
        input_shape=tuple(inputs.tensors[0].shape[1:]) if inputs.tensors else (),
        params=groups.total_params,
        macs=groups.total_macs,
        bytes=groups.total_bytes,
        groups=tuple(_prunables(sound)),
        findings=tuple(sorted(findings, key=lambda f: not f.fault)),
        outputs=tuple(u.module for u in sound.unprunable if _is_output(u.module, u.reason, ends)),
        least=least_costs(sound),
        baked=groups.baked,
    )


def run_doctor(
    model: str,
    *,
    weights: str | Path | None = None,
    input_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
) -> Diagnosis:
    """Build the network that `model` names, as `prunus prune --model` does, and `diagnose` it.

    `input_shape` and `num_classes` default to the usual ones of the network (`usual_input`).

    Raises:
        UnknownNameError, ConfigError, WeightsError: the network cannot be built.
        TraceError, NonFiniteError: see `diagnose`.
    """
    shape, classes = usual_input(model)
    network = build_network(
        model,
        num_classes=(classes or None) if num_classes is None else num_classes,
        input_shape=shape if input_shape is None else input_shape,
        weights=weights,
    )
    try:
        return diagnose(network, torch.zeros(1, *(input_shape or shape)))
    except TraceError as error:
        if input_shape is not None:
            raise
        taken = ",".join(map(str, shape))
        raise TraceError(
            f"{error}. No --input-shape given, so {taken} was used: pass the network's own shape"
        ) from error


def _random_like(example: Inputs) -> Inputs:
    """Return random arguments of the same shapes; integers (tokens) are kept."""
    generator = torch.Generator().manual_seed(derive_seed(0, "doctor", "image"))

    def draw(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return torch.randn(tensor.shape, generator=generator).to(tensor.dtype)

    return example.map(draw)


@torch.no_grad()
def _shaken(model: nn.Module, image: Inputs) -> nn.Module:
    """Return a copy whose constant tensors are random, or `model` if the copy overflows.

    Constant zeros become small values of either sign, all others become values around one.
    """
    generator = torch.Generator().manual_seed(derive_seed(0, "doctor", "weights"))
    shaken = private_copy(model)
    running = {
        f"{name}.{key}".lstrip(".")
        for name, module in shaken.named_modules()
        for key in ("running_mean", "running_var")
        if getattr(module, key, None) is not None
    }
    tensors = [*shaken.parameters(), *(b for n, b in shaken.named_buffers() if n in running)]
    for tensor in tensors:
        if tensor.numel() < 2 or not tensor.is_floating_point():
            continue
        first = tensor.flatten()[0]
        if bool((tensor == first).all()):
            drawn = torch.rand(tensor.shape, generator=generator)
            tensor.copy_((drawn - 0.5) / 5 if float(first) == 0 else drawn + 0.5)
    for candidate in (shaken, model):
        if all(bool(t.isfinite().all()) for t in flatten_tensors(image(candidate))):
            return candidate
    raise NonFiniteError(
        f"{type(model).__name__} produced NaN or infinite outputs for a random image: check its "
        "weights and the divisions in its forward pass"
    )


def _prunables(groups: Groups) -> Iterator[Prunable]:
    tracker = CostTracker(groups)
    totals = {"params": groups.total_params, "macs": groups.total_macs}
    for group in groups.values():
        if group.units <= group.least:
            continue  # a finding
        saved = tracker.saving(group, range(group.least, group.units))
        yield Prunable(
            name=group.name,
            kind=group.kind,
            units=group.units,
            members=_others(group),
            saves={currency: saved[currency] / max(n, 1) for currency, n in totals.items()},
        )


def _others(group: Group) -> tuple[str, ...]:
    """Return the modules that are cut with a group, except the one it is named after."""
    return tuple(dict.fromkeys(m.module for m in group.members if m.module != group.name))


def _findings(groups: Groups, ends: set[str]) -> Iterator[Finding]:
    for one in groups.unprunable:
        if not _is_output(one.module, one.reason, ends):
            yield _finding(one.module, one.reason)
    for group in groups.values():
        if group.units <= group.least:
            width = _width(group)
            yield _finding(group.name, f"all of its {width} {group.kind} must be pruned together")


def _width(group: Group) -> int:
    """Return how many channels, neurons or heads a group has, regardless of the unit size."""
    if group.kind == "heads":  # the numbers that count them are members too
        numbers = (m for m in group.members if counts_heads(m.module))
        return next(m.index.size for m in numbers)
    return group.members[0].index.size


def _is_output(module: str, reason: str, ends: set[str]) -> bool:
    """Return whether a module is kept because the network's outputs are.

    A trace may name a log-softmax or a sum with the input image after the last layer as the
    reason; the layer would be kept without them too.
    """
    return module in ends or OUTPUTS in reason


def _finding(module: str, reason: str) -> Finding:
    advice = advise(reason)
    return Finding(module=module, reason=reason, hint=advice.hint, fault=advice.fault)


def _strangers(model: nn.Module, groups: Groups) -> Iterator[Finding]:
    """Yield the modules with many parameters that no group cuts, such as an LSTM."""
    known = {*groups.layers, *(m.module for g in groups.values() for m in g.members)}
    raw = {name.rpartition(":")[0] or name.removesuffix(".T") for name in known}
    raw |= {one.module for one in groups.unprunable}
    for name, module in widen(model).named_modules():
        if isinstance(module, Scripted):
            own = dict(module.hidden[0].named_parameters())
            text = f"{{}} parameters are inside {OPAQUE}"
        else:
            own = dict(module.named_parameters(recurse=False))
            text = f"the {type(module).__name__} itself has {{}} parameters, and no prunable "
            text += "group includes them"
        if name in known or projection_name(name) in known:
            continue
        count = sum(p.numel() for key, p in own.items() if f"{name}.{key}".lstrip(".") not in raw)
        if count >= max(1.0, WORTH_A_LINE * groups.total_params):
            yield _finding(name or type(model).__name__, text.format(count))
