"""Several inputs, named inputs, several outputs, outputs of a class of their own."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.batches import Heads
from tests.borders.case import image, network, rows, steps, tokens
from tests.borders.networks.convolutional import Conv, Head


def pair(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, 8, 8), torch.randn(n, 3, 8, 8)


@network(pair, cuts=("trunk.0.0", "trunk.1.0"))
class Siamese(nn.Module):
    """One trunk, run on both inputs; the difference is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = nn.Sequential(Conv(3, 10, 3), Conv(10, 12, 3)), nn.Linear(12, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head((self.trunk(a) - self.trunk(b)).abs().mean((2, 3)))


@network(
    lambda n: (torch.randn(n, 3, 8, 8), torch.randn(n, 6)), cuts=("image.0", "table", "hidden")
)
class TwoTowers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.table = Conv(3, 10, 3), nn.Linear(6, 12)
        self.hidden, self.head = nn.Linear(22, 16), nn.Linear(16, 4)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        both = torch.cat((self.image(image).mean((2, 3)), F.relu(self.table(table))), 1)
        return self.head(F.relu(self.hidden(both)))


@network(
    lambda n: {"pixel_values": torch.randn(n, 3, 8, 8), "input_ids": torch.randint(0, 20, (n, 5))},
    cuts=("image.0", "text_hidden"),
)
class Clip(nn.Module):
    """Two towers with raw projections, keyword arguments, scores between them."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.embed, self.text_hidden = (
            Conv(3, 12, 3),
            nn.Embedding(20, 12),
            nn.Linear(12, 14),
        )
        self.visual_projection = nn.Parameter(torch.randn(12, 8) * 0.3)
        self.text_projection = nn.Parameter(torch.randn(14, 8) * 0.3)
        self.prompts = nn.Parameter(torch.randn(4, 8))

    def forward(self, *, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        v = F.normalize(self.image(pixel_values).mean((2, 3)) @ self.visual_projection, dim=-1)
        t = F.relu(self.text_hidden(self.embed(input_ids).mean(1))) @ self.text_projection
        return (v + F.normalize(t, dim=-1)) @ self.prompts.t()


@network(lambda n: {"x": torch.randn(n, 3, 8, 8)}, cuts=("a.0", "b.0"))
class KeywordOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = Conv(3, 10, 3), Conv(10, 12, 3), Head(12)

    def forward(self, *, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.head(self.b(self.a(x * scale)))


@network(
    lambda n: ({"image": torch.randn(n, 3, 8, 8), "where": torch.randn(n, 2)},), cuts=("a.0", "b.0")
)
class TakesDictionary(nn.Module):
    """forward(inputs), a dictionary as its one argument."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = Conv(3, 10, 3), Conv(10, 12, 3), nn.Linear(14, 4)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        x = self.b(self.a(inputs["image"])).mean((2, 3))
        return self.head(torch.cat((x, inputs["where"]), 1))


@network(lambda n: (torch.randn(n, 3, 8, 8), torch.rand(n)), cuts=("a.0", "b.0", "time.0"))
class TimeConditioned(nn.Module):
    """Diffusion: a time of shape (B,) scales and shifts the channels (FiLM)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = Conv(3, 10, 3), Conv(10, 12, 3), Head(12)
        self.time = nn.Sequential(nn.Linear(4, 12), nn.SiLU(), nn.Linear(12, 20))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.tensor([1.0, 10.0])
        scale, shift = self.time(torch.cat((angles.sin(), angles.cos()), 1)).chunk(2, 1)
        x = self.a(x) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        return self.head(self.b(x))


@network(lambda n: (torch.randn(n, 5, 6), torch.rand(n, 5, 5).softmax(-1)), cuts=("one", "two"))
class GraphConvolution(nn.Module):
    """GCN: relu(A X W), the adjacency is an input."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(6, 12), nn.Linear(12, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        x = F.relu(adjacency @ self.one(x))
        x = F.relu(torch.bmm(adjacency, self.two(x)))
        return self.head(x.mean(1))


@network(lambda n: (torch.randint(0, 20, (n, 6)), torch.ones(n, 6, dtype=torch.bool)), cuts=("up",))
class MaskedEncoder(nn.Module):
    """Tokens and an attention mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attn = nn.Embedding(20, 12), nn.MultiheadAttention(12, 2, batch_first=True)
        self.up, self.down, self.head = nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embed(input_ids)
        x = x + self.attn(x, x, x, key_padding_mask=~attention_mask, need_weights=False)[0]
        x = x + self.down(F.gelu(self.up(x)))
        m = attention_mask[..., None].to(x.dtype)
        return self.head((x * m).sum(1) / m.sum(1))


@network(
    lambda n: {"src": torch.randn(n, 4, 12), "tgt": torch.randn(n, 3, 12)},
    cuts=("core.encoder.layers.0.linear1", "core.decoder.layers.0.linear1"),
)
class EncoderDecoder(nn.Module):
    """nn.Transformer, both halves."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.Transformer(12, 2, 1, 1, 16, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        return self.head(self.core(src, tgt).mean(1))


@network(lambda n: (torch.randn(n, 6), torch.randn(n, 8)), cuts=("a.inputs", "b.inputs"))
class BilinearLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.both, self.head = (
            nn.Linear(6, 10),
            nn.Linear(8, 12),
            nn.Bilinear(10, 12, 14),
            nn.Linear(14, 4),
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(F.relu(self.both(F.relu(self.a(x)), F.relu(self.b(y)))))


class Trunk(nn.Module):
    """Two convolutions and a classifier, for networks with outputs of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.f = Conv(3, 10, 3), Conv(10, 12, 3), nn.Linear(12, 4)


@network(image(), cuts=("a.0",), export="onnx")
class LogitsAndFeatures(Trunk):
    """The features are an output, so what makes them stays."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.b(self.a(x)).mean((2, 3))
        return self.f(h), h


@network(image(), cuts=("b.0",))
class NamedLogits(Trunk):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.a(x)
        return {"energy": x.pow(2).mean((1, 2, 3)), "logits": self.f(self.b(x).mean((2, 3)))}


@network(image(), cuts=("a.0", "b.0"), output="kind")
class DictionaryOfHeads(Trunk):
    """No usual name: output= is needed."""

    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.b(self.a(x)).mean((2, 3))
        return {"colour": self.g(h), "kind": self.f(h)}


@network(image(), cuts=("a.0", "b.0"), steps_refused="output=", prune_refused="output=")
class DictionaryNotNamed(DictionaryOfHeads):
    """The same, and nobody says which."""


class Made(NamedTuple):
    features: Tensor
    scores: Tensor


@network(image(), cuts=("a.0",))
class NamedTupleOutput(Trunk):
    def forward(self, x: Tensor) -> Made:
        h = self.b(self.a(x)).mean((2, 3))
        return Made(h, self.f(h))


class ModelOutput(OrderedDict[str, Any]):
    """As Hugging Face's: an ordered dictionary whose keys are attributes, without empty ones."""

    def __init__(self, **fields: Any) -> None:
        super().__init__({k: v for k, v in fields.items() if v is not None})

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


@network(image(), cuts=("a.0", "b.0"))
class HuggingFaceOutput(Trunk):
    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ModelOutput:
        logits = self.f(self.b(self.a(pixel_values)).mean((2, 3)))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ModelOutput(loss=loss, logits=logits, hidden_states=None)


@dataclass
class Prediction:
    logits: Tensor
    sure: Tensor


@network(image(), cuts=("a.0", "b.0"))
class DataclassOutput(Trunk):
    def forward(self, x: Tensor) -> Prediction:
        logits = self.f(self.b(self.a(x)).mean((2, 3)))
        return Prediction(logits, logits.softmax(1).amax(1))


@network(image(), cuts=("c.0",), output=-1)
class ListOfStages(nn.Module):
    """A backbone that returns its stages, and scores last."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.f = (
            Conv(3, 8, 3),
            Conv(8, 10, 3, 2),
            Conv(10, 12, 3),
            nn.Linear(12, 4),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        one = self.a(x)
        two = self.b(one)
        return [one, two, self.f(self.c(two).mean((2, 3)))]


@network(image(), cuts=("a.0", "b.0", "early"))
class AuxiliaryHead(Trunk):
    """Heads in training, the main one in evaluation, as GoogLeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.aux = nn.Linear(10, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        main = self.f(self.b(x).mean((2, 3)))
        if not self.training:
            return main
        return Heads((main, self.aux(F.relu(self.early(x.mean((2, 3)))))))


@network(image(), cuts=("b.0",), output=lambda made: made["out"]["kind"])
class NestedOutput(Trunk):
    def forward(self, x: Tensor) -> dict[str, Any]:
        h = self.a(x)
        return {"out": {"kind": self.f(self.b(h).mean((2, 3))), "sum": h.sum((1, 2, 3))}, "n": 3}


@network(
    image(),
    cuts=("a.0", "b.0"),
    writes=("sure",),
    export="pt2",
    export_refused="cannot be exported",
)
class EarlyExit(Trunk):
    """One of two ways, as the values say."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.sure = nn.Linear(10, 4), 0.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        soon = self.early(x.mean((2, 3)))
        self.sure = float(soon.softmax(1).amax(1).mean())
        return soon if self.sure > 0.95 else self.f(self.b(x).mean((2, 3)))


@network(image(), cuts=("a.0", "b.0"))
class LooksAtValues(Trunk):
    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 100:
            x = x / 255
        assert torch.isfinite(x).all()
        return self.f(self.b(self.a(x)).mean((2, 3)))


@network(rows(6), cuts=("0",))
def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))


@network(tokens(), cuts=("b",))
class IntegerAndFloat(nn.Module):
    """Looks up, and scales by a learnt number."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.b, self.head = nn.Embedding(20, 10), nn.Linear(10, 14), nn.Linear(14, 4)
        self.logit_scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(F.relu(self.b(self.e(ids).amax(1)))) * self.logit_scale.exp()


@network(steps(4, 3), cuts=("0", "2"))
def point_cloud() -> nn.Module:
    """PointNet: shared layers over points, the maximum."""

    class Most(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.amax(1)

    return nn.Sequential(
        nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 16), nn.ReLU(), Most(), nn.Linear(16, 4)
    )
