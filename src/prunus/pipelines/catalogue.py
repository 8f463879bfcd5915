"""The registries of networks and data sets as plain rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from prunus.data import DATASETS
from prunus.evaluation import count_params
from prunus.graph import count_macs
from prunus.models import MODELS, Growing, build_model

__all__ = ["list_data", "list_models"]

Row = dict[str, Any]


def list_models(pattern: str = "", *, macs: bool = False) -> list[Row]:
    """Return the networks whose name contains `pattern`, in order, with their sizes.

    Sizes are for the default input; MACs are null unless `macs` is set, because counting takes a
    second for a deep network. `stages` are the modules of each stage that can grow, null if the
    network declares none. The networks are built without storage, so even the largest needs little
    memory.
    """
    return [_model(name, macs) for name in MODELS if pattern.lower() in name]


def _model(name: str, macs: bool) -> Row:
    entry = MODELS[name]
    with torch.device("meta"):
        model = build_model(
            name, num_classes=entry.num_classes or None, input_shape=entry.input_shape
        )
        example = torch.zeros(1, *entry.input_shape)
    return {
        "name": name,
        "family": entry.family,
        "task": entry.task,
        "input_shape": list(entry.input_shape),
        "num_classes": entry.num_classes,
        "scale": entry.scale,
        "params": count_params(model),
        "macs": count_macs(model, example) if macs else None,
        "stages": list(model.stage_sizes) if isinstance(model, Growing) else None,
        "source": entry.source,
    }


def list_data(data_root: Path) -> list[Row]:
    """Return the data sets in order; `path` is where one was found below `data_root`, or null.

    The user's own images (folder:PATH) are not searched for; for restoration pairs, any of the
    known image sets is enough.
    """
    rows = []
    for name in DATASETS:
        entry = DATASETS[name]
        path = entry.find(data_root, "") if entry.get or not entry.needs_argument else None
        rows.append(
            {
                "name": f"{name}:{entry.argument}" if entry.argument else name,
                "task": entry.task,
                "input_shape": list(entry.input_shape),
                "num_classes": entry.num_classes,
                "sizes": dict(entry.sizes),
                "source": entry.source,
                "terms": entry.terms,
                "path": None if path is None else str(path),
                "place": entry.place,
                "get": entry.get,
            }
        )
    return rows
