"""The verbs in Python: what `prunus VERB` does, on objects or by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunus.core import from_dict, keeping_random_state, to_dict
from prunus.pipelines.evaluate import evaluate
from prunus.pipelines.grow import GrowConfig, GrowRunConfig, run_grow
from prunus.pipelines.push import push
from prunus.pipelines.search import SearchConfig, run_search
from prunus.pipelines.train import train
from prunus.plan import BudgetLike, budget_text
from prunus.runs import FinishedRun, Watch

__all__ = ["evaluate", "grow", "push", "search", "train"]


def grow(
    model: str,
    data: str,
    out: str | Path,
    config: GrowConfig | None = None,
    *,
    resume: bool = False,
    workers: int | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> FinishedRun:
    """Grow a network by one module per step, where it helps most, and return the run [Tian, 4.2.2].

    It works on names, as `prunus grow` does: candidates are built from `model` by each of its
    workers, and everything is written to a run folder, which holds what `resume` goes on from.

    Args:
        model: a network that declares stages (`prunus models` lists them), or `FILE.py:factory`.
        data: a data set by name (`prunus data` lists them).
        out: the folder of the run, new or of this run; the grown network is in `out/grown`.
        config: how to grow.
        workers: processes that train candidates, see `prunus grow --help`.
        settings: other fields of `GrowRunConfig`, such as `seed=1` or `input_shape=(1, 8, 8)`.

    Raises:
        ConfigError: a setting is unknown or does not fit, or the network declares no stages.
        BudgetError: the bound cannot be read, or the network to start from exceeds it.
        RunFolderError: `out` holds another run, or this one and `resume` is off.
        UnknownNameError, DataError, WeightsError, NonFiniteError: see their messages.

    Example:
        >>> import tempfile
        >>> from prunus.training import TrainConfig
        >>> brief = TrainConfig(epochs=0)
        >>> config = GrowConfig(steps=1, base=brief, candidate=brief, images=64)
        >>> with tempfile.TemporaryDirectory() as out:
        ...     grown = grow(
        ...         "resnet20", "digits", out, config, workers=1, device="cpu"
        ...     )
        ...     layers = list(grown.model.modules())
        >>> [row["step"] for row in grown.record.all("step")]
        [0, 1]
    """
    values = {"model": model, "data": data, **settings}
    if config is not None:
        values["grow"] = to_dict(config)
    job = from_dict(GrowRunConfig, values, "grow")
    out = Path(out)
    with keeping_random_state("grow", seed=job.seed):
        journal = run_grow(job, out, resume=resume, watch=watch, workers=workers)
    return FinishedRun(out, journal.record, out / "grown", trust=True)


def search(
    model: str,
    data: str,
    budget: BudgetLike,
    out: str | Path,
    *,
    resume: bool = False,
    workers: int | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> FinishedRun:
    """Grow, push and prune a network and its rivals, and return the run [Tian, chapter 4].

    It works on names and in a run folder, as `prunus search` does, whose page it writes too.

    Args:
        model: the network to grow, or with `grow=None` to start from.
        data: a data set by name (`prunus data` lists them).
        budget: what is left of the grown network at most, such as `"params=40%"`.
        out: the folder of the run, new or of this run; the derived network is in `out/derived`.
        workers: processes that train candidates of growing.
        settings: other fields of `SearchConfig`, such as `rivals=("l1",)` or `seed=1`.

    Raises:
        ConfigError: a setting, rival or network does not exist or fit.
        BudgetError: the budget cannot be read or reached.
        RunFolderError: `out` holds another run, or this one and `resume` is off.
        UnknownNameError, DataError, WeightsError, NonFiniteError: see their messages.

    Example:
        >>> import tempfile
        >>> from prunus.pipelines import SearchPruneConfig
        >>> from prunus.training import TrainConfig
        >>> none, brief = TrainConfig(epochs=0), TrainConfig(epochs=1)
        >>> prune = SearchPruneConfig(
        ...     criterion="l1", allocation="global", drop_branches=False, iterations=1,
        ...     finetune=none, final=none, runtimes=(),
        ... )
        >>> with tempfile.TemporaryDirectory() as out:
        ...     found = search(
        ...         "lenet300", "digits", {"params": "50%"}, out, grow=None, train=brief,
        ...         prune=prune, rivals=(), finish=False, scratch="none", export=(), device="cpu",
        ...     )
        ...     small = sum(p.numel() for p in found.model.parameters())
        >>> [row["key"] for row in found.record.all("arm")]
        ['pushed', 'derived']
    """
    values = {"model": model, "data": data, "budget": budget_text(budget), **settings}
    config = from_dict(SearchConfig, values, "search")
    out = Path(out)
    with keeping_random_state("search", seed=config.seed):
        journal = run_search(config, out, resume=resume, watch=watch, workers=workers)
    return FinishedRun(out, journal.record, out / "derived", trust=True)
