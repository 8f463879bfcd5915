"""A pruned network takes the forms that the dense one takes: scripts, programs, files, copies."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.modules import Empty, HeadwiseAttention, SelectLinear
from tests.conftest import random_plan


class Attended(nn.Module):
    """The heads of an attention; with or without their weights, batch first or not."""

    def __init__(self, *, weights: bool, batch_first: bool) -> None:
        super().__init__()
        self.weights = weights
        self.embed = nn.Linear(8, 16)
        self.attend = nn.MultiheadAttention(16, 4, batch_first=batch_first)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y, _ = self.attend(x, x, x, need_weights=self.weights)
        z: Tensor = self.head(y)
        return z


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.Sequential(nn.Linear(8, 16), layer, nn.Linear(16, 3))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], type[nn.Module]]] = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4)),
        (12,),
        SelectLinear,
    ),
    "flattened": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4)),
        (3, 8, 8),
        SelectLinear,
    ),
    "attention": (lambda: Attended(weights=False, batch_first=True), (5, 8), HeadwiseAttention),
    "with weights": (lambda: Attended(weights=True, batch_first=False), (5, 8), HeadwiseAttention),
    "encoder": (encoder, (5, 8), HeadwiseAttention),
}


def scripted(model: nn.Module, x: Tensor) -> Any:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(model), file)
    file.seek(0)
    return torch.jit.load(file)


FORMS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "script": scripted,
    "program": lambda model, x: torch.export.export(model, (x,)).module(),
    "compiled": lambda model, x: torch.compile(model, backend="eager"),
    "pickle": lambda model, x: pickle.loads(pickle.dumps(model)),
    "copy": lambda model, x: copy.deepcopy(model),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("net", NETWORKS)
def test_a_pruned_network_takes_every_form(net: str, form: str) -> None:
    torch.manual_seed(0)
    make, shape, kind = NETWORKS[net]
    model, x = make().eval(), torch.randn(2, *shape)
    plan = random_plan(prunus.find_groups(model, x), seed=1)
    prunus.apply_(model, plan, compensate="none")
    assert any(isinstance(module, kind) for module in model.modules())
    torch.compiler.reset()
    with torch.no_grad():
        torch.testing.assert_close(FORMS[form](model, x)(x), model(x))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "old",
    [
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Conv1d(3, 4, 3, padding="same"),
        nn.Conv2d(3, 4, (3, 5), dilation=2, padding="valid"),
    ],
)
def test_an_empty_can_be_scripted(old: nn.Module) -> None:
    x = torch.randn(2, 3, 11, 12) if isinstance(old, nn.Conv2d) else torch.randn(2, 3, 11)
    shape = old(x).shape
    made = torch.jit.script(Empty(old))(x)
    assert made.shape == (2, 0, *shape[2:])


def test_all_forms_of_attention_are_one_function() -> None:
    """Scripted with masks, it computes what it computes called."""
    torch.manual_seed(0)
    model = Attended(weights=True, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    plan = random_plan(prunus.find_groups(model, x), seed=1)
    prunus.apply_(model, plan, compensate="none")
    attention = model.attend
    y = model.embed(x)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    causal = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
    with pytest.warns((FutureWarning, DeprecationWarning)):
        script = torch.jit.script(attention)
    for average in (True, False):
        options = {"key_padding_mask": padding, "attn_mask": causal}
        one = attention(y, y, y, average_attn_weights=average, **options)
        other = script(y, y, y, average_attn_weights=average, **options)
        torch.testing.assert_close(one, other)
