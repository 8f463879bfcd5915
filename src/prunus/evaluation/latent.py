"""How many dimensions of the last hidden layer are needed: accuracy against dimensions kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from prunus.batches import Batch, class_labels, finest, read
from prunus.core import ConfigError, DataError
from prunus.graph import Groups
from prunus.modules import module_at

__all__ = ["enough_dimensions", "latent_curve"]


def latent_curve(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    groups: Groups,
    bases: dict[str, tuple[Tensor, Tensor]],
    counts: Sequence[int],
) -> dict[str, list[float]]:
    """Return the accuracy of the head with only the first k directions of each basis.

    [Tian, section 3.3.5, Figure 3-19], theory.md (41). With z (F,) the input of the head,
    W (L, F) and b its parameters, c a centre and V (F, F) a basis with the most useful directions
    first, the logits are b + W(c + V_k V_kᵀ(z − c)). For plain dimensions, V has columns of the
    identity and c is 0; for principal components c is the mean.

    Args:
        bases: V and c by name.
        counts: the numbers k, increasing.

    Cost: one pass of the network, and O(F² + F·L) per image and basis.

    Raises:
        ConfigError: the head is not a linear layer, so its outputs cannot be recomputed.
        DataError: the loader yields no image.
    """
    head = groups.consumers[groups.head]
    module = module_at(model, head.module)
    if not isinstance(module, nn.Linear):
        raise ConfigError(
            f"accuracy against latent dimensions needs a linear head, found {head.module!r} of "
            f"type {type(module).__name__}: choose dimensions by Otsu's threshold"
        )
    device = module.weight.device
    index = torch.from_numpy(head.positions[:, 0]).to(device)
    W = head.weight(model).to(device, torch.float32)  # (F, L)
    bias = W.new_zeros(W.shape[1]) if module.bias is None else module.bias.detach().float()
    ready = {}
    for name, (V, c) in bases.items():
        V, c = V.to(device, torch.float32), c.to(device, torch.float32)  # noqa: PLW2901
        ready[name] = V, c, V.T @ W, bias + c @ W
    right = {name: [0] * len(counts) for name in bases}
    images = 0
    met: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: met.append(args[0].detach()))
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in read(loader, model):
                met.clear()
                batch.inputs(model)
                z = met[-1].float().flatten(1)[:, index]  # (B, F)
                labels = _labels(batch, len(W.T)).to(device)
                for name, (V, c, VW, start) in ready.items():
                    parts = (z - c) @ V  # (B, F)
                    logits, before = start.expand(len(z), -1), 0
                    for at, k in enumerate(counts):
                        logits = logits + parts[:, before:k] @ VW[before:k]
                        before = k
                        right[name][at] += int((logits.argmax(1) == labels).sum())
                images += batch.size
    finally:
        handle.remove()
        model.train(training)
    if not images:
        raise DataError(
            "the loader yields no image to measure latent dimensions on: give a non-empty one"
        )
    return {name: [found / images for found in row] for name, row in right.items()}


def _labels(batch: Batch, classes: int) -> Tensor:
    """Return the class of each image, (B,)."""
    if batch.labels is None:
        raise DataError("the batches have no labels: give (images, labels)")
    return finest(class_labels(batch.labels, classes))


def enough_dimensions(counts: Sequence[int], accuracies: Sequence[float], drop: float) -> int:
    """Return the fewest dimensions beyond which accuracy stays within `drop` of the last.

    Example:
        >>> enough_dimensions([1, 2, 4, 8], [0.3, 0.93, 0.97, 0.98], drop=0.02)
        4
    """
    least = accuracies[-1] - drop
    chosen = counts[-1]
    for count, accuracy in zip(reversed(counts), reversed(accuracies), strict=True):
        if accuracy < least:
            break
        chosen = count
    return chosen
