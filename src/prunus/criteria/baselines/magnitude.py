"""Han's weight magnitudes: single weights are zeroed, unstructured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunus.core import ConfigError
from prunus.criteria.baselines.weights import makers, member_weight
from prunus.criteria.scores import CRITERIA, GroupScore
from prunus.graph import Group, Groups, Member
from prunus.modules import is_depthwise, is_mixing, module_at, weight_of
from prunus.statistics import Statistics

__all__ = ["Magnitude", "Sparsity", "han_sparsity"]


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """The result of zeroing the smallest weights of a network.

    This is sparsity, not speed: the tensors keep their shape, so dense hardware does the same work.
    Compare it with other networks' parameters, not with their MACs or milliseconds.

    Attributes:
        threshold: weights of at most this magnitude are zeroed.
        weights: the number of weights of each layer's kernel, by module name.
        nonzero: the number of them that are left.
        others: parameters that are never zeroed (biases, norms).
    """

    threshold: float
    weights: dict[str, int]
    nonzero: dict[str, int]
    others: int

    @property
    def sparsity(self) -> float:
        """The share of the kernels' weights that is zero."""
        return 1 - sum(self.nonzero.values()) / max(sum(self.weights.values()), 1)

    @property
    def params(self) -> int:
        """Parameters that are not zeroed."""
        return sum(self.nonzero.values()) + self.others


def han_sparsity(model: nn.Module, sparsity: float) -> Sparsity:
    """Return what is left, layer by layer, when the smallest share `sparsity` of weights is zeroed.

    One threshold t on |w| for the kernels of all convolutions and linear layers, the
    ⌊sparsity·n⌋-th smallest magnitude of n ([Han, section 3]; they set thresholds by layer and
    retrain, the global one is the common form). The model is left untouched; the result is reported
    as sparsity, never as speed.

    Raises:
        ConfigError: `sparsity` is not in [0, 1), or the network has no such layer.
    """
    if not 0 <= sparsity < 1:
        raise ConfigError(f"sparsity is {sparsity}, expected a share in [0, 1)")
    kernels = {
        name: weight_of(module).cpu().double().abs()
        for name, module in model.named_modules()
        if is_mixing(module) or is_depthwise(module)
    }
    if not kernels:
        raise ConfigError(
            f"{type(model).__name__} has no convolution or linear layer whose weights could be "
            "zeroed: give a network with at least one"
        )
    threshold = _threshold(torch.cat([kernel.flatten() for kernel in kernels.values()]), sparsity)
    weights = {name: kernel.numel() for name, kernel in kernels.items()}
    return Sparsity(
        threshold=threshold,
        weights=weights,
        nonzero={name: int((kernel > threshold).sum()) for name, kernel in kernels.items()},
        others=sum(p.numel() for p in model.parameters()) - sum(weights.values()),
    )


def _threshold(magnitudes: Tensor, sparsity: float) -> float:
    """Return the largest magnitude that is zeroed; −1, below all, if none is."""
    gone = int(sparsity * len(magnitudes))
    return float(magnitudes.kthvalue(gone).values) if gone else -1.0


@CRITERIA.register("magnitude")
class Magnitude:
    """What Han's pruning of single weights leaves of a unit: Σ w²·[|w| > t] over its members.

    t is the network's global threshold at `sparsity` (`han_sparsity`). A unit gets 0 if all weights
    that make it, or all that read it, are zeroed: "neurons with zero input connections or zero
    output connections may be safely pruned" [Han, section 3.5]. The sum for the others is a
    reconstruction of ours.
    """

    unit = "energy of the weights above Han's threshold"
    comparable = False
    needs_statistics = False

    def __init__(self, sparsity: float = 0.9) -> None:
        """`sparsity` is the share of weights zeroed in the whole network, in [0, 1)."""
        if not 0 <= sparsity < 1:
            raise ConfigError(f"sparsity is {sparsity}, expected a share in [0, 1)")
        self.sparsity = sparsity

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group."""
        threshold = han_sparsity(groups.model, self.sparsity).threshold

        def left(members: tuple[Member, ...]) -> Tensor:
            energy = torch.zeros(group.units, dtype=torch.float64)
            for member in members:
                module = module_at(groups.model, member.module)
                weight = member_weight(groups, member)
                if weight is not None and (is_mixing(module) or is_depthwise(module)):
                    energy += torch.where(weight.abs() > threshold, weight.square(), 0.0).sum(1)
            return energy

        made, read = left(makers(groups, group)), left(group.consumers)
        connected = (made > 0) & (read > 0)
        return GroupScore.of(torch.where(connected, left(group.members), 0.0))
