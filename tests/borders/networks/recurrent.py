"""Recurrent networks: PyTorch's, cells in a loop, ConvLSTM, CRNN, state-space scans."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.borders.case import image, network, steps
from tests.borders.networks.convolutional import Head


class Recurrent(nn.Module):
    """A linear layer, a recurrent one, a classifier of its last step."""

    def __init__(self, core: nn.Module, width: int = 12) -> None:
        super().__init__()
        self.first, self.core = nn.Linear(8, 12), core
        self.hidden, self.head = nn.Linear(width, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.core(F.relu(self.first(x)))
        return self.head(F.relu(self.hidden(y[:, -1])))


@network(steps(5, 8), cuts=("first", "hidden"))
def lstm() -> nn.Module:
    return Recurrent(nn.LSTM(12, 12, batch_first=True))


@network(steps(5, 8), cuts=("first", "hidden"))
def gru() -> nn.Module:
    return Recurrent(nn.GRU(12, 12, 2, batch_first=True))


@network(steps(5, 8), cuts=("first", "hidden"))
def rnn() -> nn.Module:
    return Recurrent(nn.RNN(12, 12, batch_first=True))


@network(steps(5, 8), cuts=("first", "hidden"))
def bidirectional_lstm() -> nn.Module:
    return Recurrent(nn.LSTM(12, 10, batch_first=True, bidirectional=True), 20)


@network(steps(5, 8), cuts=("first", "hidden"))
def projected_lstm() -> nn.Module:
    return Recurrent(nn.LSTM(12, 12, proj_size=8, batch_first=True), 8)


@network(steps(5, 8), cuts=("first", "hidden"))
class LstmCell(nn.Module):
    """A cell in a loop over time, from zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.cell = nn.Linear(8, 12), nn.LSTMCell(12, 12)
        self.hidden, self.head = nn.Linear(12, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        h = c = x.new_zeros(len(x), 12)
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
        return self.head(F.relu(self.hidden(h)))


@network(steps(5, 8), cuts=("hidden",))
class GruCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.hidden, self.head = nn.GRUCell(8, 12), nn.Linear(12, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = None
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.head(F.relu(self.hidden(h)))


@network(steps(5, 8), cuts=("head.0",))
class WrittenCell(nn.Module):
    """A gated cell of linear layers: the state is made and read by the same layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.gate = nn.Linear(8 + 12, 12), nn.Linear(8 + 12, 12)
        self.head = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), 12)
        for t in range(x.shape[1]):
            both = torch.cat((x[:, t], h), 1)
            z = torch.sigmoid(self.gate(both))
            h = z * h + (1 - z) * torch.tanh(self.inner(both))
        return self.head(h)


@network(lambda n: torch.randn(n, 3, 3, 6, 6), cuts=("stem",))
class ConvLstm(nn.Module):
    """One convolution makes the four gates from the frame and the state."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.cell, self.head = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(16, 32, 3, padding=1),
            Head(8),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, frames, _, height, width = x.shape
        h = c = torch.zeros(b, 8, height, width, device=x.device)
        for t in range(frames):
            gates = self.cell(torch.cat((F.relu(self.stem(x[:, t])), h), 1))
            i, f, o, g = gates.chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.head(h)


@network(image(channels=1, size=8), cuts=("a", "b"))
class Crnn(nn.Module):
    """Columns of a map become steps of a GRU: one channel is several of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, 1, 1), nn.Conv2d(8, 10, 3, 2, 1)
        self.rnn, self.head = nn.GRU(40, 12, batch_first=True), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x))))
        return self.head(self.rnn(x.permute(0, 3, 1, 2).flatten(2))[0][:, -1])


@network(steps(8, 6), cuts=("c",))
class ConvolutionGru(nn.Module):
    """BatchNorm before a GRU: what the norm adds reaches its input weights."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.n = nn.Conv1d(6, 12, 3, padding=1), nn.BatchNorm1d(12)
        self.rnn, self.head = nn.GRU(12, 10, batch_first=True), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.n(self.c(x.transpose(1, 2))))
        return self.head(self.rnn(x.transpose(1, 2))[0][:, -1])


@network(steps(8, 6), cuts=("first",))
class SelectiveScan(nn.Module):
    """A small Mamba: a scan with input-dependent decay, over channels apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rate = nn.Linear(6, 24), nn.Linear(12, 12)
        self.decay, self.head = nn.Parameter(torch.rand(12) + 0.5), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.first(x).chunk(2, -1)
        step = F.softplus(self.rate(u))
        h, made = torch.zeros_like(u[:, 0]), []
        for t in range(u.shape[1]):
            h = torch.exp(-step[:, t] * self.decay) * h + step[:, t] * u[:, t]
            made.append(h)
        return self.head((torch.stack(made, 1) * F.silu(gate)).mean(1))


@network(steps(12, 6), cuts=("layers.0", "layers.1"))
class TemporalConvolution(nn.Module):
    """TCN: causal padding, dilations, residual."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv1d(6 if i == 0 else 12, 12, 3, dilation=2**i) for i in range(3)
        )
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for i, layer in enumerate(self.layers):
            y = F.relu(layer(F.pad(x, (2 * 2**i, 0))))
            x = y if i == 0 else x + y
        return self.head(x[..., -1])


@network(steps(12, 6), cuts=("first", "filters.0"))
class WaveNet(nn.Module):
    """Dilated gates, residual and skip sums."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(6, 10, 1)
        self.filters = nn.ModuleList(nn.Conv1d(10, 12, 2, dilation=d) for d in (1, 2))
        self.gates = nn.ModuleList(nn.Conv1d(10, 12, 2, dilation=d) for d in (1, 2))
        self.back = nn.ModuleList(nn.Conv1d(12, 10, 1) for _ in range(2))
        self.skip = nn.ModuleList(nn.Conv1d(12, 8, 1) for _ in range(2))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.first(x.transpose(1, 2)), 0
        for f, g, back, skip in zip(self.filters, self.gates, self.back, self.skip, strict=True):
            y = torch.tanh(f(x)) * torch.sigmoid(g(x))
            x = x[..., -y.shape[-1] :] + back(y)
            total = total + skip(y)[..., -1]
        return self.head(F.relu(total))
