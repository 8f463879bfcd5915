"""What can be named: the registries of networks and data sets as plain rows."""

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
    """Return the networks whose name holds `pattern`, in order, with their sizes.

    Sizes are those at the usual input; MACs are null unless asked for, as a deep network takes a
    second. `stages` are the modules of each stage that can grow, null where it declares none. The
    networks are built without storage, so the largest costs no more memory than the smallest.
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

    Of the user's own images, as folder:PATH, nothing is looked for; of restoration pairs, any of
    the usual sets of images is enough.
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
