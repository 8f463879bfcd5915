"""`nn.MultiheadAttention`, unpacked: its heads, and the linear layer hidden in its parameters.

PyTorch's module ties the width of its heads to that of its input and computes in one function that
calls none of its layers. Here the same arithmetic is written out, so that it can be traced, its
layers can have hooks, and whole heads, dimensions of heads and the input's width can be removed
independently.
"""

# No `from __future__ import annotations`: TorchScript reads those of `HeadwiseAttention`.

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]  # its stub leaves it out
from torch.nn import functional as F

from prunus.modules.functional import functional_layer

__all__ = [
    "HeadwiseAttention",
    "attend",
    "attention_of",
    "close_heads_",
    "in_projection",
    "is_packed",
    "named_layers",
    "open_heads_",
    "opened",
    "projection_name",
    "set_in_projection_",
]

#: The projection of an attention, as one object for hooks; it holds no reference to its owner.
_PROJECTIONS: WeakKeyDictionary[nn.Module, nn.Linear] = WeakKeyDictionary()


class HeadwiseAttention(nn.MultiheadAttention):
    """An `nn.MultiheadAttention` with any number of heads of any size, and the same tensors.

    in_proj_weight has shape (3·h·d, E), in_proj_bias (3·h·d), out_proj.weight (E, h·d) for h =
    `num_heads` heads of d = `head_dim` dimensions over an input of E channels. Scores are
    `scale`·q·kᵀ, with the scale of the original attention.
    """

    scale: float

    def forward(  # noqa: D102 - PyTorch's
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        swap = not self.batch_first and query.dim() == 3
        same = query is key and key is value
        if swap:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        if is_scripting():  # hooks do not run there
            made, weights = attention(
                self._projected(query, 0),
                self._projected(key, 1),
                self._projected(value, 2),
                (self.num_heads, self.head_dim),
                self.scale,
                self.dropout if self.training else 0.0,
                key_padding_mask,
                need_weights,
                attn_mask,
                average_attn_weights,
            )
            made = self.out_proj(made)
        else:
            parts = _parts(self, query, key, value, same=same)
            made, weights = attend(
                self, parts, key_padding_mask, need_weights, attn_mask, average_attn_weights
            )
        return made.transpose(0, 1) if swap else made, weights

    def _projected(self, x: Tensor, part: int) -> Tensor:
        bias = self.in_proj_bias
        own = None if bias is None else bias.chunk(3)[part]
        return F.linear(x, self.in_proj_weight.chunk(3)[part], own)


def is_packed(module: nn.Module) -> TypeGuard[Any]:
    """Return whether a module is an attention whose three projections are one tensor."""
    if type(module) not in (nn.MultiheadAttention, HeadwiseAttention):
        return False
    own = vars(module)["_parameters"]
    extra = own.get("bias_k") is not None or bool(module.add_zero_attn)
    return own.get("in_proj_weight") is not None and not extra


def projection_name(owner: str) -> str:
    """Return the name of the projection of the attention `owner`."""
    return f"{owner}.in_proj".lstrip(".")


def in_projection(owner: Any) -> nn.Linear:
    """Return the linear layer (E → 3·h·d) of a packed attention; it shares the parameters."""
    made = _PROJECTIONS.get(owner)
    if made is None:
        made = _PROJECTIONS[owner] = nn.Linear(1, 1, bias=False, device="meta")
    made.weight, made.bias = owner.in_proj_weight, owner.in_proj_bias
    made.out_features, made.in_features = made.weight.shape
    return made.train(owner.training)


def set_in_projection_(owner: Any, layer: nn.Linear) -> None:
    """Give an attention the parameters of a projection that was cut."""
    owner.in_proj_weight, owner.in_proj_bias = layer.weight, layer.bias
    owner.embed_dim = owner.kdim = owner.vdim = layer.weight.shape[1]
    in_projection(owner)


def attention_of(model: nn.Module, name: str) -> Any | None:
    """Return the packed attention that a layer, or a number such as its heads, belongs to."""
    path = name.rpartition(":")[0] if ":" in name else name.rpartition(".")[0]
    try:
        owner = model.get_submodule(path)
    except AttributeError:  # the path of a parameter
        return None
    return owner if is_packed(owner) else None


def named_layers(
    model: nn.Module, functional: Collection[str] = ()
) -> Iterator[tuple[str, nn.Module]]:
    """Yield names and modules as `named_modules` does, and the projections of attentions.

    Layers that are parameters of a module (`functional`) follow that module.
    """
    within: dict[str, list[str]] = {}
    for name in functional:
        within.setdefault(name.removesuffix(".T").rpartition(".")[0], []).append(name)
    for name, module in model.named_modules():
        yield name, module
        if is_packed(module):
            yield projection_name(name), in_projection(module)
        for own in within.get(name, ()):
            yield own, functional_layer(model, own)


def open_heads_(owner: Any) -> None:
    """Turn a packed `nn.MultiheadAttention` into a `HeadwiseAttention`, in place."""
    if type(owner) is nn.MultiheadAttention:
        owner.scale = owner.head_dim**-0.5
        owner._qkv_same_embed_dim = False  # keeps PyTorch's fused encoder layer away
        owner.__class__ = HeadwiseAttention


def close_heads_(owner: Any) -> None:
    """Turn an attention that has all its heads back into PyTorch's own."""
    width = owner.out_proj.out_features
    owner.embed_dim = owner.kdim = owner.vdim = width
    whole = tuple(owner.in_proj_weight.shape) == (3 * width, width)
    if isinstance(owner, HeadwiseAttention) and whole and owner.scale == owner.head_dim**-0.5:
        del owner.scale
        owner._qkv_same_embed_dim = True
        owner.__class__ = nn.MultiheadAttention  # type: ignore[assignment]


@contextmanager
def opened(*models: nn.Module) -> Iterator[None]:
    """Open all attentions of networks within the context, so that their layers are called."""
    modules = [module for model in models for module in model.modules()]
    closed = [m for m in modules if type(m) is nn.MultiheadAttention and is_packed(m)]
    for module in closed:
        open_heads_(module)
    try:
        yield
    finally:
        for module in closed:
            close_heads_(module)


def _parts(
    owner: nn.Module, query: Tensor, key: Tensor, value: Tensor, *, same: bool
) -> list[Tensor]:
    """Return queries, keys and values, each (N, L, h·d) or (L, h·d)."""
    project = in_projection(owner)
    if same:
        return list(project(query).chunk(3, -1))
    weights = project.weight.chunk(3)
    biases = [None] * 3 if project.bias is None else list(project.bias.chunk(3))
    return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]


