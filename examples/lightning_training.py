"""A network pruned inside its own Lightning training, by one callback.

    python examples/lightning_training.py

Of nine epochs (0 to 8), before 3 and 6 the callback scores, cuts and repairs on some training
batches; the epochs between are yours, with your optimizer and your schedule: they go on over the
smaller parameters with the momenta that are left. With Hugging Face's Trainer it is
`prunus.integrations.transformers.PruningCallback`, with the same arguments.
"""

import tempfile

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import prunus
from prunus.integrations.lightning import PruningCallback


class Digits(pl.LightningModule):
    """A small convolutional network, images (B, 1, 8, 8) to 10 scores."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores: what the callback traces."""
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Return the loss."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Log the accuracy."""
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> dict[str, object]:
        """Return AdamW under a one-cycle schedule, stepped every batch."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def digits() -> tuple[DataLoader, DataLoader]:
    """Return the first 1 437 digits in shuffled batches, the last 360 at once."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    train = TensorDataset(images[:1437], labels[:1437])
    return DataLoader(train, 64, shuffle=True), DataLoader(
        TensorDataset(images[1437:], labels[1437:]), 360
    )


def main() -> None:
    """Train with the callback, say what it did, give the network back."""
    pl.seed_everything(0)
    train, held_out = digits()
    module = Digits()
    dense = prunus.find_groups(module, torch.zeros(1, 1, 8, 8))
    with tempfile.TemporaryDirectory() as folder:
        pruning = PruningCallback("macs=30%", every=3, steps=2, out=folder)
        trainer = pl.Trainer(
            max_epochs=9, callbacks=[pruning], accelerator="cpu", logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, train, held_out)
        again = prunus.load(folder, model=Digits())  # plan.json and model.safetensors

    for row in pruning.history:
        print(
            f"before epoch {row['epoch']}: {row['macs']:,} MACs left, accuracy on its batches "
            f"{row['validation_before']:.1%} → {row['validation_cut']:.1%} by the cut"
        )
    small = prunus.find_groups(module, torch.zeros(1, 1, 8, 8))
    print(f"parameters: {dense.total_params:,} → {small.total_params:,}")
    print(f"MACs: {dense.total_macs:,} → {small.total_macs:,}")
    print(f"held-out accuracy at the end: {float(trainer.callback_metrics['accuracy']):.1%}")
    images = next(iter(held_out))[0]
    with torch.no_grad():
        same = torch.equal(again(images), module.eval()(images))
    print(f"check: the network from {{plan.json, model.safetensors}} computes the same: {same}")


if __name__ == "__main__":
    main()
