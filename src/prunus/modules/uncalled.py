"""Layers whose weights a network uses without calling them: here they are called.

Some networks compute `F.linear(x, self.qkv.weight)`, and `nn.MultiheadAttention` hands all its
parameters to one function. Hooks never run there. Within `calling` such a layer is called as a
module, so that tracing, statistics and repair see every layer the same way.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from prunus.modules.attention import attend, in_projection, is_packed, projection_name

__all__ = ["Calling", "calling", "plain_attention"]


class Calling(TorchFunctionMode):
    """Calls the layers whose weights are passed to a function.

    Attributes:
        found: names of the layers that were read without a call.
        thrice: names of projections that ran once each for queries, keys and values.
        weights: ids of the parameters that convolutions and linear layers read as weights.
    """

    def __init__(self, model: nn.Module, only: Collection[str] | None = None) -> None:
        """Watch all layers of `model`, or only those named in `only`."""
        super().__init__()
        self.found: dict[str, None] = {}
        self.thrice: set[str] = set()
        self.weights: set[int] = set()
        self.linears: dict[int, tuple[str, nn.Linear]] = {}
        self.attentions: dict[int, tuple[str, Any]] = {}
        self.running: set[nn.Module] = set()
        self.handles: list[Any] = []
        named = dict(model.named_modules())
        uses = Counter(id(m.weight) for m in named.values() if isinstance(m, nn.Linear))
        for name, module in named.items():
            if isinstance(module, nn.MultiheadAttention) and is_packed(module):
                wanted = only is None or projection_name(name) in only
                if wanted:
                    self.attentions[id(module.out_proj.weight)] = name, module
            elif (
                isinstance(module, nn.Linear)
                and uses[id(module.weight)] == 1
                and (only is None or name in only)
            ):
                self.linears[id(module.weight)] = name, module

    def __enter__(self) -> Calling:
        for _, module in self.linears.values():
            self.handles.append(module.register_forward_pre_hook(self._enter))
            self.handles.append(module.register_forward_hook(self._leave, always_call=True))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.running.clear()

    def _enter(self, module: nn.Module, _: Any) -> None:
        self.running.add(module)

    def _leave(self, module: nn.Module, _: Any, __: Any) -> None:
        self.running.discard(module)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the layer when a function reads its weight."""
        kwargs = kwargs or {}
        if func in _LAYERS and len(args) > 1:
            self.weights.add(id(args[1]))
        if func is F.linear:
            return self._linear(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
        name, layer = self.linears.get(id(weight), ("", None))
        if layer is None or layer in self.running:
            return F.linear(input, weight, bias)
        if layer.bias is not None and layer.bias is not bias:
            return F.linear(input, weight, bias)
        self.found[name] = None
        made: Tensor = layer(input)
        return made if bias is None or layer.bias is not None else made + bias

    def _attention(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Run `F.multi_head_attention_forward` with the layers of its attention."""
        given = dict(zip(_POSITIONAL, args, strict=False)) | kwargs
        name, owner = self.attentions.get(id(given["out_proj_weight"]), ("", None))
        if owner is None or given.get("static_k") is not None:
            return F.multi_head_attention_forward(*args, **kwargs)
        inner = projection_name(name)
        self.found |= dict.fromkeys((inner, f"{name}.out_proj".lstrip(".")))
        query, key, value = given["query"], given["key"], given["value"]
        project = in_projection(owner)
        self.weights |= {id(project.weight), id(owner.out_proj.weight)}
        same, batched = query is key and key is value, query.dim() == 3
        if batched:  # batch first, as in every other layer
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        if same:
            parts = list(project(query).chunk(3, -1))
        else:
            self.thrice.add(inner)
            parts = [project(x).chunk(3, -1)[i] for i, x in enumerate((query, key, value))]
        made, weights = attend(
            owner,
            parts,
            given.get("key_padding_mask"),
            given.get("need_weights", True),
            given.get("attn_mask"),
            given.get("average_attn_weights", True),
        )
        return made.transpose(0, 1) if batched else made, weights


_LAYERS = {
    F.linear, F.conv1d, F.conv2d, F.conv3d,
    F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
}  # fmt: skip
_POSITIONAL = (
    "query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias",
    "bias_k", "bias_v", "add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias",
    "training", "key_padding_mask", "need_weights", "attn_mask",
)  # fmt: skip


#: The settings that `plain_attention` found, one per active context.
_HOLDERS: list[bool] = []
_LOCK = threading.Lock()


@contextmanager
def calling(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Call the layers `names` of `model` where their weights are read; free without names."""
    if not names:
        yield
        return
    with plain_attention(), Calling(model, names):
        yield


@contextmanager
def plain_attention() -> Iterator[None]:
    """Keep transformer layers from calling one fused operation, which cannot be traced."""
    with _LOCK:
        _HOLDERS.append(torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        with _LOCK:  # several threads may be inside: the last one restores what the first one found
            first = _HOLDERS[0]
            _HOLDERS.pop()
            torch.backends.mha.set_fastpath_enabled(first and not _HOLDERS)
