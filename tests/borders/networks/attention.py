"""Transformers of images: ViT and its variants, Swin, XCA, linear attention, mixers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.borders.case import image, network, steps

WIDTH = 16


class Mlp(nn.Module):
    def __init__(self, width: int = WIDTH, hidden: int = 24) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Attention(nn.Module):
    """timm's: one linear layer for queries, keys and values."""

    def __init__(self, fused: bool = True, written: bool = False, heads: int = 4) -> None:
        super().__init__()
        width = WIDTH
        self.num_heads, self.head_dim = heads, width // heads
        self.fused, self.written = fused, written
        self.scale = self.head_dim**-0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = (q * self.scale @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(b, n, c if self.written else -1))


class Block(nn.Module):
    def __init__(self, attention: nn.Module, width: int = WIDTH, scale: bool = False) -> None:
        super().__init__()
        self.n1, self.attn, self.n2, self.mlp = (
            nn.LayerNorm(width),
            attention,
            nn.LayerNorm(width),
            Mlp(width),
        )
        self.g1 = nn.Parameter(torch.full((width,), 1e-5)) if scale else None
        self.g2 = nn.Parameter(torch.full((width,), 1e-5)) if scale else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.attn(self.n1(x))
        x = x + (y if self.g1 is None else y * self.g1)
        y = self.mlp(self.n2(x))
        return x + (y if self.g2 is None else y * self.g2)


class Vit(nn.Module):
    """A ViT whose tokens are put together as `how` says."""

    def __init__(self, how: str, block: nn.Module, prefix: int = 1) -> None:
        super().__init__()
        self.how, self.embed = how, nn.Conv2d(3, WIDTH, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, prefix, WIDTH) * 0.1)
        count = 4 if how in ("before", "mean") else 4 + prefix
        self.pos = nn.Parameter(torch.randn(1, count, WIDTH) * 0.1)
        self.block, self.norm, self.head = block, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        cls = self.cls.expand(x.shape[0], -1, -1)
        if self.how == "after":
            x = torch.cat((cls, x), 1) + self.pos
        elif self.how == "before":
            x = torch.cat((cls, x + self.pos), 1)
        else:
            x = x + self.pos
        x = self.norm(self.block(x))
        return self.head(x.mean(1) if self.how == "mean" else x[:, 0])


@network(image(), cuts=("embed", "block.mlp.up", "block.attn.proj"), export="onnx")
def vit() -> nn.Module:
    return Vit("after", Block(Attention()))


@network(image(), cuts=("block.mlp.up",))
def vit_written_width() -> nn.Module:
    """.reshape(b, n, c) with the c that arrived: it ties the stream to the heads."""
    return Vit("after", Block(Attention(written=True)))


@network(image(), cuts=("embed", "block.mlp.up"))
def vit_position_before_class() -> nn.Module:
    return Vit("before", Block(Attention(fused=False)))


@network(image(), cuts=("embed", "block.mlp.up"))
def vit_registers() -> nn.Module:
    return Vit("before", Block(Attention(), scale=True), prefix=5)


@network(image(), cuts=("embed", "block.mlp.up"))
def vit_layer_scale_mean() -> nn.Module:
    return Vit("mean", Block(Attention(), scale=True))


@network(image(), cuts=("embed", "block.mlp.up"))
class DistilledVit(nn.Module):
    """DeiT: two tokens, two heads, averaged in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.norm = (
            nn.Conv2d(3, WIDTH, 4, 4),
            Block(Attention()),
            nn.LayerNorm(WIDTH),
        )
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.dist = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos = nn.Parameter(torch.randn(1, 6, WIDTH))
        self.head, self.head_dist = nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        b = len(x)
        x = torch.cat((self.cls.expand(b, -1, -1), self.dist.expand(b, -1, -1), x), 1) + self.pos
        x = self.norm(self.block(x))
        return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2


@network(image(), cuts=("embed", "block.mlp.up"))
def vit_query_key_norm() -> nn.Module:
    class Normed(nn.Module):
        """LayerNorm over the dimensions of each head: only whole heads can go."""

        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.q_norm, self.k_norm = nn.LayerNorm(4), nn.LayerNorm(4)

        def forward(self, x: Tensor) -> Tensor:
            b, n, _ = x.shape
            q, k, v = self.qkv(x).reshape(b, n, 3, -1, 4).permute(2, 0, 3, 1, 4).unbind(0)
            x = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
            return self.proj(x.transpose(1, 2).reshape(b, n, -1))

    return Vit("after", Block(Normed()))


@network(image(), cuts=("embed", "block.mlp.up", "block.attn.qkv"))
def cross_covariance() -> nn.Module:
    class Xca(nn.Module):
        """XCiT: attention between channels; here its width is read from the tensor."""

        def __init__(self, heads: int = 4) -> None:
            super().__init__()
            self.num_heads, self.temperature = heads, nn.Parameter(torch.ones(heads, 1, 1))
            self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            b, n, _ = x.shape
            qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 4, 1)
            q, k, v = qkv.unbind(0)  # (b, heads, channels, n)
            a = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
            x = (a * self.temperature).softmax(-1) @ v
            return self.proj(x.permute(0, 3, 1, 2).reshape(b, n, -1))

    return Vit("after", Block(Xca()))


@network(image(), cuts=("embed", "block.mlp.up", "block.attn.v"))
def linear_attention() -> nn.Module:
    class Linear(nn.Module):
        """φ(q)(φ(k)ᵀv), φ = elu + 1."""

        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
            self.proj = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            b, n, _ = x.shape
            q, k, v = (f(x).view(b, n, -1, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
            q, k = F.elu(q) + 1, F.elu(k) + 1
            z = 1 / (q * k.sum(2, keepdim=True)).sum(-1, keepdim=True)
            x = q @ (k.transpose(-2, -1) @ v) * z
            return self.proj(x.transpose(1, 2).reshape(b, n, -1))

    return Vit("after", Block(Linear()))


@network(image(size=16), cuts=("mlp.up", "merge"))
class ShiftedWindows(nn.Module):
    """Swin: windows of 2×2, rolled by one, relative position biases; then merged."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, WIDTH, 4, 4), nn.LayerNorm(WIDTH)
        self.qkv, self.proj, self.mlp = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), Mlp()
        self.table = nn.Parameter(torch.randn(9, 4) * 0.1)
        self.register_buffer("index", torch.arange(16).view(4, 4) % 9)
        self.merge, self.last, self.head = (
            nn.Linear(4 * WIDTH, 20),
            nn.LayerNorm(20),
            nn.Linear(20, 4),
        )

    def attend(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, c // 4).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1)
        a = (q * (c // 4) ** -0.5 @ k.transpose(-2, -1) + bias).softmax(-1)
        return self.proj((a @ v).transpose(1, 2).reshape(b, n, c))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-1, -1), (1, 2))
        y = y.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        y = self.attend(y).view(b, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5)
        x = x + torch.roll(y.reshape(b, h, w, c), (1, 1), (1, 2))
        x = x + self.mlp(x)
        parts = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.head(self.last(self.merge(torch.cat(parts, -1))).mean((1, 2)))


@network(image(), cuts=("embed", "channels.up", "positions.up"))
class MlpMixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.n1, self.n2 = (
            nn.Conv2d(3, WIDTH, 2, 2),
            nn.LayerNorm(WIDTH),
            nn.LayerNorm(WIDTH),
        )
        self.positions, self.channels, self.head = Mlp(16, 20), Mlp(), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.positions(self.n1(x).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.channels(self.n2(x))).mean(1))


