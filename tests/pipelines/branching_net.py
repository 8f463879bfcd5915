"""Two small Inception modules, as a user would lay them together."""

from torch import Tensor, nn

from prunus.models.families.inception_module import InceptionModule, Widths

WIDTHS = Widths(one=6, three_reduce=4, three=6, five_reduce=3, five_middle=4, five=4, pool=4)


class Net(nn.Module):
    """Images (B, C, H, W) → logits (B, num_classes)."""

    def __init__(self, num_classes: int, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(input_shape[0], 8, 5, stride=4, padding=2)
        self.modules_ = nn.Sequential(InceptionModule(8, WIDTHS), InceptionModule(20, WIDTHS))
        self.fc = nn.Linear(20, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.modules_(self.stem(x).relu()).amax((2, 3)))
