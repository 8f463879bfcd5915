"""A Hugging Face image classifier, pruned to half its MACs.

    python examples/hf_image_classifier.py

A small ViT with random weights learns scikit-learn's digits (8×8 pixels, 10 classes), is
diagnosed, pruned in two PS-iterations, saved, and given back. Your own
`ViTForImageClassification.from_pretrained(…)` takes the place of `build()`: nothing has to be
declared, heads, neurons and embedding width are found by tracing.
"""

import tempfile

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import ViTConfig, ViTForImageClassification

import prunus
from prunus.evaluation import accuracy

CONFIG = ViTConfig(
    image_size=8, patch_size=2, num_channels=1, num_labels=10,
    hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
)  # fmt: skip


def build() -> nn.Module:
    """Return the dense network, images (B, 1, 8, 8) to an output whose first entry is logits."""
    torch.manual_seed(0)
    return ViTForImageClassification(CONFIG)


def digits() -> tuple[DataLoader, DataLoader]:
    """Return the first 1 437 digits in shuffled batches, the last 360 in order."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    train = TensorDataset(images[:1437], labels[:1437])
    held_out = TensorDataset(images[1437:], labels[1437:])
    return DataLoader(train, 64, shuffle=True), DataLoader(held_out, 120)


def main() -> None:
    """Train, diagnose, prune, check."""
    train, held_out = digits()
    model = build()
    prunus.fit_(model, train, prunus.TrainConfig(epochs=10, lr=3e-3))

    # What can be pruned, what not and why: no data, a second or two.
    print(prunus.diagnose(model, torch.zeros(1, 1, 8, 8)))

    # Statistics, scores, plan, cut, repair and two epochs of training, twice.
    short = prunus.TrainConfig(epochs=2, lr=1e-3, distill=0.5)
    config = prunus.PruneConfig(iterations=2, blocks=2, finetune=short, final=short)
    small, report = prunus.prune(
        model, train, budget="macs=50%", validation=held_out, config=config
    )
    print(report)
    attention = small.vit.layers[0].attention
    print(f"heads of the first layer: 4 → {attention.num_attention_heads}")
    print(f"held-out accuracy: {accuracy(model, held_out):.1%} → {accuracy(small, held_out):.1%}")

    # The plan replayed on a freshly built ViT, then the weights: bit by bit the same network.
    with tempfile.TemporaryDirectory() as folder:
        report.save(folder)  # plan, weights, report, and ONNX compared in ONNX Runtime
        again = prunus.load(folder, model=build())
    images = next(iter(held_out))[0]
    with torch.no_grad():
        same = torch.equal(again(images).logits, small(images).logits)
    print(f"check: the reloaded network computes the same: {same}")


if __name__ == "__main__":
    main()
