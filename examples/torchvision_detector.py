"""A torchvision detector, backbone and heads pruned to half their MACs.

    python examples/torchvision_detector.py

A detector's output is a list whose lengths depend on the data (non-maximum suppression), which
nothing can be compared on. What comes before it are plain maps: `RawHeads` returns these, and is
what is traced, scored, cut and checked. It holds the detector itself, so cutting one cuts the
other, and anchors, losses and post-processing stay torchvision's. The layers whose outputs are
these maps keep their widths, for they are the network's outputs.

This trains and prunes SSDLite. SSD300, RetinaNet and FCOS of torchvision were tried with random
weights, in the same `RawHeads`: cut to half their MACs, they compute what masking does, to 1e-6;
none was trained. Of Faster R-CNN a wrapper around `detector.rpn.head` reaches backbone, pyramid and
region proposals. Its box head reads the pyramid too, and does not run there: name the pyramid's
output layers in `ignored_layers`, or the detector breaks.
"""

import copy

import torch
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import prunus
from prunus.surgery import mask_, replay_

SIZE = 320


class RawHeads(nn.Module):
    """Images (B, 3, H, W) to class scores (B, classes, anchors) and boxes (B, 4, anchors)."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run what comes before post-processing."""
        found = self.detector.head(list(self.detector.backbone(images).values()))
        # Scores come first: a teacher "logits" explains the mean of each class over anchors.
        return found["cls_logits"].transpose(1, 2), found["bbox_regression"].transpose(1, 2)


def build() -> nn.Module:
    """Return the dense detector: background and two kinds of things."""
    torch.manual_seed(0)
    return ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)


def scenes(count: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Return pictures of one bright box each, red (1) or green (2), and where it is."""
    images, targets = 0.2 * torch.rand(count, 3, SIZE, SIZE), []
    for image in images:
        left, top = torch.randint(0, SIZE // 2, (2,)).tolist()
        width, height = torch.randint(SIZE // 8, SIZE // 2, (2,)).tolist()
        kind = int(torch.randint(2, ()))
        image[kind, top : top + height, left : left + width] = 1
        box = [[left, top, left + width, top + height]]
        targets.append({"boxes": torch.tensor(box).float(), "labels": torch.tensor([kind + 1])})
    return images, targets


def train_(detector: nn.Module, steps: int) -> float:
    """Train with torchvision's own losses; return their mean over the last three steps."""
    detector.train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        images, targets = scenes(4)
        loss = sum(detector(list(images), targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    detector.eval()
    return sum(losses[-3:]) / 3


def main() -> None:
    """Train a little, prune, check, train again."""
    detector = build()
    before = train_(detector, steps=8)
    raw = RawHeads(detector).eval()
    images = scenes(12)[0]

    groups = prunus.find_groups(raw, images[:1])
    statistics = prunus.collect(raw, images.split(4), groups, teacher="logits", blocks=1)
    scores = prunus.score(groups, statistics, "stacked")
    plan = prunus.make_plan(groups, scores, "macs=50%", round_to=8)

    # Removing channels must compute what zeroing them does, in every map before post-processing.
    with torch.no_grad():
        masked = mask_(copy.deepcopy(raw), plan)(images)
        cut = replay_(copy.deepcopy(raw), plan)(images)
    error = max(
        float((a - b).abs().max() / a.abs().max()) for a, b in zip(masked, cut, strict=True)
    )

    prunus.apply_(raw, plan, statistics, groups=groups)  # cuts `detector`, repairs without labels
    after = train_(detector, steps=8)

    small = prunus.find_groups(raw, images[:1])
    print(f"parameters: {groups.total_params:,} → {small.total_params:,}")
    print(f"MACs: {groups.total_macs / 1e6:.0f} M → {small.total_macs / 1e6:.0f} M")
    print(f"loss: {before:.2f} dense, {after:.2f} pruned and trained as long again")
    print(f"boxes of one picture: {len(detector([images[0]])[0]['boxes'])}")

    # The plan replayed on a freshly built detector takes the weights.
    again = replay_(RawHeads(build()), plan).eval()
    again.load_state_dict(raw.state_dict())
    with torch.no_grad():
        same = all(torch.equal(a, b) for a, b in zip(again(images), raw(images), strict=True))
    print(f"check: masked = cut to {error:.0e}, the replayed detector computes the same: {same}")


if __name__ == "__main__":
    main()
