"""A Hugging Face Trainer callback that prunes in mid-training, as the Lightning one does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from prunus.core import ConfigError, RunFolderError, to_json, write_whole
from prunus.integrations.batches import Reader, images_and_labels
from prunus.integrations.steps import PruningSteps
from prunus.plan import BudgetLike
from prunus.runs import PruneConfig

try:
    from transformers import (
        PreTrainedModel,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )
except ImportError as error:
    raise ImportError(
        "prunus.integrations.transformers needs them: pip install 'prunus[transformers]'"
    ) from error

__all__ = ["PruningCallback"]

#: Beside `plan.json` in a checkpoint: how far the steps went.
STATE = "pruning.json"


class PruningCallback(TrainerCallback):
    """Prunes the model in training to a budget, in steps at the start of epochs.

    A step is the S-phase of `prunus.prune` on some batches of the training loader; the epochs
    after it repair. The optimiser stays the same object and goes on with the momenta of what is
    left, and so does its scheduler. Every checkpoint folder gets the plan beside the weights, so
    `prunus.load("out/checkpoint-500", model=…)` gives its model back.

    For image classifiers, in one process, without torch.compile.

    Attributes:
        plan: what was cut so far, in indices of the dense network.
        history: one row a step: costs, accuracy on its batches before and after, every group.

    Example:
        >>> callback = PruningCallback("macs=50%", every=2, steps=3, out="out")
        >>> trainer = Trainer(model, args, callbacks=[callback], …)  # doctest: +SKIP
        >>> trainer.train(); trainer.save_model("out")  # doctest: +SKIP
        >>> small = prunus.load("out", model=ViTForImageClassification(config))  # doctest: +SKIP

    After a kill:
        >>> model = callback.resume_(build(), "out/checkpoint-500")  # doctest: +SKIP
        >>> Trainer(model, …).train(resume_from_checkpoint="out/checkpoint-500")  # doctest: +SKIP
    """

    def __init__(
        self,
        budget: BudgetLike,
        *,
        at_epochs: Sequence[int] | None = None,
        every: int | None = None,
        steps: int | None = None,
        out: str | Path | None = None,
        config: PruneConfig | None = None,
        batches: int = 16,
        reader: Reader = images_and_labels,
        seed: int = 0,
    ) -> None:
        """Prune to `budget`, such as `"macs=50%"`, of macs, params and bytes.

        Args:
            at_epochs: before which epochs, from 0, steps run; or say `every` and `steps` (3).
            out: the folder that gets `plan.json` after each step and `model.safetensors` at the
                end, for `prunus.load(out, model=…)`.
            config: how to prune; its training settings are not used.
            batches: of the training loader, what a step reads; they are held in memory.
            reader: makes (images, labels) of a batch; by default its `pixel_values`, `labels`.

        Raises:
            ConfigError, BudgetError: settings that cannot be, at once; a budget that cannot be
                reached, when training starts.
        """
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
        """One row a step."""
        return self.steps.history

    def resume_(self, model: nn.Module, checkpoint: str | Path) -> nn.Module:
        """Make a freshly built `model` as wide as that of a checkpoint, and go on from there.

        The Trainer loads weights before it asks callbacks, so this comes before the Trainer.

        Raises:
            RunFolderError: the folder has no plan.
            PlanError: the model is not the one that was pruned, or not fresh.
        """
        path = Path(checkpoint) / STATE
        if not path.exists():
            raise RunFolderError(
                f"{checkpoint} has no {STATE}: give a checkpoint of a training with this callback"
            )
        self.steps.widths_(model, json.loads(path.read_text()))
        return model

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Look whether the steps can be done, before the first epoch."""
        if args.world_size > 1 or args.n_gpu > 1 or args.torch_compile:
            raise ConfigError(
                f"training runs in {max(args.world_size, args.n_gpu)} processes or compiled "
                f"(torch_compile={args.torch_compile}), and both hold on to the dense parameters: "
                "prune in one process, without torch_compile"
            )
        if args.load_best_model_at_end:
            raise ConfigError(
                "load_best_model_at_end may want the weights of a wider model back: leave it out, "
                "and load the checkpoint you like with prunus.load(checkpoint, model=…)"
            )
        model = given["model"]
        self.steps.begin(model, given["train_dataloader"], epochs=state.num_train_epochs)
        if isinstance(model, PreTrainedModel):
            # Under the model's own names, not those of version 4's files, which are the default:
            # neither `prunus.load` nor the Trainer's resumption takes these.
            own_names = partial(model.save_pretrained, save_original_format=False)
            model.save_pretrained = own_names  # type: ignore[method-assign]

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Run the step that is due."""
        epoch = int((state.epoch or 0) + 1e-6)
        if self.steps.due(epoch):
            loader = given["train_dataloader"]
            if hasattr(loader, "set_epoch"):
                loader.set_epoch(epoch)  # as the Trainer will: a resumed run reads the same
            optimizer = getattr(given["optimizer"], "optimizer", given["optimizer"])  # accelerate's
            self.steps.step_(given["model"], [optimizer], loader, epoch=epoch)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Put the plan beside the checkpoint's weights."""
        folder = Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
        write_whole(folder / "plan.json", self.steps.plan.to_json())
        write_whole(folder / STATE, to_json(self.steps.state()))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Write plan and weights."""
        self.steps.finish(given["model"])
