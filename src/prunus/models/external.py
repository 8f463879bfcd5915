"""External networks: `torchvision:NAME`, `timm:NAME`, `path/to/file.py:factory`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from prunus.core import ConfigError, PrunusError, UnknownNameError, imported
from prunus.models.source_file import load_factory, split_source, wanted

__all__ = ["build_external"]


def build_external(
    spec: str, *, num_classes: int | None, input_shape: tuple[int, int, int]
) -> nn.Module | None:
    """Return the network of an external `spec`, or None if `spec` is a plain name.

    Raises:
        UnknownNameError: torchvision or timm has no network of that name.
        ConfigError: the network cannot be built, or its file or factory fails.
    """
    prefix, _, name = spec.partition(":")
    known = {"num_classes": num_classes, "input_shape": input_shape}
    settings = {key: value for key, value in known.items() if value is not None}
    libraries = {"torchvision": _torchvision, "timm": _timm}
    if prefix in libraries:
        if num_classes is None:
            raise ConfigError(f"{spec} is a classifier: give num_classes")
        return _build(spec, lambda: libraries[prefix](name, num_classes, input_shape))
    source = split_source(spec)
    if source is not None:
        factory = load_factory(*source)
        return _build(spec, lambda: factory(**wanted(factory, settings, spec)))
    return None


def _torchvision(name: str, num_classes: int, input_shape: tuple[int, int, int]) -> Any:
    models = imported("torchvision.models")  # slow to import: only when needed
    how = "python -c 'import torchvision; print(torchvision.models.list_models())'"
    _require("torchvision", name, models.list_models(module=models), how)
    if input_shape[0] != 3:
        raise ConfigError(
            f"torchvision:{name} takes images of 3 channels, the data have {input_shape[0]}: set "
            f"input_shape to (3, {input_shape[1]}, {input_shape[2]}), or use a timm network"
        )
    extra: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # One output in training too, and no warning about the default initialisation.
        extra = {"aux_logits": False, "init_weights": True}
    return models.get_model(name, weights=None, num_classes=num_classes, **extra)


def _timm(name: str, num_classes: int, input_shape: tuple[int, int, int]) -> Any:
    timm = imported("timm")  # slow to import: only when needed
    how = "python -c 'import timm; print(timm.list_models())'"
    _require("timm", name, timm.list_models(), how)
    return timm.create_model(
        name, pretrained=False, num_classes=num_classes, in_chans=input_shape[0]
    )


def _require(library: str, name: str, known: Iterable[str], how: str) -> None:
    names = list(known)
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    guess = f"the closest are {', '.join(near)}; " if near else ""
    raise UnknownNameError(
        f"{library} has no network {name!r}: {guess}list all {len(names)} with {how}"
    )


def _build(spec: str, make: Callable[[], Any]) -> nn.Module:
    try:
        model = make()
    except PrunusError:
        raise
    except Exception as error:  # third-party code can raise anything
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise ConfigError(
            f"{spec} could not be built: it raised {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"{spec} returned {type(model).__name__}, expected a torch.nn.Module: "
            "give a function that returns the network, or the network's class"
        )
    return model
