"""What `scores.json` and a journal hold of the last hidden layer, made up but consistent."""

from typing import Any

Row = dict[str, Any]


def make_latent(width: int = 6, block: int = 1, idle: int = 1, traced: bool = True) -> Row:
    """Return `width` dimensions, the last `idle` constant; place k has utility 4/k.

    Covariances are σ_ij = ±1/(i·j), an eighth off the diagonal, three quarters of it between
    classes; with a block, as many cells as there are blocks.
    """
    drawn = width - idle
    cells = -(-drawn // block)
    total = [
        [(1.0 if i == j else 0.125 * (-1) ** (i + j)) / ((1 + i) * (1 + j)) for j in range(cells)]
        for i in range(cells)
    ]
    if block > 1:
        total = [[abs(cell) for cell in row] for row in total]
    return {
        "head": "fc",
        "dimensions": width,
        "classes": 5,
        "constant": idle,
        "copies": 0,
        "order": [*range(width - 1, idle - 1, -1), *range(idle)],
        "values": [4 / (1 + place) for place in range(drawn)] + [0.0] * idle,
        "discriminants": [5.0, 3.0, 1.5, 0.5],
        "drawn": drawn,
        "block": block,
        "covariances": {
            name: {
                "cells": [[share * cell for cell in row] for row in total],
                "diagonal": share,
                "beside": share * 0.02,
            }
            for name, share in (("total", 1.0), ("within", 0.25), ("between", 0.75))
        },
        "traced": make_traced(width) if traced else None,
    }


def make_traced(width: int = 6, kept: int = 3) -> Row:
    """Return the choice of `kept` dimensions: LDA reaches 96 % with them, PCA one place later."""
    counts = list(range(1, width + 1))
    return {
        "by": "sensitivity",
        "kept": kept,
        "traced_images": 1079,
        "counts": counts,
        "accuracy": {
            "lda": [0.96 if k >= kept else 0.96 * k / kept for k in counts],
            "pca": [0.96 if k > kept else 0.9 * k / (kept + 1) for k in counts],
        },
    }


def make_cut(iteration: int, width: int = 6, grown: float = 1.0) -> Row:
    """Return the journal's row of a cut; its discriminants are `grown` times those above."""
    latent = make_latent(width)
    return {
        "event": "latent",
        "iteration": iteration,
        "head": "fc",
        "width": width,
        "constant": 1,
        "copies": 1,
        "values": latent["values"],
        "discriminants": [grown * value for value in latent["discriminants"]],
        **make_traced(width),
    }
