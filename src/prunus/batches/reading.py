"""One reader for every form of batch that a loader may give."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from prunus.batches.inputs import Inputs
from prunus.core import DataError, keeping_random_state

__all__ = ["Batch", "Batches", "Loader", "count_batches", "length", "parse", "read", "rereadable"]

#: Anything that gives batches when it is iterated over.
Loader = Iterable[Any]

#: Wraps a loader, to show how far it has been read.
Progress = Callable[[Iterable[Any]], Iterable[Any]]

#: Names under which a mapping holds the labels, in the order in which they are tried.
LABELS = ("labels", "label", "targets", "target", "y", "class", "classes")

#: The most that is kept of an iterator, so that it can be read again: bytes.
CACHE = 2 * 1024**3


@dataclass(frozen=True, eq=False)
class Batch:
    """The inputs of one forward pass, and the labels or targets that go with them, if any."""

    inputs: Inputs
    labels: Tensor | None = None

    @property
    def size(self) -> int:
        """The number of examples."""
        return self.inputs.size


class Batches:
    """A loader, with how its batches are to be read; it may be given wherever a loader may.

    Without settings every form is read that `read` knows. An iterator is read once, into memory,
    so that it can be read again.

    Args:
        loader: any iterable of batches.
        reader: a function from what the loader gives to (inputs, labels), where `inputs` is a
            tensor, a tuple of positional or a mapping of named arguments.
        transform: a function applied to the inputs' floating-point or uint8 tensors of three axes
            or more, the images: from bytes to what the network was trained on, for example.

    Raises:
        DataError: an iterator gives more than fits into the cache (2 GiB).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> photos = [(torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8), torch.arange(4))]
        >>> batches = prunus.Batches(photos, transform=lambda x: x / 255)
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
        >>> [batch.inputs.tensors[0].dtype for batch in prunus.read(batches, net)]
        [torch.float32]
    """

    def __init__(
        self,
        loader: Loader,
        *,
        reader: Callable[[Any], tuple[Any, Any]] | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Read `loader` with `reader`, and its images through `transform`."""
        self.loader = rereadable(loader)
        self.reader, self.transform = reader, transform

    def __getattr__(self, name: str) -> Any:
        """Return what the loader has: its sampler, its data set."""
        if name.startswith("__") or "loader" not in vars(self):  # asked by copy and pickle
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        return (self.parse(given, None) for given in self.loader)

    def parse(self, given: Any, model: nn.Module | None) -> Batch:
        """Return what the loader gave, read and transformed, as `model` is called with it."""
        batch = parse(given, model) if self.reader is None else _read(self.reader(given), model)
        return Batch(batch.inputs.map(self._changed), batch.labels)

    def _changed(self, tensor: Tensor) -> Tensor:
        if self.transform is None or not _is_image(tensor):
            return tensor
        return self.transform(tensor)


def read(
    loader: Loader, model: nn.Module, progress: Progress | None = None, batches: int | None = None
) -> Iterable[Batch]:
    """Return the batches of a loader, on the network's device and in its floating-point type.

    | a batch | is read as |
    |---|---|
    | a tensor or array | images alone |
    | (x, y), (x, y, …) | inputs and labels; what follows is not used |
    | ((x₁, x₂), y), ({…}, y) | positional or named inputs, and labels |
    | (x₁, …, xₖ, y) | k inputs, where the network's forward pass requires k > 1 |
    | {name: x, "label": y} | named inputs; the only tensor, if the network has no such name |

    Labels stay on the CPU. Batches without an example are left out. `progress` wraps the loader (a
    progress bar); `batches` ends it after so many.

    Raises:
        DataError: the batch has none of these forms, or holds bytes where the network computes
            in floating point; says what it holds and what to do.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> loader = [{"image": torch.zeros(2, 4), "label": torch.tensor([0, 1])}]
        >>> [(b.size, b.labels.tolist()) for b in read(loader, nn.Linear(4, 2))]
        [(2, [0, 1])]
    """
    if not isinstance(loader, Iterable) or isinstance(loader, (Tensor, str, bytes, Mapping)):
        raise DataError(
            f"the loader is a {type(loader).__name__}, expected an iterable of batches: give a "
            "DataLoader or a list of (images, labels)"
        )
    return _Reading(loader, model, progress, batches)


class _Reading:
    """The batches of a loader as a network reads them; as long as the loader."""

    def __init__(
        self, loader: Loader, model: nn.Module, progress: Progress | None, batches: int | None
    ) -> None:
        self.loader, self.model = loader, model
        self.progress, self.batches = progress, batches

    def __len__(self) -> int:
        count = len(self.loader)  # type: ignore[arg-type]
        return count if self.batches is None else min(count, self.batches)

    def __iter__(self) -> Iterator[Batch]:
        model = self.model
        how = self.loader if isinstance(self.loader, Batches) else None
        given = self.loader if how is None else how.loader
        given = given if self.batches is None else itertools.islice(given, self.batches)
        for each in self.progress(given) if self.progress else given:
            batch = parse(each, model) if how is None else how.parse(each, model)
            if batch.size == 0:
                continue
            _check_dense(batch.inputs)
            inputs = batch.inputs.like(model)
            _check_bytes(inputs, model)
            yield Batch(inputs, batch.labels)


