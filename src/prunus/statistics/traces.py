"""Cross-layer tracing: which channels the discriminative part of the last hidden layer comes from.

Source: [Tian, section 3.2.2, 3.2.3], after [Zeiler-Fergus] (deconvolution). The response of the
chosen latent dimensions is sent back through the network:

    Z_{i−1} = U_i = F_iᵀ Z_i  (eq. 3.9, 3.10),

through transposed filters, to the places that max pooling chose (its switches), and rectified
where a rectifier stood. All but the last is what PyTorch's backward pass does to a gradient of
that value, for any layer: concatenations are split, branches and shortcuts add up, average
pooling spreads, a norm in evaluation scales. So a trace is a backward pass in which every
rectifier's own rule is replaced by max(·, 0) of the signal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.batches import Inputs, Loader, finest, read
from prunus.core import ConfigError, DataError, keeping_random_state, unknown_name
from prunus.graph import Consumer, Groups
from prunus.modules import calling, evaluating, keeping_computed, module_at, private_copy, unwrapped
from prunus.statistics.guards import only_activations, values_of, watch_gradient, with_graph
from prunus.statistics.sampling import Sampling, take_samples

__all__ = ["RECTIFIERS", "TRACE_RULES", "Trace", "Traces", "rectify_backward_", "trace_utility"]

#: Backward rules of rectifiers: max(x, 0) and what is made like it. Gates (sigmoid, tanh, softmax)
#: are not rectifiers and keep their gradient.
RECTIFIERS = frozenset(
    f"{name}Backward{n}"
    for n in (0, 1)
    for name in (
        "Celu", "Elu", "Gelu", "Hardswish", "Hardtanh", "LeakyRelu", "Mish", "PreluKernel",
        "Relu", "RreluWithNoise", "Silu", "Softplus", "Threshold",
    )
)  # fmt: skip


#: How a response is sent back: see `trace_utility`.
TRACE_RULES = ("deconvolution", "relevance")


@dataclass(frozen=True, eq=False)
class Trace:
    """What arrives at one consumer's input, for each of its calls in an image.

    Attributes:
        maps: U of each call, the mean over the images. Shape (F, P): features by positions.
    """

    maps: tuple[Tensor, ...]

    @property
    def utility(self) -> Tensor:
        """U = max over positions of U (eq. 3.12), the greatest over calls, at least 0. (F,)."""
        best = torch.stack([u.amax(1) for u in self.maps]).amax(0)
        return best.clamp(min=0)

    @property
    def spread(self) -> float:
        """Standard deviation of the utilities other than 0, space aware (eq. 3.13 without η).

        Where fewer than two differ from 0, their mean: the layer then has one scale.
        """
        values = torch.cat([u.flatten() for u in self.maps])
        values = values[values != 0]
        if len(values) > 1 and (deviation := float(values.std())) > 0:
            return deviation
        return float(values.abs().mean()) if len(values) else 0.0


@dataclass(frozen=True, eq=False)
class Traces(Mapping[str, Trace]):
    """The trace at every consumer that was reached, by module name.

    Attributes:
        head: the consumer whose input is the last hidden layer.
        dimensions: the features of it that were traced.
        images: how many images were traced.
    """

    entries: Mapping[str, Trace]
    head: str
    dimensions: tuple[int, ...]
    images: int

    def __getitem__(self, consumer: str) -> Trace:
        if consumer not in self.entries:
            raise unknown_name("traced consumer", consumer, self.entries)
        return self.entries[consumer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


@torch.inference_mode(False)
@keeping_random_state("trace")
def trace_utility(
    model: nn.Module,
    loader: Loader,
    groups: Groups,
    dimensions: Iterable[int] | Tensor,
    *,
    rule: str = "deconvolution",
    images_a_class: int | None = None,
    progress: Callable[[Any], Any] | None = None,
) -> Traces:
    """Trace the response of latent `dimensions` back to every consumer's input.

    Args:
        loader: batches (images, labels) of the training data; images alone do where all of them
            are traced.
        dimensions: features of `groups.head`, those that separate classes; the response of all
            others is set to 0.
        rule: `deconvolution`, the thesis's, or `relevance`: |x ⊙ ∇_x ½‖z‖²|, z the chosen
            dimensions and x what a consumer reads. Deconvolution sees what filters look for, and
            of that only what excites; relevance sees what was there, and what inhibits as well.
            It is ours, in the manner of gradient × input [Shrikumar].
        images_a_class: trace the first so many of every class ([Tian, section 3.3.6]: one
            already does on ImageNet); None for all images.
        progress: wraps the loader's iteration.

    The sum in U is that over the tensor's consumers (eq. 3.11). Cost: one forward and one backward
    pass to the activations over the traced images; memory 8·F·P bytes per consumer, F features at
    P positions, nothing per image. Feature maps must have one size; parameters get no gradients.

    Raises:
        ConfigError: the network has no single head, or the dimension or the rule is unknown.
        DataError: there is no image, or no label that `images_a_class` needs, or maps have several
            sizes.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = prunus.find_groups(net, torch.zeros(1, 4))
        >>> loader = [(torch.randn(32, 4), torch.arange(32) % 2)]
        >>> traces = prunus.trace_utility(net, loader, groups, [0, 3])
        >>> list(traces), traces.head
        (['0', '2'], '2')
    """
    if rule not in TRACE_RULES:
        raise ConfigError(f"trace rule {rule!r}: expected one of {', '.join(TRACE_RULES)}")
    model = private_copy(unwrapped(model))
    head = groups.head
    kept = _checked(groups.consumers[head], dimensions)
    tracer = _UtilityTracer(model, groups, head, kept, rule)
    wanted = _FirstOfEach(images_a_class)
    with evaluating(model), keeping_computed(model):
        for batch in read(loader, model, progress):
            chosen = wanted.take(batch.inputs, batch.labels)
            if chosen is not None:
                tracer.add(chosen)
    return tracer.finish()


def rectify_backward_(output: Tensor) -> None:
    """Make the backward pass from `output` rectify its signal at rectifiers, whatever went in.

    Deconvolution's rule: R = max(signal, 0), where a gradient would be signal·1[x > 0].
    """
    stack, met = [output.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in met:
            continue
        met.add(node)
        if node.name() in RECTIFIERS:
            node.register_hook(_rectified)
        stack.extend(parent for parent, _ in node.next_functions)


def _rectified(passed: tuple[Any, ...], signal: tuple[Any, ...]) -> tuple[Any, ...]:
    """Replace what a rectifier passes back to its input; it has no other input with a gradient."""
    return (signal[0].clamp(min=0), *passed[1:])


class _FirstOfEach:
    """Takes the first so many images of each class."""

    def __init__(self, count: int | None) -> None:
        if count is not None and count < 1:
            raise ConfigError(f"images_a_class is {count}, expected at least 1, or None for all")
        self.count = count
        self.seen: dict[int, int] = {}

    def take(self, inputs: Inputs, y: Tensor | None) -> Inputs | None:
        if self.count is None:
            return inputs
        if y is None or y.is_floating_point():
            raise DataError("images_a_class needs class labels, and there are none: leave it out")
        rows = []
        for row, label in enumerate(finest(y).tolist()):
            if self.seen.get(label, 0) < self.count:
                self.seen[label] = self.seen.get(label, 0) + 1
                rows.append(row)
        return inputs.rows(lambda t: t[rows]) if rows else None


class _UtilityTracer:
    """The state of one pass."""

    def __init__(
        self, model: nn.Module, groups: Groups, head: str, kept: Tensor, rule: str
    ) -> None:
        self.relevance = rule == "relevance"
        self.model, self.groups, self.head, self.kept = model, groups, head, kept
        self.device = next(model.parameters()).device
        self.sums: dict[tuple[str, int], Tensor] = {}
        self.images = 0
        self.through = False

    def add(self, inputs: Inputs) -> None:
        self.calls: dict[str, int] = {}
        self.read: list[Tensor] = []
        self.behind: list[Tensor] = []
        self.over = False
        with (
            only_activations(self.model, gradients=True, through=self.through) as mode,
            calling(self.model, self.groups.uncalled),
            ExitStack() as hooks,
        ):
            for name, consumer in self.groups.consumers.items():
                module = module_at(self.model, name)
                handle = module.register_forward_pre_hook(self._reading(consumer))
                hooks.callback(handle.remove)
            inputs.detached().map(with_graph).run(self.model)
            if mode.loses(self.read[-1], self.behind):
                mode.through = self.through = True
                self.calls, self.read = {}, []
                inputs.detached().map(with_graph).run(self.model)
            self.over = True  # in the backward pass, checkpoints run modules again
            latent = self.read[-1]
            self.behind.clear()
            if not self.relevance:
                rectify_backward_(latent)
            torch.autograd.backward(latent, values_of(latent) * self._mask(latent))
        self.images += inputs.size

    def _mask(self, latent: Tensor) -> Tensor:
        """Return 1 at the kept dimensions of what the head reads, shaped to multiply it."""
        linear = isinstance(module_at(self.model, self.head), nn.Linear)
        positions = self.groups.consumers[self.head].positions[self.kept.numpy()]
        mask = latent.new_zeros(latent.shape[-1 if linear else 1])
        mask[torch.from_numpy(positions.ravel()).to(latent.device)] = 1
        return mask if linear else mask.view(-1, *[1] * (latent.dim() - 2))

    def _reading(self, consumer: Consumer) -> Any:
        def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            name = consumer.module
            raw = with_graph(args[0])
            changed = None if raw is args[0] else (raw, *args[1:])
            if self.over:
                return changed
            call = self.calls[name] = self.calls.get(name, -1) + 1
            self.behind.append(raw)
            if name == self.head:
                self.read.append(raw)

            value = values_of(raw)

            def hook(signal: Tensor) -> None:
                found = (signal * value).abs() if self.relevance else signal
                self._sum(consumer, module, call, found)

            watch_gradient(raw, hook, name)
            return changed

        return before

    def _sum(self, consumer: Consumer, module: nn.Module, call: int, signal: Tensor) -> None:
        plain = Sampling("pixel")
        samples = take_samples(
            values_of(signal), module, consumer, plain, images=1, batch=0, feature_limit=0
        )
        store = "cpu" if signal.device.type == "mps" else signal.device
        total = samples.x.to(store, torch.float64).sum(0)  # (F, P)
        key = consumer.module, call
        held = self.sums.get(key)
        if held is not None and held.shape != total.shape:
            raise DataError(
                f"module {consumer.module!r} reads maps of several sizes, {held.shape[1]} and "
                f"{total.shape[1]} positions: trace images of one size"
            )
        self.sums[key] = total if held is None else held + total

    def finish(self) -> Traces:
        if not self.images:
            raise DataError("the loader gave no image to trace: give it at least one per class")
        calls: dict[str, list[Tensor]] = {}
        for (name, _), total in sorted(self.sums.items()):
            calls.setdefault(name, []).append((total / self.images).cpu())
        entries = {name: Trace(tuple(maps)) for name, maps in calls.items()}
        ordered = {name: entries[name] for name in self.groups.consumers if name in entries}
        return Traces(ordered, self.head, tuple(self.kept.tolist()), self.images)


def _checked(consumer: Consumer, dimensions: Iterable[int] | Tensor) -> Tensor:
    """Return the dimensions sorted, each once."""
    kept = sorted({int(dimension) for dimension in dimensions})
    width = len(consumer.positions)
    if not kept or kept[0] < 0 or kept[-1] >= width:
        raise ConfigError(
            f"latent dimensions {kept} cannot be traced: expected at least one of 0 … "
            f"{width - 1}, the features that {consumer.module!r} reads"
        )
    return torch.tensor(kept)
