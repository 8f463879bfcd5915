"""The sums of an input too wide for a Gram matrix: exact moments, and a few rows for the rest.

With the centred features X (F×N) of (2), S = XXᵀ takes F² numbers. Kept instead are every
feature's mean and variance, which are exact, and rows R (r×F) with r ≤ `ROWS`, so that

    S ≈ RᵀR + diag(e),  e_i = S_ii − (RᵀR)_ii ≥ 0,

theory.md (91). As long as N ≤ `ROWS` the rows are the samples themselves and e = 0: the *dual*
form, exact up to rounding. Beyond that they are a *sketch*: frequent directions [Ghashami-FD,
section 2], which is deterministic, keeps no image, and guarantees 0 ⪯ S − RᵀR ⪯ δI with
δ ≤ ‖X − X_k‖²_F/(r − k) for every k < r, X_k the best approximation of rank k.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from prunus.core import ConfigError, PlanError
from prunus.statistics.factor import Factor
from prunus.statistics.scatter import Scatter

__all__ = ["ROWS", "Sketch"]

#: r, the most rows that are kept of one consumer in one block, and of all blocks together.
ROWS = 512

#: Share of tr(S) outside the rows that is rounding.
ROUNDING = 1e-9

#: The most bytes that the dense form of a sketch may take.
DENSE = 2 * 10**9


class Sketch(Scatter):
    """A `Scatter` of F features without its Gram matrix.

    Attributes:
        rows: R of the centred features. Shape (r, F).
        squares: Σ w x². Shape (F,).
        shed: δ, the bound on the eigenvalues of S − RᵀR; 0 as long as the form is dual.

    What needs only products with S or M⁻¹ costs O(F·r); `gram`, `S` and `correlation` are worked
    out on request, F×F, from R and e. Memory: 8·F·(r + q + 2) bytes, twice r while it is added to.
    Merging is exact up to rounding where all samples together are at most `ROWS`, otherwise
    within δ.
    """

    rows: Tensor
    squares: Tensor
    shed: float

    def __init__(  # not the dataclass's, which would ask for a Gram matrix
        self,
        *,
        rows: Tensor,
        squares: Tensor,
        shed: float,
        total: Tensor,
        cross: Tensor,
        teacher_total: Tensor,
        teacher_gram: Tensor | None,
        weight: Tensor,
    ) -> None:
        self.rows, self.squares, self.shed = rows, squares, shed
        self.total, self.cross, self.weight = total, cross, weight
        self.teacher_total, self.teacher_gram = teacher_total, teacher_gram
        self.cells = 1

    @classmethod
    def empty(
        cls,
        features: int,
        columns: int,
        device: torch.device | str = "cpu",
        *,
        discrete: bool = True,
    ) -> Sketch:
        """Return the sketch of no samples."""

        def make(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(
            rows=make(0, features),
            squares=make(features),
            shed=0.0,
            total=make(features),
            cross=make(columns, features),
            teacher_total=make(columns),
            teacher_gram=None if discrete else make(columns, columns),
            weight=make(),
        )

    def __repr__(self) -> str:
        sums = super().__repr__()[:-1].replace("Scatter", "Sketch", 1)
        return f"{sums} in {len(self.rows)} rows)"

    def add_(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Add the features x (B, F, P) of a batch, with one weight per image, (B,).

        Returns each image's sum over its samples, (B, F). Cost: O(r·F) a sample.
        """
        _, _, positions = x.shape
        sums = x.sum(2).to(self.total)
        if weight is not None and not bool(weight.any()):
            return sums
        flat = x.transpose(1, 2).flatten(0, 1)  # (B·P, F)
        shares = None if weight is None else weight.repeat_interleave(positions)
        for start in range(0, len(flat), ROWS):
            part = flat[start : start + ROWS].to(self.total)
            w = part.new_ones(len(part)) if shares is None else shares[start : start + ROWS]
            self._add(part, w.to(part))
        return sums

    def _add(self, x: Tensor, w: Tensor) -> None:
        """Add samples x (n, F) with weights w (n,)."""
        count, total = w.sum(), w @ x
        mean = total / count.clamp(min=1e-300)
        between = _between(self.weight, self.total, count, total)
        self.rows = torch.cat([self.rows, (x - mean) * w.sqrt()[:, None], between])
        self.squares += w @ x.square()
        self.total += total
        self.weight += count
        if len(self.rows) > 2 * ROWS:
            self.compress_()

    def compress_(self, limit: int | None = None) -> Sketch:
        """Keep at most `ROWS` rows, by frequent directions; return self."""
        limit = ROWS if limit is None else limit
        if len(self.rows) > limit:
            self.rows, shed = _frequent_directions(self.rows, limit)
            self.shed += shed
        return self

    def merge(self, *others: Scatter) -> Sketch:
        """Return the sketch of all sets of samples.

        Raises:
            PlanError: they were made for different features or teachers, or are no sketches.
        """
        merged = self._with(**{part: getattr(self, part).clone() for part in ("total", "squares")})
        for other in others:
            if not isinstance(other, Sketch) or other.form != self.form:
                raise PlanError(
                    f"cannot merge a sketch of (teacher columns, features, cells) {self.form} with "
                    f"{other!r}: collect both on the same network with the same teacher and "
                    "feature_limit"
                )
            between = _between(merged.weight, merged.total, other.weight, other.total)
            gram, more = merged.teacher_gram, other.teacher_gram
            merged = merged._with(
                rows=torch.cat([merged.rows, other.rows, between]),
                squares=merged.squares + other.squares,
                shed=merged.shed + other.shed,
                total=merged.total + other.total,
                cross=merged.cross + other.cross,
                teacher_total=merged.teacher_total + other.teacher_total,
                teacher_gram=None if gram is None or more is None else gram + more,
                weight=merged.weight + other.weight,
            )
            if len(merged.rows) > 4 * ROWS:
                merged.compress_()
        return merged.compress_()

    def to(self, device: torch.device | str) -> Sketch:
        """Return the same sums on another device."""
        return self._with(
            **{n: v.to(device) for n, v in vars(self).items() if n in PARTS and v is not None}
        )

    def coarsen(self, parents: Tensor) -> Sketch:
        """Return the sums under coarser labels, as `Scatter.coarsen`."""
        empty = self.total.new_zeros(0, self.features)
        moments = Scatter(
            gram=empty,
            total=self.total,
            cross=self.cross,
            teacher_total=self.teacher_total,
            teacher_gram=self.teacher_gram,
            weight=self.weight,
        )
        coarse = moments.coarsen(parents)
        return self._with(cross=coarse.cross, teacher_total=coarse.teacher_total)

    def select(self, kept: Tensor) -> Sketch:
        """Return the sums over the features `kept` alone."""
        return self._with(
            rows=self.rows[:, kept],
            squares=self.squares[kept],
            total=self.total[kept],
            cross=self.cross[:, kept],
        )

    def pointwise(self) -> Sketch:
        """Return itself: a feature has one cell."""
        return self

    @cached_property
    def variance(self) -> Tensor:
        """S_ii, shape (F,)."""
        return (self.squares - self.samples * self.mean.square()).clamp(min=0)

    @property
    def second(self) -> Tensor:
        """Σ w x², shape (F,)."""
        return self.squares

    @cached_property
    def rest(self) -> Tensor:
        """e, the variance of each feature outside the rows. Shape (F,)."""
        return (self.variance - self.rows.square().sum(0)).clamp(min=0)

    @property
    def outside(self) -> float:
        """tr(diag e)/tr(S), the share of the scatter outside the rows; 0 for the dual form."""
        share = float(self.rest.sum() / self.variance.sum().clamp(min=1e-300))
        return share if share > ROUNDING else 0.0

    @cached_property
    def standard_rows(self) -> Tensor:
        """R of the standardised features, with zeros for constant ones. Shape (r, F)."""
        return torch.where(self.constant, 0.0, self.rows / self.scale)

    @cached_property
    def standard_rest(self) -> Tensor:
        """E of the standardised features, with zeros for constant ones. Shape (F,)."""
        return torch.where(self.constant, 0.0, self.rest / self.scale.square())

    @cached_property
    def S(self) -> Tensor:
        """RᵀR + diag(e), shape (F, F)."""
        self._require_room()
        S = self.rows.T @ self.rows
        S.diagonal().add_(self.rest)
        return S

    @cached_property
    def gram(self) -> Tensor:  # type: ignore[override]  # a field of the dense form
        """S + Nμμᵀ, shape (F, F)."""
        return self.S + self.samples * torch.outer(self.mean, self.mean)

    @cached_property
    def factor(self) -> Factor:
        """S/σσᵀ of the standardised features: of the rows, and what is outside them."""
        return Factor(self.standard_rows, self.standard_rest)

    def _require_room(self) -> None:
        need = 8 * self.features**2
        if need > DENSE:
            raise ConfigError(
                f"what was asked for needs the full Gram matrix of {self.features} features "
                f"({need / 1e9:.1f} GB), and only a sketch in {len(self.rows)} rows is kept: use "
                "criterion 'stacked', 'di', 'ridge_lse', 'structural', 'fdr' or 'diloss'"
            )

    def _with(self, **changed: Any) -> Sketch:
        return Sketch(**{**{part: getattr(self, part) for part in PARTS}, **changed})


