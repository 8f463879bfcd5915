"""What a budget may look like."""

import pytest

from prunus.core.errors import BudgetError
from prunus.pipelines import GrowConfig
from prunus.plan import Budget, BudgetLike
from prunus.runs import RunConfig

DENSE = {"macs": 1000, "params": 400, "bytes": 1700, "ms": 2.5}


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
        ("bytes=50%", {"bytes": 850}),
        ("bytes=1.2k", {"bytes": 1200}),
        ("ms=50%", {"ms": 1.25}),
        ("ms=1.5", {"ms": 1.5}),
        ("ms≤2e-2", {"ms": 0.02}),
        ("ms=50%,ms=1.5,macs=30%", {"ms": 1.25, "macs": 300}),
    ],
)
def test_good(text: str, limits: dict[str, float]) -> None:
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
        "macs>=50%",
        "ms=1.5k",
        "bytes=3KiB",
        "bytes=3kB",
        "speed=2",
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
    assert str(Budget.parse("ms=1.5,bytes=2k")) == "ms ≤ 1.5, bytes ≤ 2 000"
    assert str(Budget.parse("accuracy>=97.25%,macs=1k")) == "macs ≤ 1 000, accuracy ≥ 97.25%"


@pytest.mark.parametrize(
    ("text", "accuracy", "limits"),
    [
        ("accuracy>=97%", 0.97, {}),
        ("accuracy>=0.97", 0.97, {}),
        ("Accuracy ≥ 97 %", 0.97, {}),
        ("accuracy>=1", 1.0, {}),
        ("accuracy>=100%", 1.0, {}),
        ("macs=50%, accuracy>=0.9", 0.9, {"macs": 500}),
        ("accuracy>=90%,accuracy>=0.95", 0.95, {}),
        ("macs=50%", None, {"macs": 500}),
    ],
)
def test_a_floor_of_accuracy(text: str, accuracy: float | None, limits: dict[str, float]) -> None:
    budget = Budget.parse(text)
    assert budget.accuracy == (None if accuracy is None else pytest.approx(accuracy))
    assert budget.absolute(DENSE) == limits


@pytest.mark.parametrize(
    "text",
    [
        "accuracy>=97",
        "accuracy>=0",
        "accuracy>=-0.5",
        "accuracy>=101%",
        "accuracy=97%",
        "accuracy<=97%",
        "accuracy>=high",
        "accuracy",
        "macs=50%,accuracy>=2",
    ],
)
def test_no_floor_of_accuracy(text: str) -> None:
    with pytest.raises(BudgetError, match=r"cannot be read: accuracy is a floor.*accuracy>=97%"):
        Budget.parse(text)


def test_milliseconds_need_a_table() -> None:
    with pytest.raises(BudgetError, match="needs a latency table of this machine"):
        Budget.parse("ms=50%").absolute({"macs": 1000})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"macs": "50%"}, "macs=50%"),
        ({"macs": "50%", "ms": 1.5}, "macs=50%, ms=1.5"),
        ({"params": 20_000, "accuracy": 0.97}, "params=20000, accuracy>=0.97"),
        ({"bytes": "1.2M", "accuracy": "97%"}, "bytes=1.2M, accuracy>=97%"),
        ({"macs": 1e12}, "macs=1000000000000"),
        ({"ms": 0.1 + 0.2}, "ms=0.30000000000000004"),
        (Budget.parse("macs=7%, params=33.3%, ms=1.5, accuracy>=97%"), None),
        ("accuracy>=97%", "accuracy>=97%"),
    ],
)
def test_text_a_mapping_and_a_budget_are_the_same(given: BudgetLike, text: str | None) -> None:
    found = Budget.of(given)
    assert found == (given if text is None else Budget.parse(text))
    config = RunConfig(model="lenet5", data="digits", budget=given)  # type: ignore[arg-type]
    assert Budget.parse(config.budget or "") == found
    assert text is None or config.budget == text
    assert Budget.parse(GrowConfig(budget=given).budget or "") == found  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [{}, {"watts": 3}, {"macs": -1}, {"macs": "half"}, {"ms": "2k"}])
def test_a_mapping_that_says_nothing_of_use_is_refused(given: dict[str, str | float]) -> None:
    with pytest.raises(BudgetError, match=r"macs, params, bytes|macs or params or bytes"):
        Budget.of(given)
