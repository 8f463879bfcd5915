"""Weights that are computed before each forward pass: weight norm, spectral norm, pruning masks.

PyTorch keeps such a weight as other tensors, which no rule can cut channel by channel. They are
*baked*: the weight becomes a plain parameter with the value that it has now, in evaluation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from prunus.modules.rollback import rolling_back

__all__ = [
    "Baked",
    "bake_",
    "baked_kinds",
    "baked_words",
    "keeping_computed",
    "owners_of",
    "reparametrised",
    "unbake_",
    "weight_of",
]

#: Hooks of a module that compute, save or load a tensor.
HOOKS = ("_forward_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks")
#: What the old functions keep a tensor as.
SUFFIXES = ("_orig", "_g", "_v", "_u", "_mask")
NAMES = {
    "_WeightNorm": "weight norm",
    "_SpectralNorm": "spectral norm",
    "_Orthogonal": "orthogonal parametrisation",
}


@dataclass(frozen=True, eq=False)
class Baked:
    """What baking took from one module: enough to bring it back, in this process.

    Attributes:
        name: the module's.
        tensors: the names of the tensors that are plain parameters now.
        kind: what computed them.
        former: the module's class, containers and attributes before.
    """

    name: str
    tensors: tuple[str, ...]
    kind: str
    former: dict[str, Any]


def reparametrised(module: nn.Module) -> dict[str, str]:
    """Return the tensors of a module that are computed from others, each with what computes it."""
    found: dict[str, str] = {}
    if parametrize.is_parametrized(module):
        for key, steps in module.parametrizations.items():  # type: ignore[union-attr,operator]
            names = [NAMES.get(n := type(step).__name__, n.strip("_")) for step in steps]
            found[key] = ", ".join(names)
    for hook in module._forward_pre_hooks.values():
        if (key := _key(hook)) is not None:
            kinds = {WeightNorm: "weight norm", SpectralNorm: "spectral norm"}
            found[key] = kinds.get(type(hook), "pruning mask")
    return found


def _key(hook: Any) -> str | None:
    """Return the name of the tensor that a hook computes; None for any other hook."""
    if isinstance(hook, (WeightNorm, SpectralNorm)):
        return hook.name
    return hook._tensor_name if isinstance(hook, BasePruningMethod) else None


def weight_of(module: nn.Module) -> Tensor:
    """Return the weight of a layer without its graph, computed if it is reparametrised."""
    own = module._parameters.get("weight")
    value = _value(module, "weight") if own is None else own
    return value.detach()


@torch.no_grad()
def _value(module: nn.Module, key: str) -> Tensor:
    """Return the present value of a tensor, in evaluation; nothing is changed."""
    for hook in module._forward_pre_hooks.values():
        if _key(hook) != key:
            continue
        if isinstance(hook, SpectralNorm):
            value: Tensor = hook.compute_weight(module, do_power_iteration=False)
            return value
        if isinstance(hook, WeightNorm):
            value = hook.compute_weight(module)
        else:
            assert isinstance(hook, BasePruningMethod)
            value = hook.apply_mask(module)  # type: ignore[no-untyped-call]
        return value
    with _evaluating(module):
        found = getattr(module, key)
    assert isinstance(found, Tensor)
    return found


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Keep parametrisations from updating their own buffers, as spectral norm does in training."""
    steps = list(module.parametrizations.modules()) if parametrize.is_parametrized(module) else []  # type: ignore[union-attr]
    modes = [step.training for step in steps]
    for step in steps:
        step.training = False
    try:
        yield
    finally:
        for step, mode in zip(steps, modes, strict=True):
            step.training = mode


@contextmanager
def keeping_computed(model: nn.Module) -> Iterator[None]:
    """Put the tensors back that hooks of old reparametrisations write to a network as it runs."""
    held = [
        (vars(module), key, vars(module)[key])
        for module in model.modules()
        for key in reparametrised(module)
        if key in vars(module)
    ]
    try:
        yield
    finally:
        for attributes, key, value in held:
            attributes[key] = value


def owners_of(names: Iterable[str]) -> set[str]:
    """Return the modules that names of layers, of axes of parameters and of numbers belong to."""
    owners = set()
    for name in names:
        path, colon, last = name.rpartition(":")
        if not colon:
            owners.add(name)
        else:
            owners.add(path.rpartition(".")[0] if last.isdecimal() else path)
    return owners


def bake_(model: nn.Module, names: Collection[str] | None = None) -> list[Baked]:
    """Make the reparametrised tensors of modules plain, in place; return what was taken away.

    Of all modules, or only of those named in `names`. Modules that share what a tensor is computed
    from share the plain parameter, which has no gradient yet. The tensors themselves are left as
    they are. All or nothing: where it raises, the network is as it was.
    """
    if not any(reparametrised(m) for n, m in model.named_modules() if names is None or n in names):
        return []
    with rolling_back(model):
        return _bake_(model, names)


