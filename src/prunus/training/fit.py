"""The P-phase (fine-tuning): train the parameters of a fixed structure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from prunus.batches import (
    Loader,
    OutputChoice,
    auxiliary,
    choose_output,
    class_axis,
    count_batches,
    match,
    primary,
    read,
    rereadable,
)
from prunus.core import (
    DataError,
    NonFiniteError,
    WeightsError,
    imported,
    keeping_random_state,
    one_line,
    seed_everything,
    to_yaml,
    writing_whole,
)
from prunus.evaluation import measure
from prunus.models import read_torch
from prunus.modules import unwrapped
from prunus.training.config import TrainConfig
from prunus.training.local import LocalTeachers
from prunus.training.loss import distillation, matched_loss
from prunus.training.push import Push
from prunus.training.schedule import make_optimizer, make_schedule

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["fit_"]

Epoch = dict[str, float]

#: How PyTorch's norms say that a channel has one value in a batch, which has no variance.
ONE_VALUE = ("Expected more than 1 value per channel", "Expected more than 1 spatial element")


@runtime_checkable
class DrawsByEpoch(Protocol):
    """A sampler whose order depends on the epoch, as PyTorch's distributed one."""

    def set_epoch(self, epoch: int) -> None:
        """Draw as in this epoch from now on."""
        ...


class Listener(Protocol):
    """A loss on the inputs of layers, in addition to the one at the output."""

    def listening(self) -> AbstractContextManager[None]:
        """Hook the layers within a `with` block."""
        ...

    def read(self, labels: Tensor, done: float) -> tuple[Tensor, dict[str, Tensor]] | None:
        """Return the loss of the last batch and its values for the row, or None.

        `done` is the share of the training steps that are finished.
        """
        ...


