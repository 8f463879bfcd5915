"""A Lightning callback that prunes during training: a PS-iteration whose P-phases are the user's.

Works with `lightning` or, if that is not installed, with `pytorch_lightning`.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.core import ConfigError, WeightsError
from prunus.integrations.batches import Reader
from prunus.integrations.steps import PruningSteps
from prunus.modules import rolling_back
from prunus.plan import BudgetLike
from prunus.runs import PruneConfig

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    try:
        from pytorch_lightning import (  # type: ignore[assignment]
            Callback,
            LightningModule,
            Trainer,
        )
    except ImportError as error:
        raise ImportError(
            "prunus.integrations.lightning needs Lightning: pip install 'prunus[lightning]'"
        ) from error

__all__ = ["PruningCallback", "load_checkpoint_"]


class PruningCallback(Callback):
    """Prunes the network during training to a budget, in steps at the start of epochs.

    A step is the prune step of `prunus.prune` on some batches of the training loader; the epochs
    after it are the fine-tuning. The optimisers remain the same objects and keep the momenta of
    the remaining weights, so schedulers, clipping and scaling continue too. Checkpoints contain
    the plan: `trainer.fit(fresh_module, ckpt_path=…)` first cuts a freshly built module to it.

    For classifiers of images, in one process, without torch.compile.

    Attributes:
        plan: what was cut so far, in indices of the dense network.
        history: one row per step: costs, accuracy on its batches before and after, every group.

    Example:
        >>> callback = PruningCallback("macs=50%", every=2, steps=3, out="runs/trained")
        >>> Trainer(max_epochs=10, callbacks=[callback]).fit(module, loader)  # doctest: +SKIP
        >>> small = prunus.load("runs/trained", model=MyModule())  # doctest: +SKIP
    """

    def __init__(
        self,
        budget: BudgetLike,
        *,
        at_epochs: Sequence[int] | None = None,
        every: int | None = None,
        steps: int | None = None,
        network: str = "",
        out: str | Path | None = None,
        config: PruneConfig | None = None,
        batches: int = 16,
        reader: Reader | None = None,
        seed: int = 0,
    ) -> None:
        """Prune to `budget`, such as `"macs=50%"`, in macs, params or bytes.

        Args:
            at_epochs: epochs, from 0, before which steps run; or give `every` and `steps` (3).
            network: the attribute of the module that is the network, e.g. `"model"`; the plan uses
                its names. By default the module itself, with its own `forward`.
            out: the folder for `plan.json` after each step and `model.safetensors` at the end, for
                `prunus.load(out, model=…)`.
            config: how to prune; its training settings are not used.
            batches: number of batches of the training loader per step; they are kept in memory.
            reader: converts a batch to (inputs, labels); by default every form is read that
                `prunus.read` knows.

        Raises:
            ConfigError, BudgetError: invalid settings, immediately; a budget that cannot be
                reached, when training starts.
        """
        self.network = network
        self.steps = PruningSteps(
            budget, at_epochs=at_epochs, every=every, steps=steps, out=out, config=config,
            batches=batches, reader=reader, seed=seed,
        )  # fmt: skip

    @property
    def plan(self) -> Any:
        """What was cut so far, in indices of the dense network."""
        return self.steps.plan

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row per step."""
        return self.steps.history

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Arrange that a checkpoint's plan is replayed before its weights are loaded.

        Lightning restores callbacks after the weights; only the module is notified before.
        """
        self._own = pl_module.on_load_checkpoint

        def replay_first(checkpoint: dict[str, Any]) -> None:
            state = checkpoint.get("callbacks", {}).get(self.state_key)
            if state is not None:
                self.steps.widths_(self._network(pl_module), state)
            self._own(checkpoint)

        pl_module.on_load_checkpoint = replay_first  # type: ignore[method-assign]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the module's own method."""
        vars(pl_module).pop("on_load_checkpoint", None)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check before the first epoch that all steps are possible."""
        if trainer.world_size > 1:
            raise ConfigError(
                f"training runs in {trainer.world_size} processes, whose wrapper keeps references "
                "to the dense parameters: prune in one process (devices=1)"
            )
        longest = trainer.max_epochs if trainer.max_epochs not in (None, -1) else None
        network = self._network(pl_module)
        self.steps.begin(network, trainer.train_dataloader, epochs=longest)  # type: ignore[arg-type]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the step that is due."""
        epoch = trainer.current_epoch
        if self.steps.due(epoch):
            loader: Any = trainer.train_dataloader
            self.steps.step_(self._network(pl_module), trainer.optimizers, loader, epoch=epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write plan and weights."""
        self.steps.finish(self._network(pl_module))

    def state_dict(self) -> dict[str, Any]:
        """Return the plan and the progress, as plain values."""
        return self.steps.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a checkpoint."""
        self.steps.take_up(state_dict)

    def _network(self, module: nn.Module) -> nn.Module:
        try:
            return module.get_submodule(self.network)
        except AttributeError:
            children = ", ".join(name for name, _ in module.named_children())
            raise ConfigError(
                f"network={self.network!r}: {type(module).__name__} has no such module, give "
                f"one of: {children or 'none'}"
            ) from None


def load_checkpoint_(module: LightningModule, path: str | Path, network: str = "") -> None:
    """Load a checkpoint written with a `PruningCallback` into a freshly built module.

    The equivalent of `load_from_checkpoint` for pruned modules; only tensors and plain values are
    unpickled. `network` is that of the callback. All or nothing: whatever is raised, the module is
    as it was.

    Raises:
        WeightsError: the file has no plan of such a callback.
        PlanError: the module is not the one that was pruned, or not fresh.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} contains more than tensors and plain values, and pickled code is not run: "
            "exclude objects with save_hyperparameters(ignore=[…])"
        ) from error
    states = checkpoint.get("callbacks", {})
    key = next((k for k in states if k.startswith(PruningCallback.__qualname__)), None)
    if key is None:
        raise WeightsError(
            f"{path} contains no plan: give a checkpoint of a training with a PruningCallback, or "
            f"use {type(module).__name__}.load_from_checkpoint if nothing was pruned"
        )
    callback = PruningCallback("macs=100%", at_epochs=[0], network=network)
    with rolling_back(module) as before:
        before.keep((*module.parameters(), *module.buffers()))
        callback.steps.widths_(callback._network(module), states[key])
        module.load_state_dict(checkpoint["state_dict"])
