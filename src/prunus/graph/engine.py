"""Which parameter axes of a network must be pruned together, traced in one forward pass.

The network runs unchanged on real numbers; alongside, every ATen operation also propagates labels
(`labels`, `operations`). So everything that runs can be traced: reshapes, indexing, control flow,
fused attention. What an operation mixes is kept whole, with the reason.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from prunus.batches import Inputs, flatten_tensors
from prunus.core import TraceError, prepare_torch
from prunus.graph.labels import FIXED, Labels, Nodes, Track, compress, varying
from prunus.graph.numbers import counts_heads, numbered, sizes_read
from prunus.graph.operations import (
    LABELLING,
    RULES,
    Call,
    CallSite,
    TraceState,
    follow,
    follow_single,
)
from prunus.graph.products import Tally
from prunus.modules import (
    CONVOLUTIONS,
    OPAQUE,
    PASSING,
    TRANSPOSED,
    Scripted,
    calling,
    channel_count,
    is_depthwise,
    is_mixing,
    is_packed,
    is_written_norm,
    module_at,
    named_layers,
    place_of,
    plain_attention,
    projection_name,
    without_checkpoints,
)

__all__ = ["Coupling", "couplings"]

#: (module name, "out" or "in") → set of (channel of that axis, unit of the root).
Coupling = dict[tuple[str, str], set[tuple[int, int]]]


def couplings(
    model: nn.Module,
    example: Inputs,
    roots: list[str],
    uncalled: Collection[str] = (),
    *,
    inside_heads: bool = False,
    singles: bool = False,
    record: Tally | None = None,
    functional: Collection[str] = (),
) -> Iterator[tuple[str, Coupling, str]]:
    """Yield (root, coupling, obstacle) for every root module not yet seen as a producer.

    `obstacle` is empty, or says why the coupled channels cannot be cut. `model` is a private
    copy, in the mode in which it is to be traced; `uncalled` layers are called (`calling`).
    With `inside_heads` the dimensions of all heads are units, not whole heads; with `singles` the
    channel of a layer with a single channel is traced too, as far as possible (`follow_single`).
    The products that run are added to `record`. Parameters of other modules that are layers
    (`functional`) are layers here.

    Raises:
        TraceError: the network could not be run.
    """
    tracer = _ChannelTracer(model, inside_heads, singles, record or Tally(), functional)
    try:
        with (
            torch.no_grad(), plain_attention(), without_checkpoints(), tracer.watching(),
            sizes_read(tracer.state.sizes),
            calling(model, uncalled), tracer,
        ):  # fmt: skip
            outputs = example(model)
    except Exception as error:
        text = str(error).splitlines()
        raise TraceError(
            f"{type(model).__name__} runs, but its channels cannot be traced "
            f"({type(error).__name__}: {text[0] if text else 'no text'})"
        ) from error
    for tensor in flatten_tensors(outputs):
        for array in tracer.track(tensor).arrays:
            tracer.labels.fix(array, "its outputs are the network's outputs")
    tracer.state.settle_meetings()
    tracer.state.settle_parts()
    tracer.fix_tokens()
    tracer.bind_filters()
    tracer.settle_splits()
    tracer.find_numbers()
    tracer.settle_products()
    yield from tracer.couplings(roots)


#: The meaning of the axes of a linear layer's parameters.
LINEAR = {("weight", 0): "out", ("weight", 1): "in", ("bias", 0): "out"}


class _ChannelTracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Propagates labels along with tensors while a network runs."""

    def __init__(
        self,
        model: nn.Module,
        inside_heads: bool,
        singles: bool,
        record: Tally,
        functional: Collection[str],
    ) -> None:
        prepare_torch()
        super().__init__()  # type: ignore[no-untyped-call]
        self.model, self.singles, self.record = model, singles, record
        self.state = TraceState(inside_heads=inside_heads)
        self.labels = self.state.labels
        self.tracks = WeakIdKeyDictionary()
        #: Parameters and buffers by their place in memory, which `parameter.data` shares.
        self.held: dict[Any, Tensor] = {}
        #: id of a parameter → axis → its labels.
        self.nodes: dict[int, dict[int, Tensor]] = defaultdict(dict)
        #: A convolution's weight, transposed or not, and groups → labels of inputs and outputs.
        self.filters: dict[tuple[int, bool, int], tuple[Tensor | None, Tensor | None]] = {}
        #: ids of the weights of embeddings, and of layers that mix channels.
        self.tokens: set[int] = set()
        self.mixed: set[int] = set()
        #: The first label of the first axis of a layer's weight → the id of that weight.
        self.weights: dict[int, int] = {}
        #: (module, axis) → the label of each of its channels.
        self.axes: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
        self.running: list[str] = []
        self.ran: set[str] = set()
        #: Module and parameter → the layer that it is, and its name.
        self.functional = {place_of(model, n)[:2]: (n, module_at(model, n)) for n in functional}
        for name, module in model.named_modules():
            for key, tensor in [
                *module.named_parameters(recurse=False, remove_duplicate=False),
                *module.named_buffers(recurse=False, remove_duplicate=False),
            ]:
                self._own(name, module, key, tensor)
        self.numbers = numbered(model, self.state.sizes.hashed)

    def _own(self, name: str, module: nn.Module, key: str, tensor: Tensor) -> None:
        """Give every axis of a parameter or buffer its own labels, the same in all its modules."""
        turned = False
        if (module, key) in self.functional:
            name, module = self.functional[module, key]
            key, turned = "weight", name.endswith(".T")
        track: Track | None = self.tracks.get(tensor)  # type: ignore[no-untyped-call]
        if track is None:
            track = self.tracks[tensor] = Track(tuple(tensor.shape))
            self.held[_place(tensor)] = tensor
        mixing = isinstance(module, (CONVOLUTIONS, nn.Linear))
        shared = self.nodes[id(tensor)]
        for axis, size in enumerate(tensor.shape):
            if size == 1 and not (mixing and key == "weight" and axis < 2):
                continue
            if axis not in shared:
                nodes = shared[axis] = self.labels.new(size)
                each = [-1 if d == axis else 1 for d in range(tensor.dim())]
                track.arrays.append(nodes.view(each))
            owner, kind = name, self._kind(module, key, 1 - axis if turned else axis, size)
            if is_packed(module) and key.startswith("in_proj_"):
                owner, kind = projection_name(name), LINEAR[key[8:], axis]
            if kind:
                self.axes[owner, kind].append(shared[axis])
            elif not (isinstance(module, CONVOLUTIONS) and key == "weight"):
                self.axes[f"{name}.{key}:{axis}".lstrip("."), "out"].append(shared[axis])
        if key == "weight" and isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            self.tokens.add(id(tensor))
        if key == "weight" and mixing:
            self.mixed.add(id(tensor))
        weighs = (key == "weight" and mixing) or (key == "in_proj_weight" and is_packed(module))
        if weighs and len(shared[0]):
            self.weights[int(shared[0][0])] = id(tensor)
        if isinstance(module, CONVOLUTIONS) and key == "weight":
            self._own_filters(name, module, tensor)

    def _own_filters(self, name: str, module: Any, weight: Tensor) -> None:
        """Give a convolution labels of its inputs and outputs, the same as others of its weight."""
        spread = isinstance(module, TRANSPOSED) and not is_depthwise(module)
        kind = id(weight), isinstance(module, TRANSPOSED), module.groups
        known = self.filters.get(kind)
        incoming = None if known is None else known[0]
        if not is_depthwise(module):
            if incoming is None:
                incoming = self.labels.new(module.in_channels)
            self.axes[name, "in"].append(incoming)
        if spread and module.groups > 1:
            out = self.labels.new(module.out_channels) if known is None else known[1]
            assert out is not None
            self.axes[name, "out"].insert(0, out)
        self.filters[kind] = incoming, self.axes[name, "out"][0]

    def bind_filters(self) -> None:
        """Couple the axes of a convolution's weight with its inputs and outputs.

        A weight's own labels are apart from those of its inputs, because a forward pass may average
        over them (weight standardisation). Where something else has them too, they are one: a mask
        that multiplies the weight, another layer that shares it.
        """
        part = self.labels.joined()
        each = [part[nodes.numpy()] for many in self.axes.values() for nodes in many]
        owned = np.concatenate([np.zeros(0, dtype=np.int64), *each])
        sharing = Counter(weight for weight, _, _ in self.filters)
        for (weight, transposed, _), (incoming, out) in self.filters.items():
            for labels, axis in ((incoming, int(not transposed)), (out, int(transposed))):
                nodes = self.nodes[weight].get(axis)
                if labels is None or nodes is None or labels is nodes:
                    continue
                if sharing[weight] == 1 and not np.isin(part[nodes.numpy()], owned).any():
                    continue
                if len(labels) == len(nodes):
                    self.labels.join(labels, nodes)
                else:
                    self.labels.fix(labels, "a convolution in groups masks or shares its weight")

    def fix_tokens(self) -> None:
        """Fix what a layer that shares its weight with an embedding makes: a unit is a token."""
        for tensor in self.tokens & self.mixed:
            self.labels.fix(self.nodes[tensor][0], "its outputs are the tokens of an embedding")

    def _kind(self, module: nn.Module, key: str, axis: int, size: int) -> str:
        """Return which axis of its module an axis of a parameter is, if any."""
        if isinstance(module, nn.Linear):
            return LINEAR.get((key, axis), "")
        if isinstance(module, CONVOLUTIONS):
            made = 0
            if isinstance(module, TRANSPOSED) and not is_depthwise(module):
                made = 1 if module.groups == 1 else -1  # with groups no axis holds all outputs
            return "out" if key == "bias" or (key == "weight" and axis == made) else ""
        if isinstance(module, PASSING) and axis == 0 and size == channel_count(module, "out"):
            return "out"
        return ""

    def layers(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the names and modules of the network, with the layers in parameters."""
        return named_layers(self.model, [name for name, _ in self.functional.values()])

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record which module runs."""
        names = {m: name for name, m in self.layers()}
        handles = []

        onednn = torch.backends.mkldnn.enabled

        def enter(module: nn.Module, _: Any) -> None:
            self.running.append(names[module])
            self.ran.add(names[module])
            if isinstance(module, nn.LSTM):  # which oneDNN runs as one operation
                torch.backends.mkldnn.set_flags(False)  # type: ignore[no-untyped-call]

        def leave(module: nn.Module, _: Any, __: Any) -> None:
            self.running.pop()
            if isinstance(module, nn.LSTM):
                torch.backends.mkldnn.set_flags(onednn)  # type: ignore[no-untyped-call]

        for module in names:
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
        try:
            yield
        finally:
            torch.backends.mkldnn.set_flags(onednn)  # type: ignore[no-untyped-call]
            for handle in handles:
                handle.remove()

    def given(self, tensors: Iterable[Tensor]) -> None:
        """Take tensors as the network's input."""
        for tensor in tensors:
            self.tracks[tensor] = Track(tuple(tensor.shape), source="the network's input")

    def track(self, tensor: Tensor) -> Track:
        """Return a tensor's labels; a tensor that no operation made has none."""
        found: Track | None = self.tracks.get(tensor)  # type: ignore[no-untyped-call]
        if found is None and (owner := self.held.get(_place(tensor))) is not None:
            found = self.tracks.get(owner)  # type: ignore[no-untyped-call]
        return Track(tuple(tensor.shape)) if found is None else found

    def _filters(self, name: str, args: tuple[Any, ...]) -> tuple[Tensor | None, Tensor | None]:
        """Return the labels of a convolution's module, even if it computes its weight."""
        if "conv" not in name:
            return None, None
        weight, known = args[1], self.filters
        if len(args) <= 8:  # not the general form
            return next((v for (w, *_), v in known.items() if w == id(weight)), (None, None))
        transposed, groups = bool(args[6]), int(args[8])
        found = known.get((id(weight), transposed, groups))
        if found is None and self.running:
            module = module_at(self.model, self.running[-1])
            if isinstance(module, CONVOLUTIONS) and module.weight.shape == weight.shape:
                found = known.get((id(module.weight), transposed, groups))
        if found is None and groups == 1 and id(weight) in self.mixed:  # the other way round
            nodes = self.nodes[id(weight)]
            found = nodes[int(not transposed)], nodes[int(transposed)]
            known[id(weight), transposed, groups] = found
        return found or (None, None)

    def _bare(self, axis: str, size: int) -> Tensor | None:
        """Return labels for the running norm that has no parameters."""
        name = self.running[-1] if self.running else ""
        module = module_at(self.model, name)
        if not isinstance(module, PASSING) or channel_count(module, axis) != size:
            return None
        if not self.axes[name, axis]:
            self.axes[name, axis].append(self.labels.new(size))
        return self.axes[name, axis][0]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one operation and propagate its labels."""
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        composite = torch.DispatchKey.CompositeImplicitAutograd
        if name not in RULES and func.has_kernel_for_dispatch_key(composite):
            with self:  # in inference mode: elsewhere PyTorch has split it up already
                return func.decompose(*args, **kwargs)
        result = func(*args, **kwargs)
        outputs = flatten_tensors(result)
        inputs = flatten_tensors(list(args)) + flatten_tensors(list(kwargs.values()))
        tracks = [self.track(t) for t in inputs]
        if name == "embedding" and id(args[0]) in self.tokens & self.mixed:
            kept = [a for a in tracks[0].arrays if a.shape[0] == 1]  # for its rows: `fix_tokens`
            tracks[0] = Track(tracks[0].shape, kept)
        where = self.running[-1] if self.running else ""
        self.record.note(func, args, kwargs, result, tracks, where, self.weight_of)
        scripted = isinstance(module_at(self.model, where), Scripted)
        labelled = name in LABELLING or any(t.labelled for t in tracks)
        if not outputs or not (scripted or labelled):
            source = next(
                (t.source for t in tracks if t.source), "" if tracks else f"made by {name!r}"
            )
            for tensor in outputs if source else ():
                self.tracks[tensor] = Track(tuple(tensor.shape), source=source)
            return result
        if name.endswith("_") and not name.endswith("__") and name[:-1]:
            name = name if name in ("copy_", "fill_", "zero_") else name[:-1]
        written = bool(self.running) and is_written_norm(module_at(self.model, where))
        call = Call(
            name=name,
            func=func,
            args=args,
            kwargs=kwargs,
            tracks=tracks,
            outputs=outputs,
            trace=self.state,
            site=CallSite(
                module=where,
                in_norm=written,
                filters=self._filters(name, args),
                own=self._bare,
            ),
        )
        made = keep_whole(self.labels, where, tracks, outputs) if scripted else follow(call)
        if self.singles and not scripted:
            follow_single(call, made)
        for tensor, track in zip(outputs, made, strict=False):
            if not track.arrays:
                track.source = f"the result of {name!r}"
            self.tracks[tensor] = track
        return result

    def settle_splits(self) -> None:
        """Make what is removed from every factored axis a box: whole rows, or whole columns.

        Of the axes along which labels differ, the longest stays free; along the others the same
        index is removed everywhere.
        """
        for _ in range(2):
            for split in self.state.splits:
                array = self.labels.narrowed(split.array)
                if len(varying(array)) < 2:
                    continue
                free = max(varying(array), key=lambda axis: (array.shape[axis], axis))
                self.labels.join_along(array, varying(array) - {free})

    def weight_of(self, track: Track) -> int | None:
        """Return the id of the weight that a tensor is, or a view or a copy of: all of it."""
        first = {int(a.reshape(-1)[0]): a.numel() for a in track.arrays}
        for label in first:
            found = self.weights.get(label)
            if found is None or not {0, 1} <= set(self.nodes[found]):  # one channel has no label
                continue
            axes = [self.nodes[found][axis] for axis in (0, 1)]
            if all(first.get(int(axis[0])) == len(axis) for axis in axes):
                return found
        return None

    def settle_products(self) -> None:
        """Find the layer and the extents of every product that ran."""
        weights, uses = {}, defaultdict(list)
        for name, module in self.layers():
            if is_mixing(module) or is_depthwise(module):
                weight = cast(Tensor, getattr(module, "source", module.weight))
                weights[name] = tuple(weight.shape)
                uses[id(weight)].append(name)
        self.record.settle(self.labels, weights, uses)
        part = self.labels.settled()
        self.record.classes = {
            name: part[self.axes[name, "out"][0].numpy()]
            for name in weights
            if self.axes[name, "out"]
        }

    def find_numbers(self) -> None:
        """Couple a module's numeric attributes with the axes whose sizes are taken from them.

        An attribute matches if a function that was given it as a size laid out as many labels, and
        it fits no other labels. A number of heads, by its name, also matches as many heads that a
        reshape in its module makes of what is left.
        """
        found: dict[str, list[Tensor]] = defaultdict(list)
        attached = np.zeros(len(self.labels.settled()), dtype=bool)
        for many in self.axes.values():
            for nodes in many:
                attached[self.labels.find(nodes)] = True
        attached[FIXED] = False
        for reshape in self.state.reshapes:
            array = compress(self.labels.find(reshape.array))
            if len(varying(array)) != 1 or not attached[array].any():
                continue
            (axis,), size = varying(array), array.numel()
            fit = [
                name
                for name in reshape.candidates(axis)
                if name in self.numbers and module_at(self.model, name).num_channels == size
            ]
            if not fit and axis < array.dim() - 1:  # the number of heads is left open, as −1
                fit = [
                    name
                    for name in sorted(self.numbers)
                    if name.rpartition(":")[0] == reshape.module and counts_heads(name)
                    if module_at(self.model, name).num_channels == size
                ]
            heads = [name for name in fit if counts_heads(name)]
            if heads:  # with equally many dimensions each; those are the last axis of a reshape
                last = axis == array.dim() - 1
                fit = [name for name in fit if name not in heads] if last else heads
            for name in fit:
                found[name].append(array.flatten())
        for name, arrays in found.items():
            if all(torch.equal(arrays[0], other) for other in arrays):
                self.axes[name, "out"] = arrays[:1]

    def couplings(self, roots: list[str]) -> Iterator[tuple[str, Coupling, str]]:
        """Yield each root's coupling, and what prevents cutting it."""
        part = self.labels.settled()
        owners: dict[int, list[tuple[str, str, int]]] = defaultdict(list)
        for (name, axis), many in self.axes.items():
            for nodes in many:
                for channel, label in enumerate(part[nodes.numpy()]):
                    if label != FIXED:
                        owners[int(label)].append((name, axis, channel))
        why = self.labels.reasons()
        met: set[str] = set()
        for root in roots:
            if root in met:
                continue
            own = self.axes[root, "out"][0].numpy()
            classes = part[own]
            if root not in self.ran:
                yield root, {}, "it does not run in the forward pass"
                continue
            obstacle = ""
            if (classes == FIXED).any():
                obstacle = why.get(int(own[classes == FIXED][0]), "its outputs stay")
            parts = [list(dict.fromkeys(int(label) for label in classes))]
            if not obstacle:
                parts = self._parts(parts[0], owners, part)
            for labels in parts:
                coupling: Coupling = defaultdict(set)
                for unit, label in enumerate(labels):
                    for name, axis, channel in owners[label]:
                        coupling[name, axis].add((channel, unit))
                if not coupling:
                    coupling[root, "out"] = {(c, c) for c in range(len(own))}
                met.update(name for name, axis in coupling if axis == "out")
                yield root, dict(coupling), obstacle or self._padded(coupling, part)

    def _parts(
        self, labels: list[int], owners: dict[int, list[tuple[str, str, int]]], part: Nodes
    ) -> list[list[int]]:
        """Divide the labels of a layer whose channels others make: a gate of a concatenation.

        Each part has the labels that the same axes own, and a layer that makes no others.
        """
        found: dict[frozenset[tuple[str, str]], list[int]] = defaultdict(list)
        for label in labels:
            found[frozenset((name, axis) for name, axis, _ in owners[label])].append(label)
        if len(found) == 1:
            return [labels]
        for axes, own in found.items():
            made = [self.axes[key][0].numpy() for key in axes if self._mixes(key)]
            if not any(np.isin(part[nodes], own).all() for nodes in made):
                return [labels]
        return list(found.values())

    def _padded(self, coupling: Coupling, part: Nodes) -> str:
        """Say which layer has only some of its channels coupled, while others of it stay."""
        for key, pairs in coupling.items():
            if self._mixes(key):
                nodes = self.axes[key][0].numpy()
                count = len({channel for channel, _ in pairs})
                if count < len(nodes) and (part[nodes] == FIXED).any():
                    return (
                        f"only {count} of the {len(nodes)} channels of {key[0]} are coupled to "
                        "it: they are padded, sliced or broadcast in between"
                    )
        return ""

    def _mixes(self, key: tuple[str, str]) -> bool:
        """Return whether an axis is that of what a mixing layer makes."""
        name, axis = key
        return axis == "out" and is_mixing(module_at(self.model, name))


def _place(tensor: Tensor) -> Any:
    """Return where a tensor's numbers are; only a tensor without numbers has none."""
    try:
        start = tensor.data_ptr() if tensor.numel() else 0
    except RuntimeError:  # sparse
        start = 0
    return (start, tensor.shape, tensor.stride()) if start else None


def keep_whole(
    labels: Labels, name: str, tracks: list[Track], outputs: list[Tensor]
) -> list[Track]:
    """Fix what an operation in the ScriptModule `name` reads, and what meets its results."""
    reason = f"it meets {name!r}, {OPAQUE}"
    for array in (a for track in tracks for a in track.arrays):
        labels.fix(array, reason)
    made = []
    for tensor in outputs:
        rank = tensor.dim()
        track = Track(tuple(tensor.shape))
        for axis in range(1, rank):  # the first axis is the batch
            nodes = labels.new(tensor.shape[axis])
            labels.fix(nodes, reason)
            track.arrays.append(nodes.view([-1 if d == axis else 1 for d in range(rank)]))
        made.append(track)
    return made
