"""Networks of tokens: GPT-2, Llama, Mistral, T5, BERT shapes, tied heads, experts."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.borders.case import classes, network, tokens
from tests.borders.networks.attention import Mlp

WIDTH, VOCABULARY = 16, 20
TOKENS = {"labels": classes(VOCABULARY, 6), "teacher": "logits"}


class Conv1D(nn.Module):
    """Hugging Face's linear layer of GPT-2: its weight is the transpose of nn.Linear's."""

    def __init__(self, o: int, i: int) -> None:
        super().__init__()
        self.nf = o
        self.weight, self.bias = nn.Parameter(torch.randn(i, o) * 0.2), nn.Parameter(torch.zeros(o))

    def forward(self, x: Tensor) -> Tensor:
        size = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(size)


class RmsNorm(nn.Module):
    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        square = x.float().pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(square + self.variance_epsilon)).to(x.dtype)


def rotate_half(x: Tensor) -> Tensor:
    one, two = x.chunk(2, -1)
    return torch.cat((-two, one), -1)


class Rotary(nn.Module):
    """Rotary positions, half against half, tables as buffers."""

    def __init__(self, width: int, length: int = 16) -> None:
        super().__init__()
        angles = torch.outer(
            torch.arange(length).float(), 100 ** -(torch.arange(0, width, 2) / width)
        )
        self.register_buffer("cos", torch.cat((angles, angles), -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angles, angles), -1).sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[-2]
        return x * self.cos[:n] + rotate_half(x) * self.sin[:n]


class GroupedQuery(nn.Module):
    """Fewer heads of keys and values than of queries, joined as `how` says."""

    def __init__(self, how: str, heads: int = 4, shared: int = 2, rotary: bool = False) -> None:
        super().__init__()
        self.how, self.width = how, WIDTH // heads
        self.repeats = heads // shared
        self.q, self.o = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.k = nn.Linear(WIDTH, shared * self.width, bias=False)
        self.v = nn.Linear(WIDTH, shared * self.width, bias=False)
        self.rotary = Rotary(self.width) if rotary else None

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (
            f(x).view(b, n, -1, self.width).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        if self.how == "enable_gqa":
            x = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            if self.how == "repeat_interleave":
                k, v = (t.repeat_interleave(self.repeats, 1) for t in (k, v))
            else:  # Llama's repeat_kv
                k, v = (
                    t[:, :, None].expand(-1, -1, self.repeats, -1, -1).flatten(1, 2) for t in (k, v)
                )
            a = q @ k.transpose(-2, -1) / math.sqrt(self.width)
            a = a + torch.full((n, n), float("-inf")).triu(1)
            x = a.softmax(-1) @ v
        return self.o(x.transpose(1, 2).reshape(b, n, -1))


class GatedMlp(nn.Module):
    """SwiGLU: Llama, Mistral, Qwen."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = (
            nn.Linear(WIDTH, 24, bias=False),
            nn.Linear(WIDTH, 24, bias=False),
            nn.Linear(24, WIDTH, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Decoder(nn.Module):
    """Embedding, one block, norm, head; the head may be the embedding itself."""

    def __init__(
        self, attention: nn.Module, mlp: nn.Module, norm: type[nn.Module], tied: bool
    ) -> None:
        super().__init__()
        self.embed, self.attn, self.mlp = nn.Embedding(VOCABULARY, WIDTH), attention, mlp
        self.n1, self.n2, self.n3 = norm(WIDTH), norm(WIDTH), norm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        x = x + self.attn(self.n1(x))
        return self.head(self.n3(x + self.mlp(self.n2(x))))


@network(tokens(), cuts=("mlp.gate", "mlp.up", "attn.q"), **TOKENS)
def llama() -> nn.Module:
    return Decoder(GroupedQuery("repeat_kv", rotary=True), GatedMlp(), RmsNorm, tied=False)


@network(tokens(), cuts=("mlp.gate", "attn.q"), **TOKENS)
def mistral() -> nn.Module:
    return Decoder(GroupedQuery("enable_gqa"), GatedMlp(), nn.RMSNorm, tied=False)


@network(tokens(), cuts=("mlp.gate", "attn.q"), **TOKENS)
def qwen_tied() -> nn.Module:
    return Decoder(GroupedQuery("repeat_interleave", rotary=True), GatedMlp(), RmsNorm, tied=True)


@network(tokens(), cuts=("mlp.up",), **TOKENS)
def multi_query() -> nn.Module:
    return Decoder(GroupedQuery("enable_gqa", shared=1), Mlp(), nn.LayerNorm, tied=True)


@network(tokens(), cuts=("1.weight.T",))
def gpt2_blocks() -> nn.Module:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1)

    return nn.Sequential(
        nn.Embedding(VOCABULARY, WIDTH),
        Conv1D(24, WIDTH),
        nn.GELU(),
        Conv1D(WIDTH, 24),
        nn.LayerNorm(WIDTH),
        Mean(),
        nn.Linear(WIDTH, 4),
    )


