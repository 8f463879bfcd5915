"""Deep LDA push: training moves class separation into a few neurons of the last hidden layer.

[Tian, section 4.1.1, eq. 4.1–4.10], theory.md (73) to (77). Three terms on X (B, d), the input of
the head for a batch: ℓ_lda separates the classes, ℓ_cov and ℓ_align turn the separating directions
into those of single neurons, so that the other neurons can be cut afterwards.

With N_l images of class l and the mean μ_l of each, all scatter matrices are per image here:

    Σ_a = (1/B)·Σ_n (x_n − μ)(x_n − μ)ᵀ = TᵀT,   Σ_b = Σ_l (N_l/B)·(μ_l − μ)(μ_l − μ)ᵀ = MᵀM,
    Σ_w = Σ_a − Σ_b = WᵀW,   with factors T, W (B, d) and M (L, d).

They are never inverted or decomposed as d×d matrices: Σ_b has rank L − 1, so only
G = (Σ_w + cI)⁻¹Mᵀ (d, L) is needed, one Cholesky solve of size min(B, d).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prunus.batches import primary
from prunus.core import ConfigError, DataError, NonFiniteError
from prunus.training.config import PushConfig
from prunus.training.local import explained_share, pool, teacher_matrix

__all__ = [
    "Factors",
    "Push",
    "alignment_loss",
    "covariance_loss",
    "factors",
    "push_terms",
    "separation_loss",
    "solve_within",
]

#: Added to the mean discriminant, so that a dead layer costs 1/FLOOR instead of infinity.
FLOOR = 1e-3


class Factors(NamedTuple):
    """Σ_a = TᵀT, Σ_w = WᵀW, Σ_b = MᵀM of a batch: T and W (B, d), M (L, d), float64."""

    T: Tensor
    W: Tensor
    M: Tensor


def factors(features: Tensor, labels: Tensor) -> Factors:
    """Return the factors of the scatter matrices (eq. 4.2-4.4, per image).

    Shapes: features (B, d), labels int64 (B,). L is the number of classes present.
    """
    Y = teacher_matrix(labels)  # (B, L), centred, 1/√N_l
    x = features.to(Y.device, torch.float64)
    T = (x - x.mean(0)) / len(x) ** 0.5
    M = Y.T @ T
    return Factors(T, T - Y @ M, M)


def solve_within(W: Tensor, M: Tensor, ridge: float, *, dual: bool | None = None) -> Tensor:
    """Return G = (Σ_w + cI)⁻¹Mᵀ, shape (d, L), differentiable.

    Dual (d > B), by Woodbury: G = (Mᵀ − Wᵀ(WWᵀ + cI)⁻¹WMᵀ)/c. Both agree; the smaller is solved.

    c = ridge·tr(Σ_w²)/tr(Σ_w): the mean eigenvalue of Σ_w, weighted by the eigenvalues themselves.
    In these units the loss does not depend on the features' scale or on dead or duplicate neurons.
    If a layer is wider than the batch, c grows with d/B, so that it cannot separate arbitrary
    classes by width alone. The thesis adds a multiple of I but does not give its size; the unit is
    our choice.
    """
    if dual is None:
        dual = W.shape[1] > W.shape[0]
    A = W @ W.T if dual else W.T @ W
    c = ridge * A.square().sum() / (A.diagonal().sum() + 1e-30) + 1e-12 * M.square().mean() + 1e-30
    factor = torch.linalg.cholesky(A + c * torch.eye(len(A), dtype=A.dtype, device=A.device))
    G: Tensor = torch.cholesky_solve(W @ M.T if dual else M.T, factor)
    return (M.T - W.T @ G) / c if dual else G


def separation_loss(M: Tensor, G: Tensor) -> Tensor:
    """Return ℓ_lda = N/Σ_j v_j, v_j the eigenvalues of (Σ_w + cI)⁻¹Σ_b (eq. 4.5 and 4.6).

    Σ_j v_j = tr((Σ_w + cI)⁻¹Σ_b) = tr(MG), of N = min(L − 1, d) eigenvalues that are not always 0;
    their mean has `FLOOR` added.
    """
    N = min(len(M) - 1, M.shape[1])
    mean: Tensor = (M * G.T).sum() / N
    return 1 / (mean + FLOOR)


def covariance_loss(T: Tensor) -> Tensor:
    """Return ℓ_cov = ‖Σ_a − diag Σ_a‖₁/(d(d−1)), the mean |covariance| of two neurons (eq. 4.7)."""
    d = T.shape[1]
    A = T.T @ T
    off: Tensor = torch.linalg.vector_norm(A, 1) - A.diagonal().sum()
    return off / max(d * (d - 1), 1)


def alignment_loss(M: Tensor, G: Tensor) -> Tensor:
    """Return ℓ_align, the off-diagonal part of (Σ_w + cI)⁻¹Σ_b = GM (eq. 4.9).

    ‖GM − diag(GM)‖₁/(d(d−1)), the mean off the diagonal, over tr(GM)/d, the mean on it. The
    thesis does not divide by the latter; GM as a whole grows with the discriminants, so its ℓ_align
    counteracts ℓ_lda (measured: docs/results.md). Ours changes the directions, not their size.
    """
    d = M.shape[1]
    A = G @ M
    diagonal = A.diagonal()
    off = (torch.linalg.vector_norm(A, 1) - diagonal.abs().sum()) / max(d - 1, 1)
    share: Tensor = off / (diagonal.sum() + min(len(M) - 1, d) * FLOOR)
    return share


def push_terms(features: Tensor, labels: Tensor, config: PushConfig) -> dict[str, Tensor] | None:
    """Return the terms with a weight in `config`, by name; None for a batch of a single class.

    `lda` (or `di`, 1 − DI/tr(YYᵀ), in [0, 1]), `cov` and `align`, float64 scalars. A term with
    weight 0 is omitted, and so is `align` if d > config.align_limit. No term depends on the number
    of images, and the ℓ1 terms are means, so they do not grow with d or L either. The solve is in
    float64, the d×d matrices in the features' type, at least float32.

    Shapes: features (B, d), labels int64 (B,). Cost: O(min(B, d)³ + Bd·min(B, d)), and O(Bd²) for
    ℓ_cov, O(Ld²) for ℓ_align.

    Example:
        >>> x, y = torch.eye(4).repeat(4, 1), torch.arange(16) % 4
        >>> terms = push_terms(x, y, PushConfig())
        >>> sorted(terms), bool(terms["lda"] < 1e-6)
        (['align', 'cov', 'lda'], True)
    """
    T, W, M = factors(features, labels)
    if len(M) < 2:
        return None
    terms = {}
    wide = torch.promote_types(features.dtype, torch.float32)
    align = bool(config.align) and features.shape[1] <= config.align_limit
    separate = bool(config.lda) and config.form == "lda"
    if config.lda and config.form == "di":
        terms["di"] = 1 - explained_share(features, teacher_matrix(labels), config.ridge)
    G = solve_within(W, M, config.ridge) if align or separate else M.T
    if separate:
        terms["lda"] = separation_loss(M, G)
    if config.cov:
        terms["cov"] = covariance_loss(T.to(wide)).to(T)
    if align:
        terms["align"] = alignment_loss(M.to(wide), G.to(wide)).to(T)
    return terms


class Push:
    """The push at the input of the head of a network in training (eq. 4.10).

    ℓ_push = r·(γ·ℓ_lda + λ·ℓ_cov + β·ℓ_align), where r rises from 0 to 1 over the share
    `config.ramp` of the steps. The head is `config.layer`, or else the last linear layer to run
    whose output is the network's main output, or has its shape.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> push = Push(net, PushConfig())
        >>> with push.listening():
        ...     _ = net(torch.randn(16, 2))
        ...     loss, row = push.read(torch.arange(16) % 2, done=1.0)
        >>> push.head, sorted(row)
        ('2', ['push_align', 'push_cov', 'push_lda', 'push_loss'])
    """

    def __init__(self, model: nn.Module, config: PushConfig) -> None:
        """Find the candidates for the head; nothing is hooked yet.

        Raises:
            ConfigError: `config.layer` is not in the network, or it has no linear layer.
        """
        every = dict(model.named_modules())
        linear = {name: each for name, each in every.items() if isinstance(each, nn.Linear)}
        candidates = linear
        if config.layer is not None:
            candidates = {name: each for name, each in every.items() if name == config.layer}
        if not candidates:
            asked = "the last linear layer" if config.layer is None else repr(config.layer)
            raise ConfigError(
                f"push is set for {asked}, which {type(model).__name__} does not have: name its "
                f"head in push.layer (linear layers: {', '.join(linear) or 'none'})"
            )
        self.model, self.config = model, config
        self.candidates = candidates
        self.head = config.layer
        self._read: dict[str, tuple[Any, Any]] = {}
        self._output: Any = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hook the candidates within a `with` block; unhook them however it ends."""
        handles: list[Any] = []
        try:
            for name, module in self.candidates.items():
                handles.append(module.register_forward_hook(self._hear(name)))
            handles.append(self.model.register_forward_hook(self._answer))
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._read, self._output = {}, None

    def read(self, labels: Tensor, done: float) -> tuple[Tensor, dict[str, Tensor]] | None:
        """Return the loss of the last batch of the network, and its terms for the row.

        `done` is the share of the training steps that are finished. None if the batch has a
        single class.

        Raises:
            ConfigError: the targets are images, no head is found, or training cannot change the
                input of the head.
            DataError: the head does not read one row per image.
            NonFiniteError: the head reads NaN or infinity.
        """
        if labels.is_floating_point():
            raise ConfigError(
                "push needs class labels, but the targets are images: set train.push to null"
            )
        terms = push_terms(self._features(len(labels)), labels, self.config)
        if terms is None:
            return None
        config = self.config
        ramp = min(1.0, done / config.ramp) if config.ramp else 1.0
        weights = {"lda": config.lda, "di": config.lda, "cov": config.cov, "align": config.align}
        weighted = (weights[name] * term for name, term in terms.items())
        loss = ramp * sum(weighted, start=torch.zeros((), device=labels.device))
        row = {f"push_{name}": term.detach() for name, term in terms.items()}
        return loss, {"push_loss": loss.detach(), **row}

    def _hear(self, name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self.head in (None, name):
                self._read.pop(name, None)  # keep the last one to run at the end
                self._read[name] = args[0], output

        return hook

    def _answer(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._output = primary(output)

    def _features(self, images: int) -> Tensor:
        """Return the input of the head, (B, d), and discard the batch."""
        if self.head is None:
            self.head = self._find()
        if self.head not in self._read:
            raise ConfigError(f"push got no features from {self.head!r}: name a layer that runs")
        x = self._read[self.head][0]
        self._read, self._output = {}, None
        if not x.requires_grad:
            raise ConfigError(
                f"training cannot change the input of module {self.head!r} (the network's own "
                "input, or the output of frozen layers): set train.push to null"
            )
        features = pool(x, self.candidates[self.head])
        if len(features) != images:
            raise DataError(
                f"module {self.head!r} reads {len(features)} rows for {images} images, so its rows "
                "have no class: name the head in push.layer"
            )
        if not torch.isfinite(features).all():
            raise NonFiniteError(
                f"module {self.head!r} reads NaN or infinity in training: lower the learning rate"
            )
        return features

    def _find(self) -> str:
        """Return the name of the linear layer that produces the network's main output."""
        main, found = self._output, ""
        for name, (_, output) in self._read.items():
            if output is main:
                return name
            if isinstance(main, Tensor) and output.shape == main.shape:
                found = name
        if not found:
            raise ConfigError(
                f"no linear layer produces the output of {type(self.model).__name__}: name its "
                f"head in push.layer (linear layers: {', '.join(self.candidates)})"
            )
        return found