#: What a sketch is made of.
PARTS = (
    "rows",
    "squares",
    "shed",
    "total",
    "cross",
    "teacher_total",
    "teacher_gram",
    "weight",
)


def _between(n: Tensor, total: Tensor, m: Tensor, other: Tensor) -> Tensor:
    """Return the row that two centred sets lack: √(nm/(n+m))·(μ_n − μ_m), or none. Shape (·, F)."""
    if not float(n) or not float(m):
        return total.new_zeros(0, len(total))
    return ((n * m / (n + m)).sqrt() * (total / n - other / m))[None]


def _frequent_directions(rows: Tensor, limit: int) -> tuple[Tensor, float]:
    """Return `limit` rows R′ and δ with 0 ⪯ RᵀR − R′ᵀR′ ⪯ δI [Ghashami-FD, algorithm 2].

    With the eigenvalues s² of RRᵀ, δ is the first that is left out, and is taken off the others.
    """
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    shed = values[limit]
    noise = len(rows) * torch.finfo(values.dtype).eps * values[0]
    shed = torch.where(shed > noise, shed, 0.0)
    kept = values[:limit]
    factor = torch.where(kept > noise, ((kept - shed).clamp(min=0) / kept).sqrt(), 0.0)
    return factor[:, None] * (vectors[:, :limit].T @ rows), float(shed)
