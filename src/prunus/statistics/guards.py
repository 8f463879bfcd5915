"""What keeps a pass safe: memory that is free, gradients kept off parameters, the first NaN."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prunus.batches import Inputs, flatten_tensors
from prunus.core import ConfigError, available_memory
from prunus.modules import without_checkpoints
from prunus.statistics.sketch import ROWS

__all__ = [
    "MemoryGuard",
    "first_bad",
    "free_memory",
    "only_activations",
    "values_of",
    "watch_gradient",
    "with_graph",
]


def free_memory(device: torch.device) -> int:
    """Return how many bytes can still be allocated on a GPU of CUDA, otherwise in main memory.

    Main memory is what the machine, the process's control groups and its own limits leave.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory()


class MemoryGuard:
    """Refuses sums that would not fit into the memory that was free at the start."""

    def __init__(self, device: torch.device) -> None:
        self._free, self._reserved = free_memory(device), 0

    def reserve(self, name: str, features: int, blocks: int, *, sketch: bool = False) -> None:
        """Count the Gram matrices of one consumer, or the rows of its sketches.

        They take no memory until written to.

        Raises:
            ConfigError: they and those before would not fit.
        """
        need = 8 * blocks * features * (2 * ROWS if sketch else features)
        self._reserved += need
        if self._reserved > self._free and sketch:
            raise ConfigError(
                f"module {name!r} reads {features} features, whose sketches take "
                f"{need / 1e9:.1f} GB in {blocks} blocks, {self._reserved / 1e9:.1f} GB with "
                f"the sums before, and {self._free / 1e9:.1f} GB are free: pass fewer blocks"
            )
        if self._reserved > self._free:
            raise ConfigError(
                f"module {name!r} reads {features} features, whose Gram matrices take "
                f"{need / 1e9:.1f} GB in {blocks} blocks, {self._reserved / 1e9:.1f} GB with "
                f"those before, and {self._free / 1e9:.1f} GB are free: pass sampling='dual' or "
                "'pool:1', pool first ('flatten:4'), or fewer blocks"
            )


@contextmanager
def only_activations(
    model: nn.Module, gradients: bool, *, through: bool = False
) -> Iterator[GradientMode]:
    """Switch gradients on for activations and off for parameters, or off altogether.

    Every activation has one, also where the network reads tokens, or switches gradients off for a
    part of itself: what a module makes without a graph starts one. With `through`, gradients also
    pass where the forward pass detaches a tensor.
    """
    mode = GradientMode(through)
    if not gradients:
        with torch.inference_mode(False), torch.no_grad(), without_checkpoints():
            yield mode
        return
    wanted = [p for p in model.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    hooked = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    handles = [m.register_forward_hook(_start) for m in hooked]
    try:
        with torch.inference_mode(False), torch.enable_grad(), without_checkpoints(), mode:
            yield mode
    finally:
        for handle in handles:
            handle.remove()
        for parameter in wanted:
            parameter.requires_grad_(True)


class GradientMode(TorchFunctionMode):
    """Keeps gradients on where a forward pass switches them off, or detaches a tensor.

    Attributes:
        through: whether gradients pass where a tensor is detached.
        cut: whether a tensor with a gradient was detached.
    """

    def __init__(self, through: bool) -> None:
        super().__init__()
        self.through, self.cut = through, False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch._C._set_grad_enabled and not args[0]:
            return None
        if func in DETACHING and args[0].requires_grad:
            self.cut = True
            if self.through:
                return args[0].view_as(args[0])
        if func in READING and args[0].requires_grad:
            args = (values_of(args[0]), *args[1:])
        return func(*args, **(kwargs or {}))

    def loses(self, output: Tensor, read: Iterable[Tensor]) -> bool:
        """Return whether a tensor that was read has no gradient of `output` because of a cut."""
        if not self.cut or self.through:
            return False
        stack, met = [output.grad_fn], set()
        while stack:
            node = stack.pop()
            if node is not None and node not in met:
                met.add(node)
                stack.extend(parent for parent, _ in node.next_functions)
        return any(tensor.grad_fn not in met for tensor in read)


DETACHING = (Tensor.detach, torch.detach, Tensor.data.__get__)  # type: ignore[attr-defined]
#: What reads numbers, and refuses a tensor with a graph.
READING = (Tensor.numpy, Tensor.__array__)


def values_of(tensor: Tensor) -> Tensor:
    """Return a tensor without its graph, also where `GradientMode` keeps it."""
    with torch._C.DisableTorchFunction():
        return tensor.detach()


def _start(module: nn.Module, _: Any, output: Any) -> Any:
    """Let what a module makes without a graph start one."""
    plain = isinstance(output, (Tensor, tuple, list)) or type(output) is dict
    if not plain or all(with_graph(t) is t for t in flatten_tensors(output)):
        return None
    made: dict[int, Tensor] = {}
    return Inputs((output,)).map(lambda t: made.setdefault(id(t), with_graph(t))).args[0]


def with_graph(tensor: Tensor) -> Tensor:
    """Return a tensor whose gradient is followed; it may be changed in place, as any other."""
    able = torch.is_grad_enabled() and (tensor.is_floating_point() or tensor.is_complex())
    if tensor.requires_grad or not able:
        return tensor
    values = values_of(tensor)
    values = values.clone() if values.is_inference() else values
    return values.requires_grad_().clone()


def watch_gradient(tensor: Tensor, hook: Callable[[Tensor], None], name: str) -> None:
    """Call `hook` with the gradient of what module `name` reads or makes.

    Raises:
        ConfigError: there are no gradients there.
    """
    if not tensor.requires_grad:
        raise ConfigError(
            f"module {name!r} runs without gradients, for example within torch.inference_mode(): "
            "leave that out of the forward pass, or use what needs no gradients"
        )
    tensor.register_hook(hook)  # type: ignore[no-untyped-call]


def first_bad(model: nn.Module, inputs: Inputs) -> str:
    """Run the batch again and name the first module whose output is not finite."""
    found: list[str] = []
    names = {module: name for name, module in model.named_modules()}

    def look(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not torch.isfinite(output).all():
            found.append(names[module])

    hooked = [m for m in names if not isinstance(m, torch.jit.ScriptModule)]  # they take no hooks
    handles = [m.register_forward_hook(look) for m in hooked]
    try:
        with torch.no_grad(), without_checkpoints():
            inputs(model)
    finally:
        for handle in handles:
            handle.remove()
    if not all(bool(torch.isfinite(t).all()) for t in inputs.tensors):
        return "the calibration images hold NaN or infinity: clean the data first"
    where = found[0] if found else "the network"
    return (
        f"the activations of module {where!r} hold NaN or infinity on calibration images: "
        "prune a network that trained without diverging, or leave half precision"
    )