def rereadable(loader: Loader) -> Loader:
    """Return the loader, or all that an iterator gives, which can be read only once.

    Raises:
        DataError: an iterator gives more than 2 GiB.
    """
    if not isinstance(loader, Iterator):
        return loader
    kept, held = [], 0
    for batch in loader:
        held += sum(t.nbytes for t in _arrays(batch))
        if held > CACHE:
            raise DataError(
                f"the loader is a {type(loader).__name__}, which can be read only once, and gives "
                f"more than {CACHE >> 30} GiB: give a DataLoader, or another object that starts "
                "again each time it is iterated over"
            )
        kept.append(batch)
    return kept


def length(loader: Loader) -> int | None:
    """Return how many batches a loader gives, or None where it does not say."""
    try:
        return len(loader) if isinstance(loader, Sized) else None
    except TypeError:
        return None


def count_batches(loader: Loader) -> int:
    """Return how many batches a loader gives, by reading it where it does not say."""
    known = length(loader)
    return sum(1 for _ in loader) if known is None else known


def parse(given: Any, model: nn.Module | None = None) -> Batch:
    """Return what a loader gave as inputs and labels; names and numbers of inputs are `model`'s.

    Raises:
        DataError: it has none of the forms of `read`.
    """
    if isinstance(given, Batch):
        return given
    if isinstance(given, (Tensor, np.ndarray)):
        return Batch(Inputs((_input(given),)))
    if isinstance(given, Mapping):
        return _named(given, model)
    if isinstance(given, (tuple, list)) and given:
        return _ordered(list(given), model)
    raise DataError(
        f"a batch of the loader is a {type(given).__name__}, expected images, (images, labels) or "
        "a mapping: pass prunus.Batches(loader, reader=…), a function from a batch to (inputs, "
        "labels)"
    )


def _read(pair: Any, model: nn.Module | None) -> Batch:
    """Return what a reader gave."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise DataError(
            f"reader= returned a {type(pair).__name__}, expected the two of (inputs, labels)"
        )
    return _ordered(list(pair), model)


def _ordered(given: list[Any], model: nn.Module | None) -> Batch:
    """Read a tuple: inputs, labels, and what is not used."""
    first = given[0]
    wanted = _required(model)
    if isinstance(first, Inputs):
        inputs, rest = first, given[1:]
    elif isinstance(first, list) and len(first) == 1 and wanted <= 1:
        inputs, rest = Inputs((first[0],)), given[1:]
    elif isinstance(first, (tuple, Mapping)) or (
        isinstance(first, list) and (wanted > 1 or (model is None and _are_alike(first)))
    ):
        inputs = Inputs.of(first if isinstance(first, Mapping) else tuple(first))
        rest = given[1:]
    elif wanted > 1:
        inputs, rest = Inputs(tuple(given[:wanted])), given[wanted:]
    else:
        inputs, rest = Inputs((first,)), given[1:]
    named = {name: _input(value) for name, value in inputs.kwargs.items()}
    inputs = Inputs(tuple(_input(value) for value in inputs.args), named)
    return Batch(inputs, _labels(rest[0]) if rest else None)


def _are_alike(values: list[Any]) -> bool:
    """Return whether a list holds arrays with equally many rows: several inputs of a network."""
    arrays = [v for v in values if isinstance(v, (Tensor, np.ndarray)) and v.ndim]
    return len(arrays) == len(values) > 1 and len({len(a) for a in arrays}) == 1


def _named(given: Mapping[Any, Any], model: nn.Module | None) -> Batch:
    """Read a mapping: the labels under a usual name, the inputs under the network's."""
    key = next((name for name in LABELS if name in given), None)
    rest = {str(name): value for name, value in given.items() if name != key}
    labels = None if key is None else _labels(given[key])
    if key is not None and key in _parameters(model) and key not in ("labels", "label"):
        rest[key], labels = given[key], None  # a network that calls one of its inputs y
    names = rest if _takes_any(model) else _parameters(model)
    known = {name: value for name, value in rest.items() if name in names}
    if known:
        return Batch(Inputs(kwargs={name: _input(value) for name, value in known.items()}), labels)
    arrays = [v for v in rest.values() if isinstance(v, (Tensor, np.ndarray))]
    if len(arrays) > 1:  # numbers of images, weights
        arrays = [v for v in arrays if v.ndim > 1]
    if len(arrays) == 1:
        return Batch(Inputs((_input(arrays[0]),)), labels)
    expected = ", ".join(_parameters(model)) or "one input"
    raise DataError(
        f"a batch of the loader is a mapping with {', '.join(map(str, given)) or 'nothing'}, and "
        f"the forward pass of the network takes {expected}: name the inputs like that, or pass "
        "prunus.Batches(loader, reader=…), a function from a batch to (inputs, labels)"
    )


