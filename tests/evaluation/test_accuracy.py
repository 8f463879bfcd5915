import pytest
import torch
from torch import nn

from prunus.core.errors import DataError, NonFiniteError
from prunus.evaluation import accuracy, primary


class Answers(nn.Module):
    """Answers the class that the image's first pixel names."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(x[:, 0, 0, 0].long(), 3).float() * self.weight


def images(labels: list[int]) -> torch.Tensor:
    return torch.tensor(labels, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def test_accuracy_is_the_share_of_right_answers() -> None:
    batches = [
        (images([0, 1, 2, 2]), torch.tensor([0, 1, 2, 0])),
        (images([1]), torch.tensor([1])),
    ]
    assert accuracy(Answers(), batches) == 4 / 5


def test_training_mode_is_restored() -> None:
    model = Answers().train()
    accuracy(model, [(images([0]), torch.tensor([0]))])
    assert model.training


def test_no_images_is_an_error() -> None:
    with pytest.raises(DataError, match="no image"):
        accuracy(Answers(), [])


def test_nan_answers_are_an_error_not_a_zero() -> None:
    model = Answers()
    nn.init.constant_(model.weight, float("nan"))
    with pytest.raises(NonFiniteError, match="produced NaN outputs"):
        accuracy(model, [(images([0]), torch.tensor([0]))])


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: (t, t * 2), lambda t: {"logits": t}])
def test_primary_output(wrap) -> None:
    tensor = torch.randn(2, 3)
    assert primary(wrap(tensor)) is tensor
