import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.core.errors import ConfigError
from prunus.evaluation import count_macs
from prunus.models import build_model
from prunus.models.families.feqe import FEQE


def test_the_figures_of_seed_000_table_4():
    # "96K" parameters and "11B" operations, two a MAC, for an image of 1280 × 720 at × 4.
    with torch.device("meta"):
        model = build_model("feqe_x4", input_shape=(3, 24, 24))
    assert sum(p.numel() for p in model.parameters()) == 96_464
    macs = 12 * 4 * 4 + 41 * 9 * 16 * 16 + 16 * 64 + 4 * 16 * 12  # per pixel of the small image
    assert 2 * count_macs(model, torch.empty(1, 3, 180, 320, device="meta")) == 2 * 57_600 * macs
    assert 2 * 57_600 * macs == 11_110_809_600


def test_without_its_body_it_enlarges_bicubically():
    torch.manual_seed(0)
    model, x = FEQE(blocks=1), torch.rand(2, 3, 5, 4)
    nn.init.zeros_(model.up[2].weight)
    nn.init.zeros_(model.up[2].bias)
    expected = F.interpolate(x, scale_factor=4, mode="bicubic")
    torch.testing.assert_close(model(x), expected)


def test_the_body_sees_each_four_by_four_pixels_at_one_place():
    # Unshuffled twice and shuffled twice, one pixel of the small image stays within its square.
    torch.manual_seed(0)
    model = FEQE(in_channels=1, width=4, blocks=1)
    for module in model.body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight)
    image = torch.zeros(1, 1, 12, 12)
    image[..., 4:8, 4:8] = torch.rand(4, 4)
    change = model.up(model.body(model.down(image)))
    change = change - model.up(model.body(model.down(torch.zeros_like(image))))
    assert change[..., 4:8, 4:8].abs().min() > 0
    change[..., 4:8, 4:8] = 0
    assert change.eq(0).all()


@pytest.mark.parametrize("width", [0, 2, 18])
def test_widths_that_cannot_be_unshuffled_are_refused(width):
    with pytest.raises(ConfigError, match=rf"width {width}.*multiple of 4"):
        FEQE(width=width)