def _input(value: Any) -> Any:
    """Return an input with arrays as tensors.

    Raises:
        DataError: it is a list of images that were not stacked.
    """
    if isinstance(value, list) and value and isinstance(value[0], (Tensor, np.ndarray)):
        shapes = sorted({tuple(np.shape(item)) for item in value})
        raise DataError(
            f"the images of a batch are a list of {len(value)}, of shapes "
            f"{', '.join(map(str, shapes[:3]))}: stack images of one size into a tensor (B, …), or "
            "give batches of one image"
        )
    if isinstance(value, (tuple, Mapping)):
        return _nested(value)
    return _array(value) if isinstance(value, (Tensor, np.ndarray)) else value


def _nested(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _input(item) for key, item in value.items()}
    return tuple(_input(item) for item in value)


def _array(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        return torch.from_numpy(np.ascontiguousarray(value))
    except TypeError:
        raise DataError(
            f"the inputs of a batch are an array of type {value.dtype}, expected numbers: give "
            "arrays of one shape and of float32, for example"
        ) from None


def _labels(given: Any) -> Tensor | None:
    """Return labels as a tensor.

    Raises:
        DataError: they are words, or no numbers at all.
    """
    if given is None or isinstance(given, Tensor):
        return given
    try:
        return torch.as_tensor(np.asarray(given))
    except (TypeError, ValueError):
        shown = repr(given[0]) if isinstance(given, Sequence) and given else repr(given)
        raise DataError(
            f"the labels of a batch are a {type(given).__name__} with {shown[:40]}, expected a "
            "tensor of class indices (B,): encode the classes as numbers from 0"
        ) from None


def _arrays(value: Any) -> list[Any]:
    if isinstance(value, (Tensor, np.ndarray)):
        return [value]
    if isinstance(value, Batch):
        return value.inputs.tensors
    if isinstance(value, Mapping):
        value = list(value.values())
    return [a for v in value for a in _arrays(v)] if isinstance(value, (tuple, list)) else []


def _signature(model: nn.Module | None) -> list[inspect.Parameter]:
    if model is None:
        return []
    try:
        found = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # a ScriptModule, or a method written in C
        return []
    if all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in found):
        for name in ("module", "_orig_mod"):  # a wrapper of training hands everything on
            inner = getattr(model, name, None)
            if isinstance(inner, nn.Module):
                return _signature(inner)
    return found


def _required(model: nn.Module | None) -> int:
    """Return how many positional inputs the forward pass of a network requires."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in _signature(model))


def _parameters(model: nn.Module | None) -> list[str]:
    """Return the names of the inputs of a network's forward pass."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in _signature(model) if p.kind in named]


def _takes_any(model: nn.Module | None) -> bool:
    """Return whether every name can be handed on: an unknown network, or one with **kwargs."""
    if model is None:
        return True
    signature = _signature(model)
    return not _parameters(model) and any(p.kind is p.VAR_KEYWORD for p in signature)


def _is_image(tensor: Tensor) -> bool:
    return tensor.dim() > 2 and (tensor.is_floating_point() or tensor.dtype == torch.uint8)


#: Whether a network runs on images of bytes as they are.
_TAKES_BYTES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def _takes_bytes(model: nn.Module, inputs: Inputs) -> bool:
    """Run a copy of a network, once, on its first image of bytes; return whether that works."""
    if model not in _TAKES_BYTES:
        try:
            with torch.no_grad(), keeping_random_state():
                inputs.first(1).like(model)(copy.deepcopy(model).eval())
        except Exception:  # networks' code can raise anything
            _TAKES_BYTES[model] = False
        else:
            _TAKES_BYTES[model] = True
    return _TAKES_BYTES[model]


def _check_dense(inputs: Inputs) -> None:
    """Raise where inputs have no values, or are stored in a form that layers do not take."""
    for tensor in inputs.tensors:
        if tensor.is_meta or tensor.layout != torch.strided:
            held = "without values (device 'meta')" if tensor.is_meta else f"of {tensor.layout}"
            raise DataError(
                f"the images of a batch are tensors {held}, of shape {tuple(tensor.shape)}: give "
                "dense tensors with values, such as x.to_dense()"
            )


def _check_bytes(inputs: Inputs, model: nn.Module) -> None:
    """Raise where images of bytes would reach weights of another type.

    A network that turns bytes into numbers itself takes them.
    """
    for tensor in inputs.tensors:
        if tensor.dtype == torch.uint8 and tensor.dim() > 2:
            weight = next((p for p in model.parameters() if p.is_floating_point()), None)
            if weight is not None and not _takes_bytes(model, inputs):
                raise DataError(
                    f"the images are uint8 of shape {tuple(tensor.shape)}, and the weights of "
                    f"{type(model).__name__} are {weight.dtype}: pass prunus.Batches(loader, "
                    "transform=…), a function from bytes to what the network was trained on"
                )
