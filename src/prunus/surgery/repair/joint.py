"""Joint repair: what makes the channels that are left, and what reads them, fitted together.

A cut keeps filters of the dense network as they were. With fewer of them, others would serve
better: between a maker W₁ and the only consumer V of its channels, behind a ReLU,

    min over W₁, b₁, V, b of ‖φ(norm₂(V·relu(norm₁(W₁x + b₁)) + b) + other) − φ(T)‖²,

φ the ReLU behind the consumer, if there is one, T the dense network's result and x the maker's
input in the cut network. Labels are not used. It is not convex: two hundred Adam steps from the
patch repair, on sampled positions. A reconstruction of ours after [BRECQ, section 3.2],
which fits blocks to a quantised network in this way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core import prepare_torch
from prunus.statistics import Samples, unfolding
from prunus.surgery.repair.ridge import Affine, Target

__all__ = ["fit_pair_"]

STEPS, ROWS = 200, 2_048
#: Adam's step, in units of the root mean square of each parameter.
STEP = 0.02
#: Samples, and the most bytes their unfolded inputs may take.
SAMPLES, BYTES = 16_384, 5 * 10**8


@torch.no_grad()
def fit_pair_(
    maker: nn.Module,
    norm: nn.Module | None,
    consumer: nn.Module,
    x: Tensor,
    seen: Samples,
    target: Target,
    *,
    seed: int,
) -> None:
    """Fit two convolutions, in place, to the target of the second.

    Args:
        maker, norm: the convolution that makes the channels, and the BatchNorm behind it.
        consumer: the convolution that reads relu(norm(maker(x))).
        x: the maker's input, (B, C, *spatial).
        seen: the consumer's samples, for their places on its output.
        target: what the consumer's result should be at these places.

    Cost: STEPS forward and backward passes of ROWS positions; BYTES of memory.
    """
    prepare_torch()
    U, inside, rows = _nested_patches(maker, consumer, x, seen)
    first = Affine.of(norm, len(maker.get_parameter("weight")), x)
    second = Affine.of(target.norm, target.T.shape[1], x)
    T = target.T[rows]
    other = None if target.other is None else target.other[rows]
    if target.rectified:
        T = T.relu()
    old = [maker.get_parameter("weight"), consumer.get_parameter("weight")]
    values = [old[0].flatten(1), torch.zeros_like(first.gain), old[1].flatten(1), second.gain * 0]
    free = [v.clone().requires_grad_() for v in values]
    scales = [_rms(old[0]), 1.0 / _rms(first.gain), _rms(old[1]), _rms(T) / _rms(second.gain)]
    optimizer = torch.optim.Adam(
        [{"params": [p], "lr": STEP * s} for p, s in zip(free, scales, strict=True)],
        betas=(0.9, 0.99),
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    bias = [getattr(m, "bias", None) for m in (maker, consumer)]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        pick = torch.randint(len(U), (min(ROWS, len(U)),), generator=generator).to(x.device)
        with torch.enable_grad():
            z = U[pick] @ free[0].T + free[1] + (0 if bias[0] is None else bias[0])
            a = first.forth(z).relu() * inside[pick][..., None]  # (rows, taps, K)
            z = a.transpose(1, 2).flatten(1) @ free[2].T + free[3]
            y = second.forth(z + (0 if bias[1] is None else bias[1]))
            y = y if other is None else y + other[pick]
            loss = F.mse_loss(y.relu() if target.rectified else y, T[pick])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    for module, affine, weight, shift in (
        (maker, first, free[0], free[1]),
        (consumer, second, free[2], free[3]),
    ):
        kept = module.get_parameter("weight")
        kept.copy_(torch.where(affine.live[:, None], weight, kept.flatten(1)).view(kept.shape))
        affine.shift_(module, shift.detach())


def _nested_patches(
    maker: nn.Module, consumer: nn.Module, x: Tensor, seen: Samples
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the maker's patches at every tap of the consumer's, which taps are inside, and rows.

    Shapes: (n, taps, C·taps of the maker), (n, taps), (n,): rows of the consumer's samples.
    """
    grid, at_maker, in_maker = unfolding(maker, tuple(x.shape[2:]))
    _, at_consumer, in_consumer = unfolding(consumer, grid)
    B, C = x.shape[:2]
    places = seen.places
    if places is None:
        places = torch.arange(len(at_consumer)).expand(B, -1)
    width = at_consumer.shape[1] * at_maker.shape[1] * C * x.element_size()
    each = max(1, min(SAMPLES, BYTES // width) // B)
    images = torch.arange(B)[: max(1, BYTES // width)]
    rows = images[:, None] * places.shape[1] + torch.arange(min(each, places.shape[1]))
    places = places.cpu()[images][:, :each]
    maps = at_consumer[places]  # (B, P, taps_r): positions of the maker's output
    index = at_maker[maps]  # (B, P, taps_r, taps_m)
    flat = x[images.to(x.device)].flatten(2)
    taken = flat.gather(2, index.flatten(1).to(x.device)[:, None].expand(-1, C, -1))
    taken = taken.view(len(images), C, *index.shape[1:])
    taken = taken * in_maker[maps].to(x)[:, None]
    U = taken.permute(0, 2, 3, 1, 4).flatten(3).flatten(0, 1)  # (n, taps_r, C·taps_m)
    return U, in_consumer[places].flatten(0, 1).to(x), rows.flatten().to(x.device)


def _rms(tensor: Tensor) -> float:
    return max(float(tensor.detach().square().mean().sqrt()), 1e-8)
