"""Limits on cost and a floor on accuracy: `macs=50%`, `ms=1.5, bytes=200k`, `accuracy>=97%`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator

from prunus.core import BudgetError

__all__ = [
    "CURRENCIES",
    "Budget",
    "BudgetLike",
    "BudgetText",
    "Limit",
    "budget_text",
    "require_counted",
    "written",
]

#: Multiply-accumulates per image, parameters, bytes of the weight file, milliseconds per batch.
CURRENCIES = ("macs", "params", "bytes", "ms")
_SUFFIX = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_NUMBER = r"([\d_.]+(?:e[+-]?\d+)?)"
_LIMIT = re.compile(rf"^(\w+)\s*(?:=|<=|≤)\s*{_NUMBER}\s*(%|[kmg])?$", re.IGNORECASE)
_FLOOR = re.compile(rf"^accuracy\s*(>=|≥|=|<=|≤)\s*{_NUMBER}\s*(%)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Limit:
    """At most `amount` of a currency; a share of the dense network's if `relative`."""

    currency: str
    amount: float
    relative: bool

    def of(self, dense: float) -> float:
        """Return the limit in units for a network that costs `dense`; whole except for `ms`."""
        amount = dense * self.amount if self.relative else self.amount
        return amount if self.currency == "ms" else int(amount)

    def __str__(self) -> str:
        if self.relative:
            return f"{self.currency} ≤ {self.amount * 100:g}%"
        if self.currency == "ms":
            return f"{self.currency} ≤ {self.amount:g}"
        return f"{self.currency} ≤ {int(self.amount):,}".replace(",", " ")


