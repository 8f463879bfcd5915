"""Backward broadcast: the class labels reach every hidden layer during training.

[Kung-Hou, section 2.2] splits the teacher Y at a layer with features X into Span(Y|X), what the
layer already explains, and Res(Y|X), what the layers after it must still learn. Theorem 1 there
quantifies both: with C = tr(YYᵀ), DI + RidgeLSE = C, so DI/C is the share explained and RidgeLSE/C
the rest. A local teacher reduces that rest at every layer, in addition to the loss at the output
(BPOS, back-propagation with omnipresent supervision [Kung-slides]). It reads the layers' inputs, so
skip connections are not affected, and nothing of it remains after training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prunus.core import ConfigError, DataError, NonFiniteError
from prunus.modules import is_mixing

__all__ = [
    "LocalTeachers",
    "discriminant_information",
    "explained_share",
    "pool",
    "standardise",
    "teacher_matrix",
]

#: Floor of a channel's variance, as a share of the layer's mean variance.
QUIET = 1e-3


class LocalTeachers:
    """A teacher at the input of every chosen layer of a network in training.

    For layer l of n (in execution order) it computes the share of its teacher that the batch's
    features explain, `explained_share`. With `parents` the teacher goes from coarse to fine,

        DI_w = DI_coarse + w_l·(DI_fine − DI_coarse),  w_l = l/(n−1) for l = 0 … n−1,

    over its own maximum (1−w_l)·(L_coarse−1) + w_l·(L_fine−1); a single layer has w = 1.
    [Kung-Hou, section 8.1, Figure 12] names this granularity; the weights are our reconstruction,
    theory.md (15).

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> teachers = LocalTeachers(net)
        >>> with teachers.listening():
        ...     _ = net(torch.randn(8, 2))
        ...     share = teachers.information(torch.arange(8) % 2)
        >>> bool(0 < share < 1)
        True
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] = (),
        *,
        parents: Tensor | Sequence[int] | None = None,
        ridge: float = 1.0,
        weight: float = 1.0,
    ) -> None:
        """Choose the layers of `model`; nothing is hooked yet.

        Args:
            model: the network.
            layers: names of the modules whose inputs are taught. If empty: every convolution and
                linear layer except depthwise ones (their input is after BN and ReLU) and those
                whose input training cannot change, such as the network's own input.
            parents: the coarse class of each class, for a teacher from coarse to fine.
            ridge: ρ in units of the mean eigenvalue, see `discriminant_information`. On a batch
                it must be large: at 10⁻³ any layer with a hundred channels explains all labels.
            weight: of the loss that `read` returns.

        Raises:
            ConfigError: a layer is not in the network, or the network has none; lists known ones.
        """
        known = [name for name, module in model.named_modules() if is_mixing(module)]
        every = dict(model.named_modules())
        unknown = [name for name in layers if name not in every]
        if unknown or not known:
            raise ConfigError(
                f"local teachers are set for {', '.join(map(repr, unknown)) or 'all layers'},"
                f" which {type(model).__name__} does not have: name one of its convolution and "
                f"linear layers ({', '.join(known) or 'none'})"
            )
        self.layers = {name: every[name] for name in layers or known}
        self.named = bool(layers)
        self.parents = None if parents is None else torch.as_tensor(parents)
        self.ridge, self.weight = ridge, weight
        self._heard: set[str] = set()
        self._read: dict[int, tuple[str, Tensor, Tensor]] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hook the layers within a `with` block; unhook them however it ends."""
        handles: list[Any] = []
        try:
            for name, module in self.layers.items():
                handles.append(module.register_forward_pre_hook(self._hear(name)))
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._heard, self._read = set(), {}

    def read(self, labels: Tensor, done: float) -> tuple[Tensor, dict[str, Tensor]] | None:
        """Return the loss of the last batch, weight·(1 − share), and the share for the row.

        `done` is not used. None if `information` returns None.

        Raises:
            DataError: the targets are images; or see `information`.
        """
        if labels.is_floating_point():
            raise DataError(
                "local teachers need class labels, but the targets are images: set train.local to 0"
            )
        share = self.information(labels)
        if share is None:
            return None
        return self.weight * (1 - share), {"local_information": share.detach()}

    def information(self, labels: Tensor) -> Tensor | None:
        """Return the share explained for the last batch of the network, mean over layers.

        Layers that read the same tensor count once. None if there is nothing to explain because
        all images of the batch are of one class.

        Raises:
            ConfigError: a named layer did not run or its input cannot be changed by training, or
                this holds for all layers.
            DataError: the labels have no parent, or a layer does not read one row per image.
            NonFiniteError: a layer reads NaN or infinity; names it.
        """
        read = list(self._read.values())
        self._require(read, len(labels))
        self._heard, self._read = set(), {}
        fine = coarse = teacher_matrix(labels)
        if self.parents is not None:
            coarse = teacher_matrix(self._coarsen(labels))
        shares = []
        for depth, (_, _, features) in enumerate(read):
            w = depth / (len(read) - 1) if len(read) > 1 else 1.0
            # DI is linear in YYᵀ, so both granularities are one teacher.
            teacher = torch.cat([(1 - w) ** 0.5 * coarse, w**0.5 * fine], 1)
            if teacher.any():
                shares.append(explained_share(features, teacher, self.ridge))
        return torch.stack(shares).mean() if shares else None

    def _hear(self, name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0]
            if not x.requires_grad:
                if self.named:
                    raise ConfigError(
                        f"training cannot change the input of module {name!r} (the network's own "
                        "input, or the output of frozen layers): remove it from local_layers"
                    )
                return
            self._heard.add(name)
            if id(x) not in self._read:  # holding x keeps its id its own
                self._read[id(x)] = name, x, pool(x, self.layers[name])

        return hook

    def _require(self, read: list[tuple[str, Tensor, Tensor]], images: int) -> None:
        """Raise if a layer did not run, or its input cannot be taught."""
        silent = [name for name in self.layers if name not in self._heard]
        if silent and (self.named or not read):
            raise ConfigError(
                f"local teachers got no features from {', '.join(silent)}: a taught layer must "
                "run, on features that training can change; set local to 0 or name other "
                "local_layers"
            )
        for name, _, features in read:
            if len(features) != images:
                raise DataError(
                    f"module {name!r} reads {len(features)} rows for {images} images, so its rows "
                    "have no class: remove it from local_layers"
                )
            if not torch.isfinite(features).all():
                raise NonFiniteError(
                    f"module {name!r} reads NaN or infinity in training: lower the learning rate"
                )

    def _coarsen(self, labels: Tensor) -> Tensor:
        assert self.parents is not None
        if len(labels) and int(labels.max()) >= len(self.parents):
            raise DataError(
                f"label {int(labels.max())} has no parent, only {len(self.parents)} are given: "
                "give the coarse class of every class"
            )
        return self.parents.to(labels.device)[labels]


def pool(x: Tensor, layer: nn.Module) -> Tensor:
    """Return a feature vector for each image, shape (B, F), from the input of `layer`.

    For a linear layer it is the last axis, averaged over the axes between (tokens); for a
    convolution the channels, averaged over the map (global average pooling).
    """
    if x.dim() <= 2:
        return x
    axes = tuple(range(1, x.dim() - 1) if isinstance(layer, nn.Linear) else range(2, x.dim()))
    return x.mean(axes, dtype=torch.promote_types(x.dtype, torch.float32))


def teacher_matrix(labels: Tensor) -> Tensor:
    """Return Y, the centred one-hot with value 1/√N_l, of the classes present: (B, L), float64.

    tr(YYᵀ) = L−1, balanced or not [Kung-Hou, Theorem 1]; its illegible weight is 1/√N_l.
    """
    Y = nn.functional.one_hot(labels).to(_store(labels), torch.float64)
    Y = Y[:, Y.any(0)]
    Y = Y / Y.sum(0).sqrt()
    centred = Y - Y.mean(0)
    return centred if Y.shape[1] > 1 else torch.zeros_like(centred)


def standardise(features: Tensor) -> Tensor:
    """Return X = (x−μ)/√(σ² + floor) over the batch, float64; features (B, F) → (B, F).

    The floor, 10⁻³ of the layer's mean variance, keeps DI continuous when a channel becomes
    constant (its X tends to 0), and bounds the gradient there. It is our choice.
    """
    x = features.to(_store(features), torch.float64)
    centred = x - x.mean(0)
    variance = centred.square().mean(0)
    floor = QUIET * variance.mean() + 1e-12 * x.square().mean() + 1e-30
    return centred / (variance + floor).sqrt()


def discriminant_information(
    X: Tensor, Y: Tensor, ridge: float, *, dual: bool | None = None
) -> Tensor:
    """Return DI = tr((S+ρI)⁻¹ S_B) of a batch, differentiable [Kung-Hou, eq. 8, 10].

    Rows are images here, X (B, F) and Y (B, L), both centred: S = XᵀX and S_B = XᵀYYᵀX. The dual
    form, with K = XXᵀ of shape (B, B), is tr(YᵀY) − ρ·tr(Yᵀ(K+ρI)⁻¹Y). Both agree; by default the
    smaller system is solved, O(min(F, B)³).

    ρ = ridge·max(B, tr(S)/(B−1)): the mean eigenvalue of S for standardised features, B, or, if
    the layer is wider than the batch, that of its B−1 nonzero eigenvalues. A layer wider than the
    batch explains any labels as ρ → 0; this ρ prevents that.
    """
    batch, width = X.shape
    rho = ridge * (X.square().sum() / max(batch - 1, 1)).clamp(min=batch)
    if dual is None:
        dual = width > batch
    A = X @ X.T if dual else X.T @ X
    factor = torch.linalg.cholesky(A + rho * torch.eye(len(A), dtype=A.dtype, device=A.device))
    half: Tensor = torch.linalg.solve_triangular(factor, Y if dual else X.T @ Y, upper=False)
    return Y.square().sum() - rho * half.square().sum() if dual else half.square().sum()


def explained_share(features: Tensor, teacher: Tensor, ridge: float) -> Tensor:
    """Return DI/tr(YYᵀ) in [0, 1), the share of the teacher that a layer spans [Kung-Hou, eq. 12].

    The rest to 1 is the residual, RidgeLSE/tr(YYᵀ). Shapes: features (B, F), teacher (B, L).
    """
    X = standardise(features)
    return discriminant_information(X, teacher, ridge) / teacher.square().sum()


def _store(x: Tensor) -> torch.device:
    """Return the device for float64 sums: MPS does not support them."""
    return torch.device("cpu") if x.device.type == "mps" else x.device
