"""PS-iterations inside an external training loop: the common part of all trainers' callbacks.

The trainer's own epochs are the P-phases. At the start of some of them a step runs the S-phase of
the pipelines (statistics, scores, plan, surgery) on the network in training, and the optimiser is
adapted. This module does not depend on any trainer.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from prunus.batches import Inputs, parse
from prunus.core import (
    RECORD,
    BudgetError,
    ConfigError,
    DataError,
    PlanError,
    RunFolderError,
    keeping_random_state,
    seed_everything,
    write_whole,
)
from prunus.evaluation import accuracy
from prunus.export import save_weights
from prunus.integrations.batches import Reader, labelled, without_workers
from prunus.modules import rolling_back
from prunus.pipelines import (
    Pruning,
    PruningState,
    checked,
    costs_of,
    find_protected,
    find_sound_groups,
    ignoring,
    s_phase_,
    targets_of,
    trace,
)
from prunus.plan import Budget, BudgetLike, Plan, budget_text, check_reachable
from prunus.runs import Journal, Loaders, PruneConfig, Session, Watch
from prunus.surgery import cut_state_, replay_, tensors_of

__all__ = ["PruningSteps"]

log = logging.getLogger(__name__)


class PruningSteps:
    """A budget reached in steps: when the next one is due, what was done, and the step itself.

    Attributes:
        epochs: the epochs (from 0) before which the steps run.
        done: the number of finished steps.
        plan: what they cut, in indices of the dense network.
        history: one row per step: the row that `prune` journals for a cut, with `epoch`.
    """

    def __init__(
        self,
        budget: BudgetLike,
        *,
        at_epochs: Sequence[int] | None,
        every: int | None,
        steps: int | None,
        out: str | Path | None,
        config: PruneConfig | None,
        batches: int,
        reader: Reader | None,
        seed: int,
    ) -> None:
        self.budget = _counted(budget)
        self.epochs = _epochs(at_epochs, every, steps)
        self.config = checked(config or PruneConfig())
        if self.config.min_accuracy is not None:
            raise ConfigError(
                "min_accuracy is only for prunus.prune, which can step back: omit it inside an "
                "external training loop, and monitor validation there"
            )
        if batches < 1:
            raise ConfigError(f"batches is {batches}, expected at least 1")
        self.out = None if out is None else Path(out)
        if self.out is not None and (self.out / RECORD).exists():
            raise RunFolderError(
                f"{self.out} contains a run, whose journal seals its own plan and weights: give "
                "another folder with out="
            )
        self.batches, self.reader, self.seed = batches, reader, seed
        self.done = 0
        self.plan = Plan()
        self.costs: dict[str, float] = {}
        self.protected: dict[str, list[int]] = {}
        self.history: list[dict[str, Any]] = []

    def begin(self, network: nn.Module, loader: Iterable[Any], *, epochs: int | None) -> None:
        """Check before the first epoch that all steps are possible; `network` is not changed.

        Raises:
            ConfigError: training ends, after `epochs`, before the last step.
            BudgetError: the budget cannot be reached; gives the least that can.
            NothingToPruneError, TraceError, DataError: see their messages.
        """
        if epochs is not None and self.epochs[-1] >= epochs:
            raise ConfigError(
                f"the last step is due before epoch {self.epochs[-1]} (counted from 0), but "
                f"training has {epochs} epochs: schedule earlier steps, or train longer"
            )
        with keeping_random_state():
            session = self._session(network, loader)
            example = self._example(session)
            groups = find_sound_groups(network, example, self.config)
            self.config = ignoring(self.config, groups)
            if self.costs:
                return  # resumed from a checkpoint; the dense network is not available
            self.protected = {
                name: list(units)
                for name, units in find_protected(network, groups, self.config, session).items()
            }
            check_reachable(
                groups,
                self.budget,
                least=self.config.least,
                round_to=self.config.round_to or 1,
                protected=self.protected,
            )
            self.costs = costs_of(groups, None)

    def due(self, epoch: int) -> bool:
        """Return whether a step is due before `epoch`; a missed one is due at the next epoch."""
        return self.done < len(self.epochs) and epoch >= self.epochs[self.done]

    def step_(
        self,
        network: nn.Module,
        optimizers: Sequence[Optimizer],
        loader: Iterable[Any],
        *,
        epoch: int,
    ) -> None:
        """Score, plan, cut and repair `network` in place, and adapt the optimisers.

        The random state, each module's mode and the optimisers' settings are preserved. All or
        nothing: whatever is raised, network, optimisers and these steps are as they were; for this
        the weights are copied to main memory until the step is done.
        """
        i = self.done + 1
        limits = self.budget.absolute(self.costs)
        targets = targets_of(self.costs, limits, i / len(self.epochs))
        before = tensors_of(network)
        modes = {name: module.training for name, module in network.named_modules()}
        with rolling_back(network, *optimizers) as former:
            former.keep(before.values())
            with keeping_random_state():
                session = self._session(network, loader)
                made = s_phase_(*self._opened(network, session), targets, i)
            for name, module in network.named_modules():
                module.training = modes[name]
            fresh = {n for o in optimizers for n in cut_state_(o, before, network, made.edit)}
            if self.out is not None:
                write_whole(self.out / "plan.json", made.state.plan.to_json())
        self.plan, self.done, row = made.state.plan, i, made.row
        self.history.append({"epoch": epoch, **row, "state_anew": sorted(fresh)})
        log.info(
            "step %d/%d before epoch %d: %s", i, len(self.epochs), epoch,
            ", ".join(f"{c} {self.costs[c]:,.0f} → {row[c]:,.0f}" for c in limits),
        )  # fmt: skip

    def finish(self, network: nn.Module) -> None:
        """Write the weights next to the plan, as `prunus.load` expects them."""
        if self.out is not None:
            write_whole(self.out / "plan.json", self.plan.to_json())
            save_weights(network, self.out / "model.safetensors")

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, as plain values."""
        return {
            "done": self.done,
            "plan": self.plan.to_json(),
            "costs": self.costs,
            "protected": self.protected,
            "history": json.dumps(self.history),
        }

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Resume from `state`, unless it cannot be read."""
        plan, history = Plan.from_json(state["plan"]), json.loads(state["history"])
        costs, protected = dict(state["costs"]), dict(state["protected"])
        self.done, self.plan, self.history = state["done"], plan, history
        self.costs, self.protected = costs, protected

    def widths_(self, network: nn.Module, state: Mapping[str, Any]) -> None:
        """Cut a freshly built `network` to the widths of a checkpoint's `state`.

        Raises:
            PlanError: these steps have already cut it to other widths.
        """
        plan = Plan.from_json(state["plan"])
        if plan == self.plan:
            return
        if self.done:
            raise PlanError(
                f"the checkpoint is from after {state['done']} steps, but this network has had "
                f"{self.done}: load it into a freshly built network, with a new callback"
            )
        with rolling_back(network):
            replay_(network, plan)
            self.take_up(state)

    def _session(self, network: nn.Module, loader: Iterable[Any]) -> Session:
        """Return the context of an S-phase: a bounded part of the training data.

        Shuffling uses the step's own random stream, so a resumed run reads the same batches.
        """
        seed_everything(self.seed, "batches", self.done)
        found = [
            labelled(batch, network, self.reader)
            for batch in islice(without_workers(loader), self.batches)
        ]
        if not found:
            raise DataError(
                "the training loader yields no batch: it needs at least one image per class"
            )
        loaders = Loaders(train=found, calibration=found, validation=found)
        return Session(
            loaders=loaders, fabric=None, seed=self.seed, journal=Journal(), watch=Watch()
        )

    def _opened(self, network: nn.Module, session: Session) -> tuple[Pruning, PruningState]:
        """Return the settings and the state of pruning `network` in place."""
        example = self._example(session)
        groups = trace(network, example, self.config)
        pruning = Pruning(
            dense=network,
            budget=self.budget,
            config=self.config,
            session=session,
            example=example,
            teacher=None,
            costs=self.costs,
            protected=self.protected,
            floor=None,
        )
        state = PruningState(
            iteration=self.done,
            groups=groups,
            plan=self.plan,
            costs=costs_of(groups, None),
            accuracy=accuracy(network, session.loaders.validation),
        )
        return pruning, state

    def _example(self, session: Session) -> Inputs:
        return parse(next(iter(session.loaders.calibration))).inputs.first(1)


def _counted(given: BudgetLike) -> Budget:
    budget = Budget.of(given)
    if budget.accuracy is not None or any(limit.currency == "ms" for limit in budget.limits):
        raise BudgetError(
            f"budget {budget_text(given)!r}: accuracy and milliseconds are not supported inside an "
            "external training loop: give macs, params or bytes, or use prunus.prune"
        )
    return budget


def _epochs(
    at_epochs: Sequence[int] | None, every: int | None, steps: int | None
) -> tuple[int, ...]:
    """Return the epochs before which the steps run."""
    if at_epochs is None and every is not None and every > 0 and (steps or 3) > 0:
        return tuple(every * i for i in range(1, (steps or 3) + 1))
    if at_epochs is None or every is not None or steps is not None:
        raise ConfigError(
            f"at_epochs={at_epochs}, every={every}, steps={steps}: pass at_epochs=[2, 4] (steps "
            "before the third and the fifth epoch) or every=2, steps=3 (before 2, 4 and 6)"
        )
    found = tuple(at_epochs)
    if not found or found[0] < 0 or list(found) != sorted(set(found)):
        raise ConfigError(f"at_epochs is {list(found)}, expected increasing numbers from 0")
    return found