def _bake_(model: nn.Module, names: Collection[str] | None) -> list[Baked]:
    baked = []
    made: dict[Any, nn.Parameter] = {}
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for key, parameter in module._parameters.items():
            places.setdefault(id(parameter), []).append((module, key))
    for name, module in list(model.named_modules()):
        found = reparametrised(module) if names is None or name in names else {}
        if not found:
            continue
        plain = {}
        for key, kind in found.items():
            sources = _sources(module, key)
            same = kind, *map(id, sources)
            if same not in made:
                learnt = any(source.requires_grad for source in sources)
                made[same] = nn.Parameter(_value(module, key).detach().clone(), learnt)
            plain[key] = made[same]
        sources = [source for key in found for source in _sources(module, key)]
        former = _strip_(module, found)
        former["shared"] = [
            (owner, key, source) for source in sources for owner, key in places.get(id(source), ())
        ]
        baked.append(Baked(name, tuple(found), _joined(found.values()), former))
        rest = dict(module._parameters)
        first = {key: {**rest, **plain}.get(key) for key in ("weight", "bias")}  # as layers do it
        module._parameters.clear()
        module._parameters.update({k: p for k, p in first.items() if k in rest or k in plain})
        module._parameters.update({**rest, **plain})
        _refresh_(module)
    return baked


def unbake_(model: nn.Module, baked: Iterable[Baked]) -> None:
    """Bring back, in place, what `bake_` took away; plain values are dropped. All or nothing."""
    if baked := list(baked):
        with rolling_back(model):
            _unbake_(model, baked)


def _unbake_(model: nn.Module, baked: Iterable[Baked]) -> None:
    for each in baked:
        module, former = model.get_submodule(each.name), each.former
        device = module.get_parameter(each.tensors[0]).device
        own = dict(module._parameters)
        module._parameters.clear()
        for key, parameter in former["_parameters"].items():
            module._parameters[key] = own.get(key, parameter)
        for key in each.tensors:
            vars(module).update({k: v for k, v in former["attributes"].items() if k == key})
        for part in ("_buffers", "_modules", *HOOKS):
            held = vars(module)[part]
            now = dict(held)
            held.clear()
            held.update({**former[part], **now})
        if "parametrizations" in module._modules:
            module.__class__ = former["class"]
        for owner, key, source in former["shared"]:  # other modules may have it, too
            if owner._parameters.get(key) is not None and owner._parameters[key] is not source:
                owner._parameters[key] = source
        _refresh_(module)
        module.to(device)


def _refresh_(module: nn.Module) -> None:
    """Let a recurrent module look its weights up again: it keeps a list of them."""
    if isinstance(module, nn.RNNBase):
        module._flat_weights = [getattr(module, name, None) for name in module._flat_weights_names]


def _sources(module: nn.Module, key: str) -> list[Tensor]:
    """Return the parameters and buffers that a reparametrised tensor is computed from."""
    if parametrize.is_parametrized(module, key):
        steps = module.parametrizations[key]  # type: ignore[index]
        return [*steps.parameters(), *steps.buffers()]  # type: ignore[union-attr]
    own = {**module._parameters, **module._buffers}
    return [t for suffix in SUFFIXES if (t := own.get(f"{key}{suffix}")) is not None]


def _strip_(module: nn.Module, keys: Collection[str]) -> dict[str, Any]:
    """Take away all that computes the tensors `keys`; return what the module had before."""
    parts = ("_parameters", "_buffers", "_modules", *HOOKS)
    own = vars(module)
    former: dict[str, Any] = {part: dict(own[part]) for part in parts}
    former |= {"class": type(module), "attributes": {k: own[k] for k in keys if k in own}}
    for part in HOOKS:
        for number, hook in former[part].items():
            key = _key(getattr(hook, "fn", hook))  # some of spectral norm's hold it as `fn`
            if key is not None and key in keys:
                del own[part][number]
    for key in keys:
        if "parametrizations" not in module._modules or key not in module.parametrizations:  # type: ignore[operator]
            own.pop(key, None)
            for suffix in SUFFIXES:
                module._parameters.pop(f"{key}{suffix}", None)
                module._buffers.pop(f"{key}{suffix}", None)
    if module._modules.pop("parametrizations", None) is not None:
        module.__class__ = type(module).__bases__[0]
    return former


def _joined(kinds: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(kinds))


def baked_kinds(model: nn.Module) -> dict[str, str]:
    """Return the modules that `bake_` would change, each with what computes its tensors."""
    found = ((name, reparametrised(module)) for name, module in model.named_modules())
    return {name: _joined(tensors.values()) for name, tensors in found if tensors}


def baked_words(kinds: Mapping[str, str], verb: str = "became") -> str:
    """Say in one sentence what was baked: `kinds` by module."""
    names = ", ".join(repr(name) for name in list(kinds)[:3])
    names += f" and {len(kinds) - 3} more" if len(kinds) > 3 else ""
    return (
        f"the {_joined(kinds.values())} of {names} {verb} part of the weight, which keeps its "
        "present value and is no longer computed from other tensors"
    )