def attend(
    owner: Any,
    parts: list[Tensor],
    key_padding_mask: Tensor | None,
    need_weights: bool,
    attn_mask: Tensor | None,
    average_attn_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return softmax(s·q·kᵀ + mask)·v through `out_proj`, and the softmax if requested.

    Args:
        parts: queries, keys and values, (N, L, h·d) and twice (N, S, h·d), or without N.
        key_padding_mask: (N, S), true or −∞ where a key is padding.
        attn_mask: (L, S) or (N·h, L, S), true or −∞ where a query must not attend.

    Returns:
        (N, L, E), and (N, L, S), or (N, h, L, S) where it is not averaged over heads.
    """
    scale = owner.scale if isinstance(owner, HeadwiseAttention) else owner.head_dim**-0.5
    made, weights = attention(
        parts[0],
        parts[1],
        parts[2],
        (owner.num_heads, owner.head_dim),
        scale,
        owner.dropout if owner.training else 0.0,
        key_padding_mask,
        need_weights,
        attn_mask,
        average_attn_weights,
    )
    return owner.out_proj(made), weights


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: tuple[int, int],
    scale: float,
    dropout: float,
    key_padding_mask: Tensor | None,
    need_weights: bool,
    attn_mask: Tensor | None,
    average_attn_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return what `attend` does, but for `out_proj`, of `heads` of a number and a size.

    It is written for TorchScript, too.
    """
    batched = q.dim() == 3
    if not batched:
        q, k, v = q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0)
        if key_padding_mask is not None:
            key_padding_mask = key_padding_mask.unsqueeze(0)
    count, size = heads
    q = q.view(q.shape[0], q.shape[1], count, size).transpose(1, 2)
    k = k.view(k.shape[0], k.shape[1], count, size).transpose(1, 2)
    v = v.view(v.shape[0], v.shape[1], count, size).transpose(1, 2)
    mask: Tensor | None = None
    if attn_mask is not None:
        mask = _added(attn_mask, q)
        if mask.dim() == 3:
            mask = mask.view(-1, count, mask.shape[1], mask.shape[2])
    if key_padding_mask is not None:
        padding = _added(key_padding_mask, q)[:, None, None]
        mask = padding if mask is None else mask + padding
    weights: Tensor | None = None
    if need_weights:
        scores = (q * scale) @ k.transpose(-2, -1)
        share = torch.softmax(scores if mask is None else scores + mask, -1)
        if dropout > 0:
            share = F.dropout(share, dropout)
        made = share @ v
        weights = share.sum(1) / count if average_attn_weights else share
    else:
        made = F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scale)
    made = made.transpose(1, 2).flatten(2)
    if batched:
        return made, weights
    return made.squeeze(0), None if weights is None else weights.squeeze(0)


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask as numbers to add: a boolean mask excludes where it is true."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