@network(image(), cuts=("embed", "up"))
class GatedMlp(nn.Module):
    """gMLP: half of the channels gates the other half after a mix of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, WIDTH, 2, 2), nn.LayerNorm(WIDTH)
        self.up, self.mix, self.down = (
            nn.Linear(WIDTH, 32),
            nn.Conv1d(16, 16, 1),
            nn.Linear(16, WIDTH),
        )
        self.inner, self.head = nn.LayerNorm(16), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        u, v = F.gelu(self.up(self.norm(x))).chunk(2, -1)
        return self.head((x + self.down(u * self.mix(self.inner(v)))).mean(1))


@network(image(), cuts=("embed", "up"))
class PoolFormer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.n1, self.n2 = (
            nn.Conv2d(3, 12, 2, 2),
            nn.GroupNorm(1, 12),
            nn.GroupNorm(1, 12),
        )
        self.up, self.down, self.head = nn.Conv2d(12, 20, 1), nn.Conv2d(20, 12, 1), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.n1(x)
        x = x + F.avg_pool2d(y, 3, 1, 1, count_include_pad=False) - y
        return self.head((x + self.down(F.gelu(self.up(self.n2(x))))).mean((2, 3)))


@network(steps(6, 8), cuts=("first", "last.0"))
class MultiheadAttention(nn.Module):
    """PyTorch's own, with weights that are handed on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.attn = (
            nn.Linear(8, WIDTH),
            nn.MultiheadAttention(WIDTH, 4, batch_first=True),
        )
        self.last = nn.Sequential(nn.Linear(WIDTH, 24), nn.ReLU(), nn.Linear(24, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y, _ = self.attn(x, x, x, need_weights=False)
        return self.last((x + y).mean(1))


@network(steps(6, 8), cuts=("last.0",))
class AttentionWithOtherKeys(nn.Module):
    """MultiheadAttention with kdim and vdim: three weights instead of one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.keys = nn.Linear(8, WIDTH), nn.Linear(8, 12)
        self.attn = nn.MultiheadAttention(WIDTH, 4, kdim=12, vdim=12, batch_first=True)
        self.last = nn.Sequential(nn.Linear(WIDTH, 24), nn.ReLU(), nn.Linear(24, 4))

    def forward(self, x: Tensor) -> Tensor:
        k = self.keys(x)
        return self.last(self.attn(self.first(x), k, k)[0].mean(1))


@network(steps(6, 8), cuts=("first", "encoder.layers.0.linear1"))
class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 24, dropout=0.1, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.first(x)).mean(1))


@network(
    steps(6, 8),
    cuts=("first", "last.0"),
)
class LearntQueries(nn.Module):
    """DETR, Perceiver: learnt queries attend to the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.queries = nn.Linear(8, WIDTH), nn.Parameter(torch.randn(3, WIDTH))
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.last = nn.Sequential(nn.Linear(WIDTH, 24), nn.ReLU(), nn.Linear(24, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        b, n, _ = x.shape
        q = self.q(self.queries).view(3, 4, -1).transpose(0, 1).expand(b, -1, -1, -1)
        k, v = (f(x).view(b, n, 4, -1).transpose(1, 2) for f in (self.k, self.v))
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, 3, -1)
        return self.last(self.o(x).mean(1))


@network(steps(6, 8), cuts=("up",))
class FourierNet(nn.Module):
    """FNet: the real part of a 2-D FFT mixes tokens and channels, so the stream stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(8, 12), nn.LayerNorm(12)
        self.up, self.down, self.head = nn.Linear(12, 24), nn.Linear(24, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.norm(x + torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real)
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))