@network(tokens(), cuts=("fc.weight.T",), **TOKENS)
class Gpt2(nn.Module):
    """Conv1D throughout, positions, a causal mask as a buffer, a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(8, WIDTH)
        self.ln_1, self.ln_2, self.ln_f = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.c_attn, self.c_proj = Conv1D(3 * WIDTH, WIDTH), Conv1D(WIDTH, WIDTH)
        self.fc, self.proj = Conv1D(32, WIDTH), Conv1D(WIDTH, 32)
        self.register_buffer("bias", torch.ones(8, 8).tril().bool().view(1, 1, 8, 8))
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        b, n = ids.shape
        x = self.wte(ids) + self.wpe(torch.arange(n, device=ids.device))
        q, k, v = (
            t.view(b, n, 4, WIDTH // 4).transpose(1, 2)
            for t in self.c_attn(self.ln_1(x)).split(WIDTH, 2)
        )
        a = q @ k.transpose(-1, -2) / math.sqrt(v.size(-1))
        a = a.masked_fill(~self.bias[:, :, :n, :n], float("-inf")).softmax(-1)
        x = x + self.c_proj((a @ v).transpose(1, 2).reshape(b, n, WIDTH))
        x = x + self.proj(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))
        return self.lm_head(self.ln_f(x))


@network(tokens(), cuts=("mlp.up",), **TOKENS)
class TiedLinear(nn.Module):
    """F.linear with the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mlp, self.norm = (
            nn.Embedding(VOCABULARY, WIDTH),
            Mlp(),
            nn.LayerNorm(WIDTH),
        )

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return F.linear(self.norm(x + self.mlp(x)), self.embed.weight)