@torch.inference_mode(False)
def fit_(
    model: nn.Module,
    loader: Loader,
    config: TrainConfig | None = None,
    *,
    validation: Loader | None = None,
    teacher: nn.Module | None = None,
    parents: Tensor | Sequence[int] | None = None,
    fabric: Fabric | None = None,
    channels_last: bool = False,
    seed: int = 0,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    output: OutputChoice | None = None,
) -> list[Epoch]:
    """Train `model` in place; return one row per epoch.

    Targets are class labels, images (B, C, H, W) for restoration, or other numbers (`match` says
    which go with which outputs); `validation` is measured accordingly (`measure`). Batches may
    have any form that `read` knows; `output` names the main output of several.

    Loss: (1−d)·cross-entropy + d·distillation from `teacher`, d = config.distill, and with local
    teachers, whose granularity goes from `parents` (the coarse class of each class) to the
    classes themselves, + config.local·(1 − mean over layers of DI/tr(YYᵀ)). That is the loss
    −config.local·DI/tr(YYᵀ), shifted to 0 when everything is explained. A row then has
    `local_information`, the mean share explained. With `config.push`, + `Push`, and a row has
    `push_loss` and its unweighted terms; batches should then contain several classes, each with 8
    images or more (`prunus.data.balanced_loader`). Both ignore batches with a single class.

    With `checkpoint`, the state is written there after every epoch and resumed from there, so an
    interrupted phase repeats at most one epoch and ends with the same weights (on CPU): the random
    numbers of an epoch depend only on `seed` and its number.

    All parameters except frozen ones are trained. The last epoch's weights are kept. A batch of one
    image that a BatchNorm cannot normalise, because it has one value per channel, is passed over; a
    row then has `batches_passed_over`.

    With `channels_last`, kernels and maps are stored with the channels of a pixel adjacent during
    training: the same network, summed in another order. Networks of dense convolutions train
    faster this way, especially in bfloat16; depthwise ones may not.

    Raises:
        NonFiniteError: the loss became NaN or infinite; names the epoch.
        DataError: the loader is empty, a class has no parent, or local teachers are used with
            image targets.
        ConfigError: `config.local_layers` are not layers of the network that can be taught, or
            `config.push` is used with image targets, or with a network whose head is not found.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> loader = [(torch.randn(32, 4), torch.arange(32) % 2)]
        >>> rows = prunus.fit_(net, loader, prunus.TrainConfig(epochs=2))
        >>> [row["epoch"] for row in rows]
        [1, 2]
    """
    config = config or TrainConfig()
    unwrapped(model)  # refuses what cannot be trained
    if fabric is None:
        fabric = imported("lightning_fabric").Fabric(accelerator="cpu", devices=1)
    device = fabric.device
    model.to(device)
    if teacher is not None:
        teacher = teacher.to(device).eval()
    loader = rereadable(loader)
    with (
        keeping_random_state("fit", seed=seed),
        torch.enable_grad(),
        choose_output(output),
        _laid_out((model, teacher), channels_last),
    ):
        listeners = _listeners(model, config, parents)
        batches = count_batches(loader)
        steps = max(1, config.epochs * batches)
        optimizer = make_optimizer(model, config)
        losses: list[float] = []
        schedule = LambdaLR(optimizer, make_schedule(config, batches, losses))
        wrapped, optimizer = fabric.setup(model, optimizer)
        rows: list[Epoch] = []
        if checkpoint is not None and checkpoint.exists():
            rows = _restore_(checkpoint, model, optimizer, schedule, config, seed)
            losses += [row["loss"] for row in rows]
        model.train()
        for epoch in range(len(rows) + 1, config.epochs + 1):
            seed_everything(seed, "epoch", epoch)
            for kind in ("sampler", "batch_sampler"):
                sampler = getattr(loader, kind, None)
                if isinstance(sampler, DrawsByEpoch):
                    sampler.set_epoch(epoch)
            row = _epoch(
                wrapped, loader, optimizer, schedule, config, teacher, listeners, fabric, steps
            )
            if not math.isfinite(row["loss"]):
                raise NonFiniteError(
                    f"the loss became {row['loss']} in epoch {epoch} of training "
                    f"{type(model).__name__}: lower the learning rate (it peaks at {config.lr:g})"
                )
            row = {"epoch": epoch, **row}
            if validation is not None:
                row |= {f"validation_{k}": v for k, v in measure(model, validation).items()}
            rows.append(row)
            losses.append(row["loss"])
            if config.schedule == "plateau":  # this epoch counts from the next step
                for group, lr in zip(optimizer.param_groups, schedule.base_lrs, strict=True):
                    group["lr"] = lr * schedule.lr_lambdas[0](schedule.last_epoch)
            if checkpoint is not None:
                _save(checkpoint, model, optimizer, schedule, rows, _training(config, seed))
            if on_epoch is not None:
                on_epoch(row)
    model.eval()
    return rows


@contextmanager
def _laid_out(models: Sequence[nn.Module | None], channels_last: bool) -> Iterator[None]:
    """Use the channels-last memory format within a `with` block, if `channels_last` is set."""
    present = [model for model in models if model is not None] if channels_last else []
    for model in present:
        model.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for model in present:
            model.to(memory_format=torch.contiguous_format)


def _listeners(
    model: nn.Module, config: TrainConfig, parents: Tensor | Sequence[int] | None
) -> list[Listener]:
    found: list[Listener] = []
    if config.local:
        layers, ridge = config.local_layers, config.local_ridge
        found.append(
            LocalTeachers(model, layers, parents=parents, ridge=ridge, weight=config.local)
        )
    if config.push is not None:
        found.append(Push(model, config.push))
    return found


