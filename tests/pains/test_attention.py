"""Pain 8: attention heads, of PyTorch's module, of timm and of Hugging Face's way to write them."""

import copy

import pytest
import timm
import torch
import transformers as hf
from torch import Tensor, nn
from torch.nn import functional as F

import prunus
from prunus.graph import Groups
from prunus.plan import plan_units
from prunus.surgery import apply_, mask_, replay_
from tests.pains.rival import check_cuts, torch_pruning_

WIDTH, HEADS = 12, 3
TOKENS = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))


class Builtin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(7, WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return self.head(x.mean(1))


class SelfAttention(nn.Module):
    """As the library transformers writes it: three layers, and sizes as numbers of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size = HEADS, WIDTH // HEADS
        self.all_head_size = WIDTH
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], self.num_attention_heads, self.attention_head_size)
        q, k, v = (f(x).view(shape).transpose(1, 2) for f in (self.query, self.key, self.value))
        scores = q @ k.transpose(-1, -2) / self.attention_head_size**0.5
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).contiguous()
        return mixed.view(*mixed.shape[:-2], self.all_head_size)


class Written(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(7, WIDTH)
        self.attn = SelfAttention()
        self.dense = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head((x + self.dense(self.attn(x))).mean(1))


def vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.models.vision_transformer.VisionTransformer(
        img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=4
    ).eval()


def built(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = kind()
    for parameter in model.parameters():  # biases begin at zero, which would hide how they are cut
        nn.init.normal_(parameter, std=0.5)
    return model.eval()


def test_8_torch_pruning_mixes_the_heads_of_pytorchs_attention() -> None:
    """It takes any dimensions and lays what is left out anew: a head holds parts of two."""
    dense = built(Builtin)
    model = copy.deepcopy(dense)
    torch_pruning_(model, TOKENS, ignored_layers=[model.head])
    assert (model.attn.num_heads, model.attn.head_dim) == (HEADS, 2)
    kept = (model.embed.bias[:, None] - dense.embed.bias).abs().argmin(1)
    rows = torch.cat([kept, WIDTH + kept, 2 * WIDTH + kept])
    assert torch.equal(model.attn.in_proj_bias, dense.attn.in_proj_bias[rows])
    came_from = kept.view(HEADS, 2) // (WIDTH // HEADS)
    assert (came_from[:, 0] != came_from[:, 1]).any()
    assert model(TOKENS).shape == (2, 4)  # it runs all the same


def test_8_torch_pruning_does_nothing_once_heads_are_declared() -> None:
    model = built(Builtin)
    torch_pruning_(model, TOKENS, ignored_layers=[model.head], num_heads={model.attn: HEADS})
    assert (model.embed.out_features, model.attn.embed_dim) == (WIDTH, WIDTH)


@pytest.mark.parametrize("declared", [False, True])
def test_8_torch_pruning_breaks_timm_and_hand_written_attention(declared: bool) -> None:
    model = built(Written)
    heads = {model.attn.query: HEADS, model.attn.key: HEADS, model.attn.value: HEADS}
    options = {"num_heads": heads} if declared else {}
    with pytest.raises(RuntimeError, match=r"shape '.*' is invalid"):
        torch_pruning_(model, TOKENS, ignored_layers=[model.head], **options)(TOKENS)
    model = vit()
    options = {"num_heads": {b.attn.qkv: 3 for b in model.blocks}} if declared else {}
    x = torch.randn(2, 3, 16, 16)
    with pytest.raises(RuntimeError, match=r"shape '.*' is invalid"):
        torch_pruning_(model, x, ignored_layers=[model.head], **options)(x)


def heads_of(groups: Groups, name: str) -> str:
    """Return the group whose units are the heads of the attention `name`."""
    return next(
        g.name
        for g in groups.values()
        if g.units == HEADS and any(m.module.startswith(name) for m in g.members)
    )


def lose_a_head(model: nn.Module, name: str, example: Tensor) -> nn.Module:
    """Check all cuts; then cut one head, train a step, and take the cut up from its plan."""
    groups = check_cuts(model, example)
    plan = plan_units(groups, {heads_of(groups, name): [1]})
    cut = copy.deepcopy(model)
    apply_(cut, plan)
    cut.train()
    F.cross_entropy(cut(example), torch.tensor([0, 1])).backward()
    torch.optim.SGD(cut.parameters(), 0.1).step()
    again = replay_(copy.deepcopy(model), plan)
    again.load_state_dict(cut.state_dict())
    torch.testing.assert_close(again.eval()(example), cut.eval()(example), rtol=0, atol=0)
    return cut


def test_8_hand_written_heads_go_whole() -> None:
    cut = lose_a_head(built(Written), "attn", TOKENS)
    assert (cut.attn.num_attention_heads, cut.attn.all_head_size) == (HEADS - 1, 8)
    assert cut.attn.query.out_features == cut.attn.value.out_features == cut.dense.in_features == 8


def test_8_hugging_faces_heads_go_whole() -> None:
    """Its output is no tensor but a `ModelOutput`, and so is that of the cut network."""
    torch.manual_seed(0)
    config = hf.ViTConfig(
        image_size=8, patch_size=4, hidden_size=WIDTH, num_hidden_layers=2, intermediate_size=16,
        num_attention_heads=HEADS, num_labels=4,
    )  # fmt: skip
    model = hf.ViTForImageClassification(config).eval()
    x = torch.randn(2, 3, 8, 8)
    groups = check_cuts(model, x)
    name = heads_of(groups, "vit.layers.0.attention")
    assert groups[name].kind == "heads"
    plan = plan_units(groups, {name: [1]})
    masked, cut = mask_(copy.deepcopy(model), plan), replay_(copy.deepcopy(model), plan)
    with torch.no_grad():
        expected, found = masked(x), cut(x)
    assert isinstance(found, hf.modeling_outputs.ImageClassifierOutput)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    heads = [layer.attention.num_attention_heads for layer in cut.vit.layers]
    assert heads == [HEADS - 1, HEADS]
    assert cut.vit.layers[0].attention.q_proj.weight.shape == (8, WIDTH)


def test_8_timm_heads_neurons_and_width() -> None:
    cut = lose_a_head(vit(), "blocks.0.attn", torch.randn(2, 3, 16, 16))
    assert [b.attn.num_heads for b in cut.blocks] == [HEADS - 1, HEADS]
    names = {g.name for g in prunus.find_groups(vit(), torch.randn(1, 3, 16, 16)).values()}
    assert names >= {"patch_embed.proj", "blocks.0.mlp.fc1", "blocks.1.attn.qkv"}


def test_8_pytorchs_heads_go_whole() -> None:
    cut = lose_a_head(built(Builtin), "attn", TOKENS)
    assert cut.attn.num_heads == HEADS - 1
    assert cut.attn.in_proj_weight.shape == (3 * 8, WIDTH)
    assert cut.attn.out_proj.weight.shape == (WIDTH, 8)
