"""What may be spent: `macs=50%`, `params=20000`, `macs=1.2M`, several with commas."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from prunus.core.errors import BudgetError

__all__ = ["Budget", "Limit"]

CURRENCIES = ("macs", "params")
_SUFFIX = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_FORM = re.compile(r"^(\w+)\s*(?:=|<=)\s*([\d_.]+(?:e\d+)?)\s*(%|[kmg])?$", re.IGNORECASE)


@dataclass(frozen=True)
class Limit:
    """At most `amount` of a currency; a share of the dense network's where `relative`."""

    currency: str
    amount: float
    relative: bool

    def of(self, dense: int) -> int:
        """Return the limit in units, for a network that costs `dense`."""
        return int(dense * self.amount) if self.relative else int(self.amount)

    def __str__(self) -> str:
        if self.relative:
            return f"{self.currency} ≤ {self.amount * 100:g}%"
        return f"{self.currency} ≤ {int(self.amount):,}".replace(",", " ")


@dataclass(frozen=True)
class Budget:
    """One or more limits that must all be met.

    Example:
        >>> str(Budget.parse("params=10%"))
        'params ≤ 10%'
    """

    limits: tuple[Limit, ...]

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `currency=amount` pairs separated by commas.

        An amount is a percentage of the dense network's (`50%`: at most half is *kept*) or a
        number with an optional suffix k, M or G.

        Raises:
            BudgetError: says which part cannot be read and what was expected.
        """
        limits = []
        for part in text.split(","):
            match = _FORM.match(part.strip())
            name = match.group(1).lower() if match else ""
            try:
                amount = float(match.group(2).replace("_", "")) if match else 0.0
            except ValueError:
                amount = 0.0
            if match is None or name not in CURRENCIES or not 0 < amount < math.inf:
                raise BudgetError(
                    f"budget {text!r} cannot be read: expected {' or '.join(CURRENCIES)}, =, and a "
                    "positive amount, as in macs=50% (half is kept), params=20000 or macs=1.2M"
                )
            suffix = (match.group(3) or "").lower()
            if suffix == "%":
                if amount > 100:
                    raise BudgetError(
                        f"budget {text!r} asks to keep {amount:g}%: a percentage says how much "
                        "is kept, at most 100%"
                    )
                limits.append(Limit(name, amount / 100, relative=True))
            else:
                limits.append(Limit(name, amount * _SUFFIX[suffix], relative=False))
        return cls(tuple(limits))

    def absolute(self, dense: dict[str, int]) -> dict[str, int]:
        """Return the tightest limit of each currency in units."""
        found: dict[str, int] = {}
        for limit in self.limits:
            amount = limit.of(dense[limit.currency])
            found[limit.currency] = min(amount, found.get(limit.currency, amount))
        return found

    def __str__(self) -> str:
        return ", ".join(map(str, self.limits))