@dataclass(frozen=True)
class Budget:
    """Limits that must all be met, and the accuracy that must be kept.

    Attributes:
        limits: what the network may cost, counted or from a latency table.
        accuracy: the least accuracy, in (0, 1]; None without a floor. It is measured, not counted:
            a plan cannot guarantee it, a pipeline searches for it.

    Example:
        >>> str(Budget.parse("params=10%, accuracy>=97%"))
        'params ≤ 10%, accuracy ≥ 97%'
    """

    limits: tuple[Limit, ...]
    accuracy: float | None = None

    @classmethod
    def of(cls, budget: BudgetLike) -> Budget:
        """Return a budget given as one, as text, or as a mapping.

        A value of a mapping is what follows `=` in text, or `>=` for `accuracy`.

        Raises:
            BudgetError: says which part cannot be read and what was expected.

        Example:
            >>> Budget.of({"macs": "50%", "ms": 1.5}) == Budget.parse("macs=50%, ms=1.5")
            True
            >>> Budget.of({"params": 20_000, "accuracy": 0.97}).accuracy
            0.97
        """
        if isinstance(budget, Budget):
            return budget
        return cls.parse(budget_text(budget))

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `currency=amount` pairs, and `accuracy>=amount`, separated by commas.

        An amount is a percentage of the dense network's (`50%`: at most half is *kept*) or a
        number with an optional decimal suffix k, M or G (none for `ms`). `accuracy` takes a share
        in (0, 1] or a percentage; of two the higher one counts.

        Raises:
            BudgetError: names the part that cannot be read and what was expected.
        """
        limits: list[Limit] = []
        floors: list[float] = []
        for part in map(str.strip, text.split(",")):
            if part.lower().startswith("accuracy"):
                floors.append(_read_floor(part))
            else:
                limits.append(_read_limit(part, text))
        return cls(tuple(limits), max(floors, default=None))

    def absolute(self, dense: Mapping[str, float]) -> dict[str, float]:
        """Return the tightest limit of each currency in units.

        Raises:
            BudgetError: `dense` lacks a currency: milliseconds need a latency table.
        """
        found: dict[str, float] = {}
        for limit in self.limits:
            require_counted(limit.currency, dense)
            amount = limit.of(dense[limit.currency])
            found[limit.currency] = min(amount, found.get(limit.currency, amount))
        return found

    def __str__(self) -> str:
        words = list(map(str, self.limits))
        if self.accuracy is not None:
            words.append(f"accuracy ≥ {100 * self.accuracy:g}%")
        return ", ".join(words)


#: The types accepted wherever a budget is given.
BudgetLike = Budget | str | Mapping[str, str | float]


def budget_text(budget: BudgetLike) -> str:
    """Return a budget as text that `Budget.parse` reads; text stays as it is.

    Example:
        >>> budget_text({"macs": "50%", "accuracy": "97%"})
        'macs=50%, accuracy>=97%'
    """
    if not isinstance(budget, Mapping | Budget):
        return budget
    if isinstance(budget, Mapping):
        for name in budget.keys() - {*CURRENCIES, "accuracy"}:
            raise _not_counted(name)
        parts = [
            f"{name}{'>=' if name == 'accuracy' else '='}{_amount(value)}"
            for name, value in budget.items()
        ]
        return ", ".join(parts)
    parts = [
        f"{limit.currency}={100 * limit.amount:.15g}%"
        if limit.relative
        else f"{limit.currency}={_amount(limit.amount)}"
        for limit in budget.limits
    ]
    if budget.accuracy is not None:
        parts.append(f"accuracy>={_amount(budget.accuracy)}")
    return ", ".join(parts)


def _amount(value: str | float) -> str:
    """Return an amount as text; a number keeps every digit."""
    if isinstance(value, str):
        return value.strip()
    number = float(value)
    return str(int(number)) if number.is_integer() else repr(number)


#: The type of a setting: a budget in any form, kept as text in `config.yaml`.
BudgetText = Annotated[str, BeforeValidator(budget_text)]


def require_counted(currency: str, costs: Mapping[str, float]) -> None:
    """Raise `BudgetError` if `costs` does not contain `currency`."""
    if currency in costs:
        return
    if currency == "ms":
        raise BudgetError(
            "a budget in ms needs a latency table of this machine: measure one with "
            "prunus.evaluation.measure_latency_table and give it as table="
        )
    raise _not_counted(currency)


def _not_counted(currency: str) -> BudgetError:
    return BudgetError(
        f"a budget in {currency!r} cannot be counted: expected one of {', '.join(CURRENCIES)}"
    )


def written(currency: str, cost: float) -> str:
    """Format a cost; one in ms is rounded up, so that it can be given as a limit."""
    if currency != "ms":
        return str(math.floor(cost))
    return f"{math.ceil(cost * (1 + 1e-9) * 1e6) / 1e6:.6f}".rstrip("0").rstrip(".")


def _read_limit(part: str, text: str) -> Limit:
    match = _LIMIT.match(part)
    name = match.group(1).lower() if match else ""
    amount = _number(match.group(2)) if match else 0.0
    suffix = (match.group(3) or "").lower() if match else ""
    if (
        name not in CURRENCIES
        or not 0 < amount < math.inf
        or (name == "ms" and suffix not in ("", "%"))
    ):
        raise BudgetError(
            f"budget {text!r} cannot be read: expected {' or '.join(CURRENCIES)}, =, and a "
            "positive amount, as in macs=50% (half is kept), params=20000, bytes=1.2M or ms=1.5; "
            "or accuracy>=97%"
        )
    if suffix != "%":
        return Limit(name, amount * _SUFFIX[suffix], relative=False)
    if amount > 100:
        raise BudgetError(
            f"budget {text!r} asks to keep {amount:g}%: a percentage is the share that is kept, "
            "at most 100%"
        )
    return Limit(name, amount / 100, relative=True)


def _read_floor(part: str) -> float:
    match = _FLOOR.match(part)
    amount = _number(match.group(2)) / (100 if match.group(3) else 1) if match else 0.0
    if match is None or match.group(1) not in (">=", "≥") or not 0 < amount <= 1:
        raise BudgetError(
            f"{part!r} cannot be read: accuracy is a floor, expected >= and a share in (0, 1] or "
            "a percentage, as in accuracy>=0.97 or accuracy>=97%"
        )
    return amount


def _number(text: str) -> float:
    """Return the number, or 0 if it is not one."""
    try:
        return float(text.replace("_", ""))
    except ValueError:
        return 0.0
