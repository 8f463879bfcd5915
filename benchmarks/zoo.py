"""The networks of `prunability.py`: which there are, and how each is built.

Every classifier of torchvision, and one small model of every timm family, chosen by its name or
by `PICKS`.

A new network often hides a wrong cut: its LayerScales are 1e-6, the last gains of its residual
branches and its biases 0, all its norms alike; and where BatchNorm's statistics are made up, the
outputs are the same, to 1e-7, for every image. So every parameter whose values are all the same,
within 1e-3, is drawn again: gains from [0.5, 1.5], the biases of norms from [-0.5, 0.5], those of
layers from [-0.1, 0.1], larger ones from a normal of deviation 0.02. Then BatchNorm's running
statistics are those of four images. Images are smooth noise plus white noise: of white noise
alone, a pooling over positions leaves nothing.
"""

from __future__ import annotations

import difflib
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

#: Zoos, with the versions of their libraries.
LIBRARIES = {"torchvision": torchvision.__version__, "timm": timm.__version__}

#: Parts of timm's names that mean a small model, the smallest first, and a large one.
SMALL = (
    *("test_", "femto", "atto", "pico", "nano", "tiny", "_xxs", "xxsmall", "_xs", "_s0", "_t0"),
    *("_050", "_035", "mini", "_t_", "_18", "_small", "_s", "_26", "_0", "_b0"),
)
LARGE = (
    *("384", "448", "512", "22k", "in21k", "large", "huge", "giant", "xlarge", "clip"),
    *("_l", "_h"),
)


@dataclass(frozen=True, kw_only=True)
class Pick:
    """The model that stands for a timm family where its name would mislead, and why."""

    name: str
    why: str
    options: dict[str, Any] = field(default_factory=dict)
    side: int | None = None


PICKS = {
    "deepseek_vit": Pick(
        name="deepseek_vit_412m",
        why="none has fewer than 412 M parameters; its 24 blocks are alike, two show as much",
        options={"depth": 2, "img_size": 224},
        side=224,
    ),
    "gemma4_vit": Pick(
        name="gemma4_vit_167m",
        why="none has fewer than 167 M parameters, at 768 pixels; its 16 blocks are alike",
        options={"depth": 4, "img_size": 192},
        side=192,
    ),
    "hieradet_sam2": Pick(
        name="hieradet_small",
        why="sam2_hiera_tiny has no classifier and takes 896 pixels, 150 s and more",
    ),
    "levit": Pick(name="levit_128s", why="the s of levit_384_s8 is a stride; it has 39 M"),
    "mobilenetv5": Pick(
        name="mobilenetv5_base", why="mobilenetv5_300m has 294 M parameters, at 768 pixels"
    ),
    "naflexvit": Pick(
        name="naflexvit_base_patch16_gap",
        why="the siglip one has 93 M parameters, at 384 pixels, and no classifier",
        side=224,
    ),
    "qwen3_vit": Pick(
        name="qwen3_vit_88m",
        why="the smallest, but 768 pixels take 150 s",
        options={"img_size": 224},
        side=224,
    ),
    "regnet": Pick(name="regnetx_002", why="the s of regnety_040_sgn is SiLU; it has 21 M"),
    "senet": Pick(name="legacy_seresnet18", why="legacy_senet154 has 115 M parameters"),
    "vision_transformer_sam": Pick(
        name="samvit_base_patch16_224", why="samvit_base_patch16 takes 1024 pixels"
    ),
}


@dataclass(frozen=True)
class Entry:
    """A network to try: where it comes from and what it is built with."""

    zoo: str
    family: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    side: int | None = None

    @property
    def key(self) -> str:
        """Name it as in the records."""
        return f"{self.zoo}:{self.name}"


