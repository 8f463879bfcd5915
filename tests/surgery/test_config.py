"""The settings of a repair: checked when made."""

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from prunus.core.errors import ConfigError
from prunus.surgery import COMPENSATIONS, RepairConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compensate": "magic"}, f"expected one of {', '.join(COMPENSATIONS)}"),
        ({"batchnorm": "sometimes"}, "expected one of auto, always, never"),
        ({"ridge": 0.0}, "ridge is 0.0"),
        ({"ridge": float("nan")}, "ridge is nan"),
        ({"shrink": -0.1}, "shrink is -0.1"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RepairConfig(**options)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        RepairConfig().ridge = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("compensate", "batchnorm", "expected"),
    [
        ("none", "auto", True),
        ("patch", "auto", False),
        ("joint", "auto", False),
        ("joint", "always", True),
        ("none", "never", False),
    ],
)
def test_when_norms_are_estimated_again(compensate: str, batchnorm: str, expected: bool) -> None:
    assert RepairConfig(compensate=compensate, batchnorm=batchnorm).reestimates is expected
