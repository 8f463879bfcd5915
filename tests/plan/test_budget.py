"""What a budget may look like."""

import pytest

from prunus.core.errors import BudgetError
from prunus.plan import Budget

DENSE = {"macs": 1000, "params": 400}


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("macs=50%", {"macs": 500}),
        ("macs = 50 %", {"macs": 500}),
        ("MACS<=50%", {"macs": 500}),
        ("params=20000", {"params": 20_000}),
        ("params=20_000", {"params": 20_000}),
        ("macs=1.2M", {"macs": 1_200_000}),
        ("macs=1.2m", {"macs": 1_200_000}),
        ("macs=2k", {"macs": 2000}),
        ("macs=3G", {"macs": 3_000_000_000}),
        ("macs=1e3", {"macs": 1000}),
        ("params=10%, macs=100%", {"params": 40, "macs": 1000}),
        ("macs=50%,macs=300", {"macs": 300}),
        ("macs=0.05%", {"macs": 0}),
    ],
)
def test_good(text: str, limits: dict[str, int]) -> None:
    assert Budget.parse(text).absolute(DENSE) == limits


@pytest.mark.parametrize(
    "text",
    [
        "",
        "50%",
        "macs",
        "macs=",
        "macs=half",
        "macs=-5",
        "macs=0",
        "macs=0%",
        "flops=50%",
        "macs=50%;params=10%",
        "macs=50%,",
        "macs=1.2.3",
        "macs=.",
        "macs=1e999",
        "macs=nan",
        "macs=5T",
        "macs=50%%",
    ],
)
def test_bad(text: str) -> None:
    with pytest.raises(BudgetError, match=r"cannot be read: expected macs or params.*macs=50%"):
        Budget.parse(text)


def test_more_than_everything() -> None:
    with pytest.raises(BudgetError, match=r"keep 150%.*at most 100%"):
        Budget.parse("macs=150%")


def test_in_words() -> None:
    assert str(Budget.parse("macs=50%, params=20000")) == "macs ≤ 50%, params ≤ 20 000"
