"""Forms of batch that people bring, and what Prunus is to do with each."""

from __future__ import annotations

from collections import UserDict, namedtuple
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import prunus

__all__ = ["BATCHES", "NETWORKS", "Form", "pairs"]

BATCHES: dict[str, Form] = {}


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form of batch.

    Attributes:
        network: a key of `NETWORKS`.
        loader: makes the loader.
        plain: makes the same data as a list of (inputs, labels) with int64 labels; what is read
            from `loader` must give the same accuracy, plan and weights.
        refused: every call refuses it in words that match.
        prune_refused: only `prune` and `accuracy` do, or `prune` alone if `measured`.
        teacher: what `collect` learns from, if not the classes.
        epochs: of training within `prune`.
        loss: fit the network by this loss, too.
    """

    network: str
    loader: Callable[[], Any]
    plain: Callable[[], list[Any]] | None = None
    refused: str = ""
    prune_refused: str = ""
    measured: bool = False
    teacher: str | None = None
    epochs: int = 0
    loss: str = ""


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = nn.Conv2d(3, 10, 3), nn.Linear(10, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head((F.relu(self.trunk(a)) - F.relu(self.trunk(b))).abs().mean((2, 3)))


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(20, 10), nn.Linear(10, 16), nn.Linear(16, 10)
        self.head = nn.Linear(10, 20)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids)
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(x if attention_mask is None else x * attention_mask[..., None])


def classifier() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 10, 3, padding=1),
        nn.BatchNorm2d(10),
        nn.ReLU(),
        nn.Conv2d(10, 12, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    )


def normed_behind_pooling() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 10, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(10, 12),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Linear(12, 4),
    )


def segmenter() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 10, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(10, 12, 1),
        nn.ReLU(),
        nn.Conv2d(12, 4, 1),
    )


def regressor(*last: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 1), *last)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "classifier": classifier,
    "normed": normed_behind_pooling,
    "bfloat16": lambda: classifier().bfloat16(),
    "float64": lambda: classifier().double(),
    "siamese": Siamese,
    "segmenter": segmenter,
    "language": Language,
    "regressor": regressor,
    "regressor of (B,)": lambda: regressor(nn.Flatten(0)),
}


def form(name: str, network: str = "classifier", **expected: Any) -> Callable[[Any], Any]:
    """Enter a function that makes a loader."""

    def enter(make: Callable[[], Any]) -> Callable[[], Any]:
        assert name not in BATCHES, name
        BATCHES[name] = Form(network=network, loader=make, **expected)
        return make

    return enter


def drawn(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def whole(size: int = 8, count: int = 32) -> tuple[Tensor, Tensor]:
    """Return images and their classes; the mean tells some of the class."""
    y = torch.arange(count) % 4
    return drawn(count, 3, size, size) + 0.5 * y.view(-1, 1, 1, 1), y


def pairs(size: int = 8, count: int = 32, batch: int = 16) -> list[tuple[Tensor, Tensor]]:
    x, y = whole(size, count)
    return [(x[i : i + batch], y[i : i + batch]) for i in range(0, count, batch)]


def each(change: Callable[[Tensor, Tensor], Any]) -> Callable[[], list[Any]]:
    """Return a maker of the usual batches, each changed."""
    return lambda: [change(x, y) for x, y in pairs()]


def enter(name: str, change: Callable[[Tensor, Tensor], Any], **expected: Any) -> None:
    """Enter the usual batches, each changed; right ones equal the usual ones."""
    if not expected.get("refused") and not expected.get("prune_refused"):
        expected.setdefault("plain", pairs)
    form(name, **expected)(each(change))


# Forms of the batch itself.
Named = namedtuple("Named", ("x", "y"))
enter("a tuple of images and labels", lambda x, y: (x, y), epochs=1)
enter("a list of images and labels", lambda x, y: [x, y])
enter("a named tuple", Named)
enter("with an index behind", lambda x, y: (x, y, torch.arange(len(x))))
enter("with paths behind", lambda x, y: (x, y, [f"{i}.png" for i in range(len(x))]))
enter("with two labels' worth behind", lambda x, y: (x, y, y + 1, {"id": 3}))
enter("a dictionary of image and label", lambda x, y: {"image": x, "label": y})
enter("a dictionary of images and targets", lambda x, y: {"images": x, "targets": y})
enter("as Transformers do", lambda x, y: {"pixel_values": x, "labels": y})
enter("a dictionary with more in it", lambda x, y: {"id": y, "img": x, "path": ["a"], "label": y})
enter("a dictionary with labels first", lambda x, y: {"label": y, "x": x})
enter("a UserDict", lambda x, y: UserDict(pixel_values=x, labels=y))
enter("images in a tuple of one", lambda x, y: ((x,), y))
enter("images in a list of one", lambda x, y: ([x], y))
enter("arrays", lambda x, y: (x.numpy(), y.numpy()))
enter("labels as an array", lambda x, y: (x, y.numpy()))
enter("labels as a list of numbers", lambda x, y: (x, y.tolist()))
enter(
    "an array of objects",
    lambda x, y: np.array(["a", None], dtype=object),
    refused="batch|type|array",
)
enter("images alone", lambda x, y: x, prune_refused="no labels", teacher="logits")
enter("a tuple of images alone", lambda x, y: (x,), prune_refused="no labels", teacher="logits")
enter("no labels", lambda x, y: (x, None), prune_refused="no labels", teacher="logits")
enter("a word", lambda x, y: "images", refused="is a str")
enter("nothing", lambda x, y: None, refused="is a NoneType")
enter("an empty tuple", lambda x, y: (), refused="is a tuple|empty")
enter("a dictionary of words", lambda x, y: {"a": "b"}, refused="mapping")
enter("an empty dictionary", lambda x, y: {}, refused="mapping")
enter(
    "a dictionary of two images", lambda x, y: {"one": x, "two": x, "label": y}, refused="mapping"
)

# Types and shapes of labels.
for kind in (torch.int32, torch.uint8, torch.int16):
    enter(f"labels of {kind}", lambda x, y, kind=kind: (x, y.to(kind)))
enter("labels (B, 1)", lambda x, y: (x, y[:, None]), epochs=1)
enter("labels (B, 1) of int32", lambda x, y: (x, y[:, None].int()))
enter("one-hot labels", lambda x, y: (x, F.one_hot(y, 4)))
enter("boolean one-hot labels", lambda x, y: (x, F.one_hot(y, 4).bool()))
form("boolean labels", plain=lambda: [(x, y % 2) for x, y in pairs()])(
    each(lambda x, y: (x, (y % 2).bool()))
)
form("one-hot labels of floats")(each(lambda x, y: (x, F.one_hot(y, 4).float())))
form("smoothed labels", epochs=1)(each(lambda x, y: (x, F.one_hot(y, 4) * 0.9 + 0.025)))
form("fine and coarse labels")(each(lambda x, y: (x, torch.stack((y, y // 2), 1))))
form("some labels are −100")(each(lambda x, y: (x, torch.where(y == 3, -100, y))))
enter("labels of floats", lambda x, y: (x, y.float()), refused="integers|class")
enter("labels of fractions", lambda x, y: (x, y / 3), refused="integers|class")
enter(
    "labels in words", lambda x, y: (x, ["cat"] * len(y)), refused="encode the classes as numbers"
)
enter("one label for all", lambda x, y: (x, y[0]), refused="labels")
enter("fewer labels than images", lambda x, y: (x, y[:-1]), refused="labels")
enter("one label too many", lambda x, y: (x, torch.cat((y, y[:1]))), refused="labels")
enter("labels of −1", lambda x, y: (x, y - 1), refused="run from -1")
enter("labels from 1", lambda x, y: (x, y + 1), refused="to 4")
enter("several labels in a row", lambda x, y: (x, F.one_hot(y, 4) | 1), refused="several")
enter(
    "several labels in a row of floats",
    lambda x, y: (x, (F.one_hot(y, 4) | 1).float()),
    refused="class|several",
)
enter("complex labels", lambda x, y: (x, y.to(torch.complex64)), refused="complex|class")
enter("labels in a list of tensors", lambda x, y: (x, list(y)))
enter("labels (B, 1, 1)", lambda x, y: (x, y[:, None, None]), refused="labels have shape")

# Types and shapes of images.
enter("images of float64", lambda x, y: (x.double(), y))
enter("images that need gradients", lambda x, y: (x.clone().requires_grad_(), y))
form("images in channels-last memory")(
    each(lambda x, y: (x.to(memory_format=torch.channels_last), y))
)
enter("images of bytes", lambda x, y: ((x * 32 + 128).byte(), y), refused=r"transform=")
enter(
    "images of int64", lambda x, y: ((x * 32 + 128).long(), y), refused=r"transform=|int64|long int"
)
enter(
    "images with a NaN",
    lambda x, y: (x.masked_fill(x > 2, torch.nan), y),
    refused="NaN|not finite|finite",
)
enter(
    "images with an infinity",
    lambda x, y: (x.masked_fill(x > 2, torch.inf), y),
    refused="NaN|finite",
)
enter("images with channels last", lambda x, y: (x.permute(0, 2, 3, 1), y), refused="shape")
enter("images of one channel", lambda x, y: (x[:, :1], y), refused="shape")
enter("images that are not stacked", lambda x, y: (list(x), y), refused="stack")
enter(
    "images of several sizes in a batch", lambda x, y: ([x[0], x[0, :, :6]], y[:2]), refused="stack"
)
enter("images without storage", lambda x, y: (x.to("meta"), y), refused="meta")
enter("sparse images", lambda x, y: (x.to_sparse(), y), refused="sparse")
form("images of several sizes")(
    lambda: [*pairs(8), *((x, y) for x, y in pairs(10)), *((x, y) for x, y in pairs(12))]
)
form("float32 images for bfloat16", "bfloat16")(pairs)
form("float32 images for float64", "float64", epochs=1)(pairs)


# Kinds of loader.
class Rows(Dataset[Any]):
    """A data set of single images."""

    def __init__(self, named: bool = False) -> None:
        self.x, self.y = whole()
        self.named = named

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, at: int) -> Any:
        if at >= len(self.x):
            raise IndexError(at)
        one = (self.x[at], int(self.y[at]))
        return {"image": one[0], "label": one[1]} if self.named else one


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(zip(*whole(), strict=True))


class Sequence:
    """Neither __iter__ nor a class of PyTorch: numbers from 0 until IndexError."""

    def __getitem__(self, at: int) -> Any:
        return pairs()[at]


#: A DataLoader draws from the process' random numbers at each pass, unless it has its own.
SEEDED: dict[str, Any] = {"batch_size": 16, "generator": torch.Generator().manual_seed(0)}


class Endless:
    """It has a length of its own, but its iterator does not end there."""

    def __iter__(self) -> Iterator[Any]:
        return iter(pairs())

    def __len__(self) -> int:
        raise TypeError("no length")


@form("a generator", plain=pairs, epochs=1)
def generator() -> Iterator[Any]:
    yield from pairs()


form("an iterator", plain=pairs)(lambda: iter(pairs()))
form("a map", plain=pairs)(lambda: map(tuple, pairs()))
form("a DataLoader", plain=pairs)(lambda: DataLoader(TensorDataset(*whole()), **SEEDED))
form("a DataLoader of rows", plain=pairs)(lambda: DataLoader(Rows(), **SEEDED))
form("a DataLoader of named rows", plain=pairs)(lambda: DataLoader(Rows(True), **SEEDED))
form("a DataLoader of a stream", plain=pairs)(lambda: DataLoader(Stream(), **SEEDED))
form("numbered batches", refused="expected an iterable")(Sequence)
form("without a length", plain=pairs)(Endless)
form("one batch", plain=lambda: pairs(batch=32))(lambda: pairs(batch=32))
form("an empty batch first", plain=pairs)(
    lambda: [(torch.zeros(0, 3, 8, 8), torch.zeros(0).long()), *pairs()]
)
form("an empty batch last", plain=pairs)(
    lambda: [*pairs(), (torch.zeros(0, 3, 8, 8), torch.zeros(0).long())]
)
form("a last batch of one", "normed", epochs=1)(lambda: pairs(count=33))
form("an empty batch in training", epochs=1)(
    lambda: [(torch.zeros(0, 3, 8, 8), torch.zeros(0).long()), *pairs()]
)
form("batches of one", epochs=1)(lambda: pairs(count=12, batch=1))
form("batches of several lengths")(lambda: [*pairs(), *pairs(count=20, batch=7)])
form("no batch", refused="no batch|no image|non-empty")(list)
form("empty batches only", refused="no batch|no image|non-empty")(
    lambda: [(torch.zeros(0, 3, 8, 8), torch.zeros(0).long())] * 2
)
form("a data set instead of a loader", refused="DataLoader|batch")(Rows)
form("a number instead of a loader", refused="loader|iterable")(lambda: 3)
form("a tensor instead of a loader", refused="loader|batch|shape|labels")(lambda: whole()[0])
form("one batch instead of a loader", refused="loader|batch|shape|labels")(lambda: pairs()[0])
form("classes are missing")(lambda: [(x, y % 2) for x, y in pairs()])
form("one class")(lambda: [(x, y * 0) for x, y in pairs()])

# prunus.Batches.
form("a transform of bytes", plain=lambda: [(bytes_of(x) / 32, y) for x, y in pairs()])(
    lambda: prunus.Batches(
        [(bytes_of(x), y) for x, y in pairs()], transform=lambda x: x.float() / 32
    )
)
form("a reader", plain=pairs)(
    lambda: prunus.Batches(
        [{"one": x, "two": x, "kind": y} for x, y in pairs()],
        reader=lambda b: (b["one"], b["kind"]),
    )
)
form("a reader of words", plain=pairs)(
    lambda: prunus.Batches(
        [(x, [str(int(k)) for k in y]) for x, y in pairs()],
        reader=lambda b: (b[0], torch.tensor([int(k) for k in b[1]])),
    )
)
form("Batches of a generator", plain=pairs)(lambda: prunus.Batches(generator()))
form("a reader that returns one", refused="reader=")(
    lambda: prunus.Batches(pairs(), reader=lambda b: b[0])
)


def bytes_of(x: Tensor) -> Tensor:
    return (x * 32 + 96).clamp(0, 255).byte()


# Several inputs.
def both() -> list[tuple[Tensor, Tensor, Tensor]]:
    return [(x, x.flip(-1) + 0.2, y) for x, y in pairs()]


def usual_two() -> list[Any]:
    return [((a, b), y) for a, b, y in both()]


form("two inputs in a tuple", "siamese", plain=usual_two, epochs=1)(usual_two)
form("two inputs in a list", "siamese", plain=usual_two)(
    lambda: [[[a, b], y] for a, b, y in both()]
)
form("two inputs, one after the other", "siamese", plain=usual_two)(both)
form("two named inputs", "siamese", plain=usual_two)(
    lambda: [{"a": a, "b": b, "label": y} for a, b, y in both()]
)
form("two named inputs and labels beside", "siamese", plain=usual_two)(
    lambda: [({"a": a, "b": b}, y) for a, b, y in both()]
)
form("one input is missing", "siamese", refused="input|forward|fails on a batch|long int")(pairs)
form("one named input is missing", "siamese", refused="input|forward")(
    lambda: [{"a": x, "label": y} for x, y in pairs()]
)
form("three inputs for two", "siamese", refused="input|forward|labels")(
    lambda: [((a, b, a), y) for a, b, y in both()]
)


# Maps, tokens, numbers.
def maps(change: Callable[[Tensor], Tensor]) -> Callable[[], list[Any]]:
    return lambda: [
        (x, change((x.mean(1) > 0.7).long() + (y > 1).long()[:, None, None])) for x, y in pairs()
    ]


SEGMENT: dict[str, Any] = {"network": "segmenter", "teacher": "logits"}
form("maps of classes", **SEGMENT, plain=maps(lambda m: m), epochs=1)(maps(lambda m: m))
form("maps of bytes", **SEGMENT, plain=maps(lambda m: m))(maps(lambda m: m.byte()))
form("maps of one channel", **SEGMENT, plain=maps(lambda m: m))(maps(lambda m: m[:, None]))
form("maps with −100", **SEGMENT, prune_refused="hold -100", measured=True)(
    maps(lambda m: m.masked_fill(m == 2, -100))
)
form("maps of another size", "segmenter", teacher="logits", prune_refused="shape")(
    maps(lambda m: m[:, ::2, ::2])
)
form("maps of floats", "segmenter", teacher="logits", prune_refused="class|shape")(
    maps(lambda m: m.float())
)
form("maps with a class too many", "segmenter", teacher="logits", prune_refused="run from")(
    maps(lambda m: m * 7)
)


def sentences() -> list[Any]:
    ids = torch.randint(0, 20, (32, 6), generator=torch.Generator().manual_seed(1))
    return [(ids[i : i + 16], (ids[i : i + 16] + 1) % 20) for i in (0, 16)]


SPEAK: dict[str, Any] = {"network": "language", "teacher": "logits"}
form("tokens", **SPEAK, plain=sentences, epochs=1)(sentences)
form("tokens of int32", **SPEAK, plain=sentences)(
    lambda: [(x.int(), y.int()) for x, y in sentences()]
)
form("tokens as Transformers do", **SPEAK, plain=sentences)(
    lambda: [
        {"input_ids": x, "attention_mask": torch.ones_like(x), "labels": y} for x, y in sentences()
    ]
)
form("tokens with −100", **SPEAK, prune_refused="hold -100", measured=True)(
    lambda: [(x, y.masked_fill(x > 12, -100)) for x, y in sentences()]
)
form("tokens in words", "language", refused="word|str|text|tensor")(
    lambda: [(["a b c"] * 4, torch.zeros(4).long())]
)


def table(change: Callable[[Tensor], Tensor]) -> Callable[[], Iterable[Any]]:
    def make() -> Iterable[Any]:
        x = drawn(32, 6)
        y = change(x[:, :1] * 2 - x[:, 1:2])
        return [(x[i : i + 16], y[i : i + 16]) for i in (0, 16)]

    return make


FIT: dict[str, Any] = {"teacher": "targets", "prune_refused": "class", "loss": "mse"}
form("numbers (B, 1)", "regressor", **FIT)(table(lambda y: y))
form("numbers (B,) for an output (B, 1)", "regressor", **FIT)(table(lambda y: y[:, 0]))
form("numbers (B, 1) for an output (B,)", "regressor of (B,)", **FIT)(table(lambda y: y))
form("numbers of float64", "regressor", **FIT)(table(lambda y: y.double()))
form("classes for one output", "regressor", refused="one output")(table(lambda y: (y > 0).long()))