def torchvision_entries(families: bool) -> list[Entry]:
    """Return torchvision's classifiers: all, or the smallest of each of its modules."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for name in torchvision.models.list_models(module=torchvision.models):
        family = torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]
        found[family].append(Entry("torchvision", family, name))
    if families:
        return [min(entries, key=_weight_count) for entries in found.values()]
    return [entry for entries in found.values() for entry in entries]


def _weight_count(entry: Entry) -> int:
    weights = torchvision.models.get_model_weights(entry.name)
    return next(iter(weights)).meta["num_params"]


def timm_entries() -> list[Entry]:
    """Return one small model of every timm family that has one."""
    entries = []
    for family in timm.list_modules():
        names = timm.list_models(module=family)
        if family in PICKS:
            pick = PICKS[family]
            entries.append(Entry("timm", family, pick.name, pick.options, pick.side))
        elif names:
            entries.append(Entry("timm", family, min(names, key=_size_by_name)))
    return entries


def _size_by_name(name: str) -> tuple[int, int, int, str]:
    small = min((i for i, part in enumerate(SMALL) if part in name), default=99)
    return small, sum(part in name for part in LARGE), len(name), name


def named_entries(names: list[str]) -> list[Entry]:
    """Return the requested models, of `zoo:name` or of the first zoo that has the name.

    A model that is the pick of its family is built as the pick says.
    """
    known = {entry.key: entry for entry in [*torchvision_entries(False), *timm_entries()]}
    for family in timm.list_modules():
        for name in timm.list_models(module=family):
            known.setdefault(f"timm:{name}", Entry("timm", family, name))
    found = []
    for name in names:
        keys = [name] if ":" in name else [f"{zoo}:{name}" for zoo in LIBRARIES]
        match = next((key for key in keys if key in known), None)
        if match is None:
            like = difflib.get_close_matches(keys[-1], known, n=5)
            sys.exit(f"no zoo has {name!r}: do you mean one of {', '.join(like) or 'none'}?")
        found.append(known[match])
    return found


def build(entry: Entry) -> tuple[nn.Module, Tensor]:
    """Return the network, in eval mode, and two images; the same at every call."""
    torch.manual_seed(0)
    size: tuple[int, ...] = (3, 224, 224)
    if entry.zoo == "torchvision":
        options: dict[str, Any] = {"weights": None}
        if entry.name in ("googlenet", "inception_v3"):
            options["init_weights"] = False  # minutes of truncated normals
        model = torchvision.models.get_model(entry.name, **options)
        if entry.name == "inception_v3":
            size = (3, 299, 299)
    else:
        model = timm.create_model(entry.name, **entry.options)
        size = tuple(model.default_cfg["input_size"])
    if entry.side is not None:
        size = (3, entry.side, entry.side)
    images = draw_images(6, size)
    return calibrate_(randomise_(model), images[2:]).eval(), images[:2]


def draw_images(count: int, size: tuple[int, ...], seed: int = 1) -> Tensor:
    """Return smooth noise plus white noise: (count, *size)."""
    draw = torch.Generator().manual_seed(seed)
    smooth = torch.randn(count, size[0], 4, 4, generator=draw)
    white = torch.randn(count, *size, generator=draw)
    return 1.5 * F.interpolate(smooth, size=size[1:], mode="bilinear") + 0.5 * white


@torch.no_grad()
def randomise_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw again every parameter that is still constant."""
    draw = torch.Generator().manual_seed(seed)
    for module in model.modules():
        weight = getattr(module, "weight", None)
        high = 0.1 if isinstance(weight, Tensor) and weight.dim() > 1 else 0.5
        for name, tensor in module.named_parameters(recurse=False):
            if not tensor.is_floating_point() or not tensor.numel():
                continue
            if float(tensor.max() - tensor.min()) > 1e-3:
                continue
            if sum(length > 1 for length in tensor.shape) > 1:
                tensor.normal_(0, 0.02, generator=draw)
            elif "bias" in name:
                tensor.uniform_(-high, high, generator=draw)
            else:
                tensor.uniform_(0.5, 1.5, generator=draw)
    return model


@torch.no_grad()
def calibrate_(model: nn.Module, images: Tensor) -> nn.Module:
    """Set running statistics to those of `images`.

    A variance is at least 5 % of the mean one: a channel that is silent on four images would
    drown all others on the next.
    """
    model.eval()
    norms = [m for m in model.modules() if isinstance(getattr(m, "running_var", None), Tensor)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
        norm.running_var.clamp_(min=max(1e-6, 0.05 * float(norm.running_var.mean())))
    return model
