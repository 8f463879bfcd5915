"""Square roots of weights with many outputs, worked out once for a scoring.

A flattened input too wide for a Gram matrix shares one feature per channel, and the weights at its
k positions are outputs of that feature: VGG-16's first linear layer has 512 features and 49·4 096
outputs. Costs depend on W (F × k·outputs) through WWᵀ alone, theory.md (28), so that any L (F×F)
with LLᵀ = WWᵀ does as well, and for features scaled by diag(s) it is diag(s)·L.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["one_scoring", "root_of"]

_ROOTS: ContextVar[dict[str, Tensor] | None] = ContextVar("roots", default=None)


@contextmanager
def one_scoring() -> Iterator[None]:
    """Keep what `root_of` works out: weights do not change while one scoring runs."""
    token = _ROOTS.set({})
    try:
        yield
    finally:
        _ROOTS.reset(token)


def root_of(name: str, parts: Iterable[Tensor]) -> Tensor:
    """Return L (F, F) with LLᵀ = Σ W_j W_jᵀ over the parts W_j (F, outputs) of a weight.

    `name` is the consumer's, under which L is kept within `one_scoring`; the parts are then not
    looked at again. L = QΛ^½ of the eigenvectors of the sum. Cost: O(k·F²·outputs).
    """
    kept = _ROOTS.get()
    if kept is not None and name in kept:
        return kept[name]
    total: Tensor | None = None
    for part in parts:
        square = part @ part.T
        total = square if total is None else total.add_(square)
    assert total is not None
    values, vectors = torch.linalg.eigh(total)
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    if kept is not None:
        kept[name] = root
    return root