def _epoch(
    model: nn.Module,
    loader: Loader,
    optimizer: Optimizer,
    schedule: LambdaLR,
    config: TrainConfig,
    teacher: nn.Module | None,
    listeners: Sequence[Listener],
    fabric: Fabric,
    steps: int,
) -> Epoch:
    start = time.perf_counter()
    total = torch.zeros((), dtype=torch.float64)
    right = judged = count = passed_over = 0
    means: dict[str, tuple[float, int]] = {}  # sum over images, and images
    lr = optimizer.param_groups[0]["lr"]
    with ExitStack() as stack:
        for listener in listeners:
            stack.enter_context(listener.listening())
        for batch in read(loader, model):
            if batch.labels is None:
                raise DataError("the training batches have no labels: give (images, labels)")
            y = batch.labels.to(fabric.device)
            try:
                output = batch.inputs.run(model)
            except DataError as error:
                if batch.size > 1 or not str(error.__cause__).startswith(ONE_VALUE):
                    raise
                if schedule.last_epoch:  # the batch counts, though one value has no variance
                    schedule.step()
                passed_over += 1
                continue
            found = match(primary(output), y, config.loss)
            loss = matched_loss(found, auxiliary(output), y, config)
            if teacher is not None and config.distill:
                with torch.no_grad():
                    target = primary(batch.inputs(teacher))
                axis = None if y.is_floating_point() else class_axis(target, y)
                soft = distillation(primary(output), target, config.temperature, axis=axis)
                loss = (1 - config.distill) * loss + config.distill * soft
            for listener in listeners:
                heard = listener.read(y, schedule.last_epoch / steps)
                if heard is not None:
                    loss = loss + heard[0].to(loss)
                    for name, value in heard[1].items():
                        summed, images = means.get(name, (0.0, 0))
                        means[name] = summed + float(value) * batch.size, images + batch.size
            optimizer.zero_grad()
            fabric.backward(loss)
            if config.clip:
                fabric.clip_gradients(
                    model, optimizer, max_norm=config.clip, error_if_nonfinite=False
                )
            optimizer.step()
            schedule.step()
            total += loss.detach().cpu().double() * batch.size
            if found.kind != "values":
                right += int(found.right().sum())
                judged += len(found.targets)
            count += batch.size
    if not count:
        raise DataError(
            "the training loader yields no batch that can be trained on: it needs at least one "
            "image per class, and two in a batch where a BatchNorm sees one value per channel"
        )
    row = {"loss": float(total) / count, "lr": lr, "seconds": time.perf_counter() - start}
    if judged:
        row["train_accuracy"] = right / judged
    if passed_over:
        row["batches_passed_over"] = passed_over
    return row | {name: summed / images for name, (summed, images) in means.items()}


def _save(
    path: Path,
    model: nn.Module,
    optimizer: Any,
    schedule: LambdaLR,
    rows: list[Epoch],
    training: str,
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "rows": rows,
        "training": training,
    }
    with writing_whole(path) as scratch:
        torch.save(state, scratch)


def _restore_(
    path: Path,
    model: nn.Module,
    optimizer: Any,
    schedule: LambdaLR,
    config: TrainConfig,
    seed: int,
) -> list[Epoch]:
    """Load what `_save` wrote; return the rows of the epochs that it has done.

    Raises:
        WeightsError: the file is damaged, or of another training; nothing is loaded then.
    """
    state = read_torch(path)
    advice = f"remove {path.name} to start this training again"
    try:
        if state.get("training", training := _training(config, seed)) != training:
            raise WeightsError(f"{path} is the state of another training: {advice}")
        found = {name: tensor.shape for name, tensor in state["model"].items()}
        if found != {name: tensor.shape for name, tensor in model.state_dict().items()}:
            raise WeightsError(f"{path} is the state of another network's training: {advice}")
        return _loaded_(state, model, optimizer, schedule)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"{path} is not the state of this training ({one_line(error)}): {advice}"
        ) from error


def _training(config: TrainConfig, seed: int) -> str:
    """Return the settings and the seed that a training's state belongs to."""
    return f"{seed} {to_yaml(config)}"


def _loaded_(state: Any, model: nn.Module, optimizer: Any, schedule: LambdaLR) -> list[Epoch]:
    rows: list[Epoch] = state["rows"]
    saved, optimised = state["schedule"], state["optimizer"]
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(optimised)
    if "lr_lambdas" not in saved:  # written before the schedule's whole state was
        saved = {
            "last_epoch": saved["last_epoch"],
            "_step_count": saved["step"],
            "_last_lr": [group["lr"] for group in optimizer.param_groups],
            "lr_lambdas": [None] * len(schedule.lr_lambdas),
        }
    schedule.load_state_dict(saved)
    return rows
