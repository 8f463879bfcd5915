"""How a cut is repaired: `RepairConfig`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prunus.core import ConfigError

__all__ = ["BATCHNORM_RULES", "COMPENSATIONS", "RepairConfig"]

COMPENSATIONS = ("none", "bias", "pointwise", "patch", "joint", "merge")
BATCHNORM_RULES = ("auto", "always", "never")


@dataclass(frozen=True, kw_only=True)
class RepairConfig:
    """How what reads the cut channels is repaired; `apply_` explains each setting.

    Attributes:
        compensate: a name of `COMPENSATIONS`, or None for the best that the inputs allow.
        ridge: ρ in units of the mean eigenvalue of standardised features, above 0.
        batchnorm: a name of `BATCHNORM_RULES`.
        shrink: the share of the old running statistics that is kept, in [0, 1].

    Raises:
        ConfigError: a setting is unknown or out of range.
    """

    compensate: str | None = None
    ridge: float = 1e-3
    batchnorm: str = "auto"
    shrink: float = 0.0

    def __post_init__(self) -> None:
        if self.compensate is not None and self.compensate not in COMPENSATIONS:
            raise ConfigError(
                f"compensate {self.compensate!r}: expected one of {', '.join(COMPENSATIONS)}"
            )
        if self.batchnorm not in BATCHNORM_RULES:
            raise ConfigError(
                f"batchnorm {self.batchnorm!r}: expected one of {', '.join(BATCHNORM_RULES)}"
            )
        if not (self.ridge > 0 and math.isfinite(self.ridge)):
            raise ConfigError(f"ridge is {self.ridge}, expected a positive number such as 1e-3")
        if not 0 <= self.shrink <= 1:
            raise ConfigError(
                f"shrink is {self.shrink}, expected a share of the old statistics in [0, 1]"
            )

    @property
    def refits(self) -> bool:
        """Whether the cut network is fitted to the dense one where there is a loader."""
        return self.compensate in ("patch", "joint")

    @property
    def reestimates(self) -> bool:
        """Whether BatchNorm statistics are estimated again where there is a loader."""
        if self.batchnorm == "auto":
            return not self.refits
        return self.batchnorm == "always"
