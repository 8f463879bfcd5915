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
from torch.utils.weak import WeakIdKeyDictionary

from prunus.batches import flatten_tensors
from prunus.modules.attention import attend, in_projection, is_packed, projection_name
from prunus.modules.functional import functional_layer, raw_weights
from prunus.modules.kinds import CONVOLUTIONS
from prunus.modules.products import PRODUCTS, WeightProduct, product_of

__all__ = ["Calling", "calling", "plain_attention"]


class Calling(TorchFunctionMode):
    """Calls the layers whose weights are passed to a function.

    Parameters of other modules that are multiplied as a layer's weight is are layers too, where
    they are named; all others are only looked for (`functional`).

    Attributes:
        found: names of the layers that were read without a call.
        thrice: names of projections that ran once each for queries, keys and values.
        weights: ids of the parameters that convolutions and linear layers read as weights.
        refused: names of parameters that are no layers, because they are read otherwise; how.
    """

    def __init__(
        self,
        model: nn.Module,
        only: Collection[str] | None = None,
        functional: Collection[str] = (),
    ) -> None:
        """Watch all layers of `model`, or only those named in `only`, and those of `functional`."""
        super().__init__()
        self.found: dict[str, None] = {}
        self.thrice: set[str] = set()
        self.weights: set[int] = set()
        self.refused: dict[str, str] = {}
        self.layers: dict[int, tuple[str, Any]] = {}
        self.attentions: dict[int, tuple[str, Any]] = {}
        self.running: set[nn.Module] = set()
        self.handles: list[Any] = []
        self.model = model
        #: ids of parameters that may be layers → their names, and the products that read them.
        self.raw = raw_weights(model)
        self.products: dict[str, dict[str, None]] = {}
        names = set(self.raw.values())
        self.chosen = {n for n in (*functional, *(only or ())) if n.removesuffix(".T") in names}
        #: What a parameter was turned or scaled to: itself, whether turned, and whether computed.
        self.forms = WeakIdKeyDictionary()
        named = dict(model.named_modules())
        weights = {m: m._parameters.get("weight") for m in named.values() if isinstance(m, _CALLED)}
        uses = Counter(map(id, weights.values()))
        for name, module in named.items():
            if isinstance(module, nn.MultiheadAttention) and is_packed(module):
                wanted = only is None or projection_name(name) in only
                if wanted:
                    self.attentions[id(module.out_proj.weight)] = name, module
            elif (
                (weight := weights.get(module)) is not None
                and uses[id(weight)] == 1
                and (only is None or name in only)
            ):
                self.layers[id(weight)] = name, module

    def __enter__(self) -> Calling:
        for _, module in self.layers.values():
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

    @property
    def functional(self) -> tuple[str, ...]:
        """The names of the parameters that are layers: each is read as one weight, and no more."""
        return tuple(
            name
            for parameter, names in self.products.items()
            if len(names) == 1 and parameter not in self.refused
            for name in names
        )

    def _enter(self, module: nn.Module, _: Any) -> None:
        self.running.add(module)

    def _leave(self, module: nn.Module, _: Any, __: Any) -> None:
        self.running.discard(module)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the layer when a function reads its weight."""
        kwargs = kwargs or {}
        if func in PRODUCTS and len(args) > 1:
            self.weights.add(id(args[1]))
        if func is F.multi_head_attention_forward:
            return self._attention(*args, **kwargs)
        what = product_of(func, args, kwargs)
        if what is not None and self._form(what.input) is not None:  # of two parameters
            what = None
        if what is not None:
            made = self._product(what)
            if made is not None:
                return made
        result = func(*args, **kwargs)
        if self.raw or self.layers:
            self._read(func, args, kwargs, result, what is not None)
        return result

    def _form(self, tensor: Tensor) -> tuple[Tensor, bool, bool] | None:
        """Return the parameter that a tensor is, whether turned, and whether computed from it."""
        if id(tensor) in self.raw or id(tensor) in self.layers:
            return tensor, False, False
        found: tuple[Tensor, bool, bool] | None = self.forms.get(tensor)  # type: ignore[no-untyped-call]
        return found

    def _product(self, what: WeightProduct) -> Tensor | None:
        """Call the layer that a product is; None where it is none, or runs already."""
        form = self._form(what.weight)
        if form is None:
            return None
        parameter, turned, computed = form
        turned ^= what.turned
        name, layer = self.layers.get(id(parameter), ("", None))
        if layer is not None:
            fits = not (turned or computed) and layer not in self.running and what.fits(layer)
            if not fits or (layer.bias is not None and layer.bias is not what.bias):
                return None
            self.found[name] = None
            made: Tensor = layer(what.input)
            return made if what.bias is None or layer.bias is not None else what.added(made)
        name = self.raw[id(parameter)]
        full = name + ".T" * turned
        self.products.setdefault(name, {})[full] = None
        if not what.plain or len(self.products[name]) > 1:
            self.refused.setdefault(name, what.function)
        if full not in self.chosen:
            return None
        layer = functional_layer(self.model, full)
        self.found[full] = None
        if not computed:
            self.weights.add(id(layer.weight))
        what.set_(layer)
        layer.given = what.weight.T if what.turned else what.weight
        try:
            made = layer(what.input)
        finally:
            layer.given = None
        return what.added(made)

    def _read(self, func: Any, args: Any, kwargs: Any, result: Any, product: bool) -> None:
        """Note what a function makes of a parameter: the same weight, or something else."""
        read = [
            (t, form)
            for t in flatten_tensors([args, kwargs])
            if (form := self._form(t)) is not None
        ]
        if not read or (name := _asked(func)) in _HARMLESS:
            return
        first = args[0] if args else None
        for tensor, (parameter, turned, computed) in read:
            if isinstance(result, Tensor) and result is not tensor:
                if _is_turned(name, first, tensor, result):
                    self.forms[result] = parameter, not turned, computed
                    continue
                scaled = name in _SCALING or (name in _CASTING and tensor is first)
                if scaled and tensor.shape == result.shape:
                    if result not in self.forms:  # of two parameters the first is the weight
                        self.forms[result] = parameter, turned, computed or name in _SCALING
                    continue
            own = self.raw.get(id(parameter))
            if own is None or name in _CASTING or (product and own in self.products):
                continue
            self.refused.setdefault(own, name)

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


_CALLED = (nn.Linear, CONVOLUTIONS)
_HARMLESS = {
    "shape", "dtype", "device", "ndim", "requires_grad", "is_cuda", "layout", "size", "dim",
    "numel", "is_floating_point", "is_complex", "is_contiguous", "stride", "grad", "is_leaf",
    "is_meta", "is_sparse", "element_size", "__len__", "__hash__", "ndimension",
    "zeros_like", "ones_like", "empty_like",
}  # fmt: skip
_TURNING = {"T", "mT", "t", "transpose", "swapaxes", "permute"}
_CASTING = {"half", "float", "double", "bfloat16", "to", "type", "type_as", "contiguous"}
_SCALING = {"mul", "div", "__mul__", "__rmul__", "__truediv__", "true_divide", "multiply"}


def _is_turned(name: str, first: Any, tensor: Tensor, result: Tensor) -> bool:
    """Return whether a function has exchanged the two axes of a matrix."""
    if name not in _TURNING or tensor is not first or tensor.dim() != 2:
        return False
    return bool(result.shape == tensor.shape[::-1] and result.stride() == tensor.stride()[::-1])


def _asked(func: Any) -> str:
    """Return the name of a function, or of the attribute of a tensor that it reads."""
    name = getattr(func, "__name__", "")
    return getattr(func.__self__, "__name__", "") if name == "__get__" else name


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
