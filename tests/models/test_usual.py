"""The default input of a network."""

import pytest

from prunus.models import usual_input


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("lenet300", ((1, 28, 28), 10)),
        ("resnet20", ((3, 32, 32), 10)),
        ("torchvision:resnet18", ((3, 224, 224), 1000)),
        ("timm:vit_base_patch16_384", ((3, 384, 384), 1000)),
        ("timm:no_such_network", ((3, 224, 224), 1000)),
        ("net.py:Net", ((3, 224, 224), 10)),
    ],
)
def test_usual_input(spec: str, expected: tuple[tuple[int, int, int], int]) -> None:
    assert usual_input(spec) == expected