@network(tokens(), cuts=("mlp.up",))
class BertClassifier(nn.Module):
    """Three embeddings added, attention, a pooler with tanh on the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.where, self.kind = (nn.Embedding(n, WIDTH) for n in (VOCABULARY, 8, 2))
        self.norm, self.attn = (
            nn.LayerNorm(WIDTH),
            nn.MultiheadAttention(WIDTH, 4, batch_first=True),
        )
        self.mlp, self.pool, self.head = Mlp(), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, input_ids: Tensor) -> Tensor:
        n = input_ids.shape[1]
        x = (
            self.embed(input_ids)
            + self.where(torch.arange(n))
            + self.kind(torch.zeros_like(input_ids))
        )
        x = self.norm(x)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return self.head(torch.tanh(self.pool((x + self.mlp(x))[:, 0])))


@network(tokens(), cuts=("attn.v",))
class T5Attention(nn.Module):
    """Relative position biases by bucket from an embedding, no scale."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
            self.buckets = nn.Embedding(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            b, n, _ = x.shape
            q, k, v = (f(x).view(b, n, -1, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
            where = torch.arange(n)
            bias = self.buckets((where[None] - where[:, None]).clamp(-4, 3) + 4).permute(2, 0, 1)
            a = (q @ k.transpose(-2, -1) + bias).softmax(-1)
            return self.o((a @ v).transpose(1, 2).reshape(b, n, -1))

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attn, self.norm = (
            nn.Embedding(VOCABULARY, WIDTH),
            self.Attention(),
            nn.RMSNorm(WIDTH),
        )
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head((x + self.attn(self.norm(x))).mean(1))


@network(tokens(), cuts=("mlp.up",))
class Alibi(nn.Module):
    """Linear biases by distance, one slope for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.o = (
            nn.Embedding(VOCABULARY, WIDTH),
            nn.Linear(WIDTH, 3 * WIDTH),
            nn.Linear(WIDTH, WIDTH),
        )
        self.register_buffer("slopes", 2.0 ** -torch.arange(1, 5).view(4, 1, 1))
        self.mlp, self.head = Mlp(), nn.Linear(WIDTH, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
        where = torch.arange(n)
        bias = -(where[:, None] - where[None]).abs() * self.slopes
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        x = x + self.o(y.transpose(1, 2).reshape(b, n, -1))
        return self.head((x + self.mlp(x)).mean(1))


@network(tokens(), cuts=("v",))
class InterleavedRotary(nn.Module):
    """RoPE as in GPT-J: even and odd dimensions are pairs, through complex numbers or not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, 4)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        angles = torch.outer(torch.arange(8.0), torch.tensor([1.0, 0.1]))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def turn(self, x: Tensor) -> Tensor:
        even, odd, n = x[..., ::2], x[..., 1::2], x.shape[-2]
        cos, sin = self.cos[:n], self.sin[:n]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, -1, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)
        return self.head((x + self.o(y.transpose(1, 2).reshape(b, n, -1))).mean(1))


@network(
    tokens(),
    cuts=("experts.0.up",),
)
class Experts(nn.Module):
    """A router sends each token to one of three experts, which see different tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.router = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, 3)
        self.experts = nn.ModuleList(Mlp() for _ in range(3))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids).flatten(0, 1)
        weight, chosen = self.router(x).softmax(-1).max(-1)
        y = torch.zeros_like(x)
        for at, expert in enumerate(self.experts):
            mine = (chosen == at).nonzero()[:, 0]
            if len(mine):
                y = y.index_add(0, mine, expert(x[mine]) * weight[mine, None])
        return self.head((x + y).view(*ids.shape, -1).mean(1))


@network(tokens(), cuts=("experts.0.up",))
class SoftExperts(nn.Module):
    """All experts run, and are weighed."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.router = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, 3)
        self.experts = nn.ModuleList(Mlp() for _ in range(3))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        weights = self.router(x).softmax(-1)
        parts = torch.stack([expert(x) for expert in self.experts], -1)
        return self.head((x + (parts * weights[..., None, :]).sum(-1)).mean(1))


@network(tokens(), cuts=("a",))
class EmbeddingBag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.a, self.b = (
            nn.EmbeddingBag(VOCABULARY, 12, mode="mean"),
            nn.Linear(12, 20),
            nn.Linear(20, 4),
        )

    def forward(self, ids: Tensor) -> Tensor:
        return self.b(F.relu(self.a(self.bag(ids))))


@network(tokens(), cuts=("a", "b"))
class TextCnn(nn.Module):
    """Convolutions of several widths over embeddings, the maximum over time."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.a, self.b = (
            nn.Embedding(VOCABULARY, 12),
            nn.Conv1d(12, 8, 2),
            nn.Conv1d(12, 8, 3),
        )
        self.head = nn.Linear(16, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids).transpose(1, 2)
        return self.head(torch.cat([F.relu(conv(x)).amax(-1) for conv in (self.a, self.b)], 1))
