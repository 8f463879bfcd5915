"""The commands that write, each on the smallest network and data that let it do all it can."""

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from tests.cli.command import prunus_
from tests.crash.clock import standing_still
from tests.crash.sweep import Ended, Sweep

DIGITS = ("--data", "digits", "--input-shape", "1,8,8", "--device", "cpu", "--batch-size", "512")
NET = ("--model", "lenet300", *DIGITS)
CUT = (
    *("--criterion", "l1", "--iterations", "2", "--set", "prune.compensate=pointwise"),
    *("--set", "prune.intervals=false", "--set", "prune.blocks=2", "--set", "prune.runtimes=[]"),
)
BRIEF = ("--epochs", "1", "--finetune-epochs", "1", "--final-epochs", "1")
GROWING = Path(__file__).parents[1] / "pipelines" / "growing_net.py"


def ran(*arguments: str | Path) -> None:
    """Run a command, which must succeed."""
    code = prunus_(*arguments)
    if code:
        raise Ended(code)


def run(name: str, verb: str, *arguments: str, stride: int = 1) -> Sweep:
    """Return the sweep of a command with a run folder; the journal holds the command line."""

    def resume(out: Path) -> None:
        ran(verb, *arguments, "--out", out, "--resume")

    return Sweep(name, start=resume, resume=resume, stride=stride)


@cache
def finished() -> Path:
    """Return a finished run, kept for this process."""
    out = Path(mkdtemp(prefix="crash")) / "run"
    with standing_still():
        ran("prune", *NET, *CUT, *BRIEF, "--budget", "params=50%", "--export", "", "--out", out)
    return out


def put(out: Path) -> None:
    shutil.copytree(finished(), out)


def exported(out: Path) -> None:
    ran("export", out, "--format", "onnx,pt2")


def scored(out: Path) -> None:
    ran("score", finished(), "--out", out, "--device", "cpu")


def saved(out: Path) -> None:
    """Save the report of `prunus.prune`, as a script would again."""
    _report().save(out)  # type: ignore[attr-defined]


@cache
def _report() -> object:
    import prunus
    from prunus.data import load_data
    from prunus.models import build_model

    brief = prunus.TrainConfig(epochs=0)
    config = prunus.PruneConfig(
        criterion="l1", compensate="none", iterations=1, finetune=brief, final=brief, runtimes=()
    )
    data = load_data("digits", input_shape=(1, 8, 8), batch_size=512)
    model = build_model("lenet300", num_classes=10, input_shape=(1, 8, 8))
    return prunus.prune(model, data.train, "params=50%", config=config, device="cpu")[1]


SWEEPS = (
    run(
        *("prune", "prune", *NET, *CUT, *BRIEF, "--budget", "params=50%", "--export", "onnx,pt2"),
        *("--set", "prune.keep_networks=true"),
    ),
    run(
        *("prune to an accuracy", "prune", *NET, *CUT, *BRIEF, "--export", ""),
        *("--budget", "accuracy>=60%", "--set", "prune.iterations_max=3"),
    ),
    run("train", "train", *NET, "--epochs", "2"),
    run("push", "push", *NET, "--epochs", "1"),
    run(
        *("grow", "grow", "--model", f"{GROWING}:Net", *DIGITS, "--workers", "1"),
        *("--steps", "1", "--base-epochs", "1", "--candidate-epochs", "1", "--epochs", "1"),
        *("--set", "grow.images=64"),
    ),
    run(
        *("search", "search", "--model", f"{GROWING}:Net", *DIGITS, *CUT, "--workers", "1"),
        *("--budget", "params=60%", "--steps", "1", "--base-epochs", "1", "--epochs", "1"),
        *("--candidate-epochs", "1", "--finetune-epochs", "1", "--final-epochs", "0"),
        *("--allocation", "global", "--set", "prune.drop_branches=false", "--rivals", "random"),
        *("--set", "grow.images=64", "--set", "export=[]", "--fixed", "lenet300"),
        stride=3,
    ),
    Sweep("export", start=exported, resume=exported, prepare=put),
    Sweep("score", start=scored, resume=scored),
    Sweep("save", start=saved, resume=saved),
)
