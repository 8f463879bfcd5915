import torch
from torch import nn
from torch.nn import functional as F

from prunus.evaluation import count_macs
from prunus.models import build_model
from prunus.models.families.hsrn import HSRN, HierarchicalBlock, ResidualGroup


def test_exact_counts():
    with torch.device("meta"):
        model = build_model("hsrn_x4", input_shape=(3, 48, 48))
    # With biases.
    assert sum(p.numel() for p in model.parameters()) == 12_246_275
    block = 64 * 128 + 4 * 9 * 32 * 32 + 9 * 128 * 64
    ends = 27 * 64 + 16 * 27 * 64
    macs = ends + 100 * block + 9 * 64 * 64 + (1 + 4) * 9 * 64 * 256  # per pixel, one a weight
    assert count_macs(model, torch.empty(1, 3, 48, 48, device="meta")) == 48 * 48 * macs


def test_block_is_its_formula():
    torch.manual_seed(0)
    block, x = HierarchicalBlock(width=6, part=2), torch.randn(2, 6, 9, 8)
    x1, x2, x3, x4 = F.conv2d(x, block.expand.weight, block.expand.bias).split(2, dim=1)

    def conv(k, y):
        return F.conv2d(y, block.convs[k].weight, block.convs[k].bias, padding=1).clamp(min=0)

    s1 = conv(0, x1)
    s2 = conv(1, x2 + s1)
    s3 = conv(2, x3 + s2)
    s4 = conv(3, x4 + s3)
    fused = F.conv2d(torch.cat([s1, s2, s3, s4], 1), block.fuse.weight, block.fuse.bias, padding=1)
    torch.testing.assert_close(block(x), x + fused)


def test_a_cascade_of_k_convolutions_sees_2k_plus_1_pixels():
    # [Kung-Hou, section 7.3.1] says 9×9 and 27×27 for two and three; it is 5×5 and 7×7.
    block = HierarchicalBlock(width=1, part=1)
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    x = torch.zeros(1, 1, 15, 15)
    x[..., 7, 7] = 1
    for k in (1, 2, 3, 4):
        with torch.no_grad():
            block.fuse.weight.zero_()
            block.fuse.weight[0, k - 1, 1, 1] = 1
        seen = (block(x) - x)[0, 0].ne(0)
        assert seen.any(0).sum() == seen.any(1).sum() == 2 * k + 1


def test_groups_and_trunk_add_what_they_were_given():
    torch.manual_seed(0)
    group, x = ResidualGroup(width=4, part=2, blocks=2), torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(group(x), x + group.blocks[1](group.blocks[0](x)))
    model = HSRN(scale=2, in_channels=1, width=4, part=2, groups=2, blocks=1)
    nn.init.zeros_(model.body[-1].weight)
    nn.init.zeros_(model.body[-1].bias)
    x = torch.randn(1, 1, 5, 5)
    torch.testing.assert_close(model(x), model.tail(model.up(model.head(x))))
