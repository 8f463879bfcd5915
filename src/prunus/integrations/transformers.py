"""A Hugging Face Trainer callback that prunes during training, like the Lightning one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from prunus.core import (
    ConfigError,
    RunFolderError,
    parse_json,
    read_text,
    to_json,
    write_whole,
)
from prunus.integrations.batches import Reader
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
        "prunus.integrations.transformers needs transformers: pip install 'prunus[transformers]'"
    ) from error

__all__ = ["PruningCallback"]

#: The progress of the steps, next to `plan.json` in a checkpoint.
STATE = "pruning.json"


class PruningCallback(TrainerCallback):
    """Prunes the model during training to a budget, in steps at the start of epochs.

    A step is the prune step of `prunus.prune` on some batches of the training loader; the epochs
    after it are the fine-tuning. The optimiser remains the same object and keeps the momenta of
    the remaining weights; its scheduler continues. Every checkpoint folder gets the plan next to
    the weights, so `prunus.load("out/checkpoint-500", model=…)` restores its model.

    For image classifiers, in one process, without torch.compile.

    Attributes:
        plan: what was cut so far, in indices of the dense network.
        history: one row per step: costs, accuracy on its batches before and after, every group.

    Example:
        >>> callback = PruningCallback("macs=50%", every=2, steps=3, out="out")
        >>> trainer = Trainer(model, args, callbacks=[callback], …)  # doctest: +SKIP
        >>> trainer.train(); trainer.save_model("out")  # doctest: +SKIP
        >>> small = prunus.load("out", model=ViTForImageClassification(config))  # doctest: +SKIP

    After an interruption:
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
        reader: Reader | None = None,
        seed: int = 0,
    ) -> None:
        """Prune to `budget`, such as `"macs=50%"`, in macs, params or bytes.

        Args:
            at_epochs: epochs, from 0, before which steps run; or give `every` and `steps` (3).
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

    def resume_(self, model: nn.Module, checkpoint: str | Path) -> nn.Module:
        """Cut a freshly built `model` to the widths of a checkpoint, and resume from there.

        The Trainer loads weights before it runs callbacks, so call this before the Trainer.

        Raises:
            RunFolderError: the folder has no plan, or it cannot be read.
            PlanError: the model is not the one that was pruned, or not fresh.
        """
        path = Path(checkpoint) / STATE
        if not path.exists():
            raise RunFolderError(
                f"{checkpoint} has no {STATE}: give a checkpoint of a training with this callback"
            )
        try:
            state = parse_json(read_text(path, raising=RunFolderError))
        except ValueError as error:
            raise RunFolderError(
                f"{path} is not JSON ({error}): it was edited or cut short; give another checkpoint"
            ) from error
        self.steps.widths_(model, state)
        return model

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Check before the first epoch that all steps are possible."""
        if args.world_size > 1 or args.n_gpu > 1 or args.torch_compile:
            raise ConfigError(
                f"training runs in {max(args.world_size, args.n_gpu)} processes or compiled "
                f"(torch_compile={args.torch_compile}), and both keep references to the dense "
                "parameters: prune in one process, without torch_compile"
            )
        if args.load_best_model_at_end:
            raise ConfigError(
                "load_best_model_at_end may load the weights of a wider model: turn it off, and "
                "load the checkpoint of your choice with prunus.load(checkpoint, model=…)"
            )
        model = given["model"]
        self.steps.begin(model, given["train_dataloader"], epochs=state.num_train_epochs)
        if isinstance(model, PreTrainedModel):
            # Save under the model's own names, not those of version 4 files, which are the default:
            # neither `prunus.load` nor the Trainer's resumption accepts these.
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
        """Write the plan next to the checkpoint's weights."""
        folder = Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
        write_whole(folder / "plan.json", self.steps.plan.to_json())
        write_whole(folder / STATE, to_json(self.steps.state()))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Write plan and weights."""
        self.steps.finish(given["model"])
