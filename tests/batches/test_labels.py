"""Which labels match which outputs."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from prunus.batches import are_shares, class_axis, class_labels, match
from prunus.core import DataError

SCORES = torch.tensor([[2.0, 0, 1], [0, 1, 2], [1, 2, 0], [0, 2, 1]])
CLASSES = torch.tensor([0, 2, 1, 2])


@pytest.mark.parametrize(
    "labels",
    [
        CLASSES,
        CLASSES.int(),
        CLASSES.to(torch.uint8),
        CLASSES[:, None],
        torch.stack([CLASSES, CLASSES // 2], 1),
        F.one_hot(CLASSES, 3),
        F.one_hot(CLASSES, 3).bool(),
    ],
)
def test_classes_of_images(labels) -> None:
    found = match(SCORES, labels)
    assert found.kind == "classes"
    assert found.targets.tolist() == [0, 2, 1, 2]
    assert found.targets.dtype == torch.int64
    assert found.right().tolist() == [True, True, True, False]


def test_booleans_are_two_classes() -> None:
    assert match(SCORES[:, :2], CLASSES > 0).targets.tolist() == [0, 1, 1, 1]


def test_smoothed_labels_are_shares() -> None:
    smoothed = F.one_hot(CLASSES, 3) * 0.7 + 0.1
    assert are_shares(smoothed, 3)
    found = match(SCORES, smoothed)
    assert found.kind == "shares"
    assert found.right().tolist() == [True, True, True, False]
    assert match(SCORES, smoothed, "mse").kind == "values"


def test_classes_of_pixels() -> None:
    scores, labels = torch.randn(2, 5, 4, 3), torch.randint(0, 5, (2, 4, 3))
    labels[0, 0, 0] = -100
    assert class_axis(scores, labels) == 1
    expected = F.cross_entropy(scores, labels)
    for given in (labels, labels[:, None]):
        found = match(scores, given)
        assert found.scores.shape == (23, 5)
        torch.testing.assert_close(F.cross_entropy(found.scores, found.targets), expected)
    with pytest.raises(DataError, match=r"output.*\(2, 5, 4, 3\).*labels have shape \(2, 5, 4\)"):
        match(scores, torch.zeros(2, 5, 4, dtype=torch.long))


def test_classes_of_tokens() -> None:
    scores, labels = torch.randn(2, 4, 7), torch.randint(0, 7, (2, 4))
    assert class_axis(scores, labels) == 2
    found = match(scores, labels)
    expected = F.cross_entropy(scores.transpose(1, 2), labels)
    torch.testing.assert_close(F.cross_entropy(found.scores, found.targets), expected)


@pytest.mark.parametrize(
    ("output", "labels"), [((4, 1), (4,)), ((4,), (4, 1)), ((4, 3), (4, 3)), ((4,), (4,))]
)
def test_values_take_the_shape_of_the_output(output, labels) -> None:
    found = match(torch.randn(output), torch.randn(labels, dtype=torch.float64))
    assert found.kind == "values"
    assert found.targets.shape == found.scores.shape == output
    assert found.targets.dtype == torch.float32


@pytest.mark.parametrize(
    ("output", "labels", "message"),
    [
        (SCORES, None, "no labels"),
        (SCORES, CLASSES[:3], r"output.*\(4, 3\).*labels have shape \(3,\)"),
        (SCORES, torch.tensor(1), r"labels have shape \(\)"),
        (SCORES, CLASSES.float(), r"give class labels as integers"),
        (SCORES, CLASSES + 1, "labels run from 1 to 3, but the network has 3 outputs"),
        (SCORES, CLASSES - 1, "labels run from -1 to 1"),
        (SCORES, torch.ones(4, 3, dtype=torch.long), r"several classes in a row"),
        (SCORES[:, :1], CLASSES, "one output and the labels are integers"),
        (SCORES[:, 0], CLASSES, r"output of the network has shape \(4,\)"),
        (torch.randn(4, 3, 8, 8), torch.randn(4, 3, 16, 16), "the scale of the network"),
        (torch.randn(4, 3, 8, 8), CLASSES, r"one class index \(int64\) per image or position"),
    ],
)
def test_what_does_not_fit(output, labels, message) -> None:
    with pytest.raises(DataError, match=message):
        match(output, labels)


def test_labels_of_whole_images() -> None:
    assert class_labels(CLASSES[:, None].to(torch.uint8), 3).tolist() == [0, 2, 1, 2]
    assert class_labels(torch.stack([CLASSES, CLASSES // 2], 1), 3).shape == (4, 2)
    with pytest.raises(DataError, match="expected one class index"):
        class_labels(CLASSES.float(), 3)
