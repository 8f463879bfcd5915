"""One reader for every form of batch."""

from __future__ import annotations

from collections import UserDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from prunus.batches import Batches, Inputs, length, parse, read, rereadable
from prunus.core import DataError

X, Y = torch.arange(12.0).view(4, 3), torch.tensor([0, 1, 0, 1])


class One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Two(One):
    def forward(self, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:  # type: ignore[override]
        return self.layer(a + b * scale)


class Named(One):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **rest: object):
        return self.layer(input_ids)


class Anything(One):
    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return self.layer(args[0])


@pytest.mark.parametrize(
    "given",
    [
        (X, Y),
        [X, Y],
        (X, Y, torch.arange(4)),
        (X, Y, ["a.png", "b.png", "c.png", "d.png"]),
        {"image": X, "label": Y},
        {"pixel_values": X, "labels": Y},
        {"x": X, "targets": Y},
        {"image": X, "label": Y, "index": torch.arange(4)},
        UserDict(image=X, label=Y),
        (X.numpy(), Y.numpy()),
        (X, Y.tolist()),
        (X.double(), Y),
        ({"x": X}, Y),
        ((X,), Y),
    ],
)
@pytest.mark.parametrize("net", [One, Anything])
def test_one_input(given, net) -> None:
    (batch,) = read([given], net())
    if net is One or not isinstance(given, (dict, UserDict)):
        torch.testing.assert_close(batch.inputs.tensors[0], X)
    assert batch.labels.tolist() == Y.tolist()


@pytest.mark.parametrize(
    "given",
    [
        ((X, X + 1), Y),
        ([X, X + 1], Y),
        (X, X + 1, Y),
        (X, X + 1, Y, "rest"),
        {"a": X, "b": X + 1, "label": Y},
        ({"a": X, "b": X + 1}, Y),
        (Inputs((X,), {"b": X + 1}), Y),
    ],
)
def test_two_inputs(given) -> None:
    net = Two()
    (batch,) = read([given], net)
    torch.testing.assert_close(batch.inputs(net), net(X, X + 1))
    assert batch.labels.tolist() == Y.tolist()


def test_names_of_the_network_come_first() -> None:
    tokens = torch.ones(4, 3, dtype=torch.long)
    given = {"input_ids": tokens, "attention_mask": tokens, "labels": Y, "idx": Y}
    (batch,) = read([given], Named())
    assert list(batch.inputs.kwargs) == ["input_ids", "attention_mask"]
    assert batch.inputs.kwargs["input_ids"].dtype == torch.long


@pytest.mark.parametrize("given", [X, X.numpy(), (X,), {"x": X}])
def test_images_alone(given) -> None:
    (batch,) = read([given], One())
    assert batch.labels is None
    assert batch.size == 4


def test_type_and_device_follow_the_network() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        (batch,) = read([(X, Y)], One().to(dtype))
        assert batch.inputs.tensors[0].dtype == dtype


def test_empty_batches_are_left_out_and_counts_kept() -> None:
    loader = [(X[:0], Y[:0]), (X, Y), (X[:1], Y[:1])]
    assert [batch.size for batch in read(loader, One())] == [4, 1]
    assert [batch.size for batch in read(loader, One(), batches=2)] == [4]
    assert len(read(loader, One())) == 3
    met = []

    def progress(given):
        for each in given:
            met.append(each)
            yield each

    list(read(loader, One(), progress))
    assert met == loader


def test_data_loaders() -> None:
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(zip(X, Y, strict=True))

    plain = DataLoader(TensorDataset(X, Y), batch_size=3)
    stream = DataLoader(Stream(), batch_size=3)
    for loader in (plain, stream):
        assert [batch.size for batch in read(loader, One())] == [3, 1]
    assert length(plain) == 2
    assert length(stream) is None
    assert Batches(plain).sampler is plain.sampler


def test_an_iterator_is_kept(monkeypatch) -> None:
    for loader in (rereadable(iter([(X, Y)])), Batches(b for b in [(X, Y)])):
        assert [batch.size for batch in read(loader, One())] == [4]
        assert [batch.size for batch in read(loader, One())] == [4]
    listed = [(X, Y)]
    assert rereadable(listed) is listed
    monkeypatch.setattr("prunus.batches.reading.CACHE", 50)
    with pytest.raises(DataError, match=r"list_iterator.*only once.*give a DataLoader"):
        rereadable(iter([(X, Y)]))


def test_bytes_ask_for_a_transform() -> None:
    photos = torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(DataError, match=r"uint8 of shape \(2, 1, 4, 4\).*transform="):
        list(read([(photos, Y[:2])], net))
    (batch,) = read(Batches([(photos, Y[:2])], transform=lambda x: x / 255), net)
    assert batch.inputs.tensors[0].max() == 1
    assert next(iter(Batches([(photos, Y[:2])], transform=lambda x: x / 255))).size == 2


def test_a_network_that_reads_bytes_gets_them() -> None:
    class Scaled(nn.Sequential):
        def forward(self, x):
            return super().forward(x.float() / 255)

    photos = torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)
    net = Scaled(nn.Flatten(), nn.Linear(16, 2), nn.Dropout())
    (batch,) = read([(photos, Y[:2])], net)
    assert batch.inputs.tensors[0].dtype == torch.uint8
    assert net[2].training


def test_a_reader_of_ones_own() -> None:
    loader = [{"picture": X, "caption": ["a"] * 4, "kind": Y}]
    batches = Batches(loader, reader=lambda b: (b["picture"], b["kind"]))
    (batch,) = read(batches, One())
    assert batch.labels is Y
    with pytest.raises(DataError, match=r"reader= returned a Tensor, expected the two"):
        list(read(Batches(loader, reader=lambda b: b["picture"]), One()))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "a batch of the loader is a int, expected images"),
        ("text", "a batch of the loader is a str"),
        ({}, "a mapping with nothing"),
        ({"a": X, "b": X, "label": Y}, "a mapping with a, b, label.*takes x.*reader="),
        (([X, X[:2]], Y), r"a list of 2, of shapes \(2, 3\), \(4, 3\): stack"),
        ((X, ["cat", "dog", "cat", "dog"]), "labels of a batch are a list with 'cat'"),
    ],
)
def test_what_cannot_be_read(given, message) -> None:
    with pytest.raises(DataError, match=message):
        list(read([given], One()))


def test_a_batch_is_read_once() -> None:
    batch = parse((np.zeros((2, 3), dtype=np.float32), [0, 1]))
    assert parse(batch) is batch
