"""Who reads what: every command and call, the files that its answer depends on, and its answer.

The table says what *must* be read with care, not what happens to be: `judge.expected` derives from
it what is right for each damage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from torch import nn

import prunus
from prunus.core import PrunusError, digest, read_text
from prunus.pipelines import run_diff
from prunus.plan import Plan
from prunus.runs import FinishedRun, Journal, read_plan, run_load
from tests.cli.command import prunus_
from tests.damage import folders

#: Returns the answer to compare; a command returns its exit code and what it printed.
Call = Callable[[Path, Path], Any]

RECORD, CONFIG, PLAN, MODEL = "record.jsonl", "config.yaml", "plan.json", "model.safetensors"
DENSE, PLANS = "dense.safetensors", "plans.json"
ONNX, PT2, NETWORKS = "model.onnx", "model.pt2", "networks/*.safetensors"


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A command or a call that reads a folder.

    Attributes:
        call: takes the damaged folder and an empty one.
        reads: names of files, or patterns, that its answer depends on.
        optional: those of them that may be missing.
        sealed: whether what it reads is held against the journal; a bare file cannot be.
        slow: whether an answer takes more than a moment; it is then asked for less often.
    """

    call: Call
    reads: Sequence[str]
    optional: Sequence[str] = ()
    sealed: bool = True
    slow: bool = False

    def reads_file(self, name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in self.reads)

    def does_without(self, name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in self.optional)


def bits(model: nn.Module) -> list[Any]:
    return [(name, tensor.tolist()) for name, tensor in model.state_dict().items()]


def command(*arguments: str | Path) -> Call:
    """Return a command: `RUN` is the damaged folder, `OUT` the empty one, `GOOD` a whole run."""

    def call(run: Path, out: Path) -> int:
        places = {"RUN": run, "OUT": out / "new", "GOOD": run.parent / "good"}
        return prunus_(*(_placed(str(word), places) for word in arguments))

    return call


def _placed(word: str, places: dict[str, Path]) -> str | Path:
    """Return a word with the folder that it begins with."""
    first, _, rest = word.partition("/")
    return places[first] / rest if first in places else word


def within(name: str, *arguments: str | Path) -> Call:
    """Return a command on a file of the folder."""
    return lambda run, out: prunus_(*(run / name if word == "FILE" else word for word in arguments))


def resume(*arguments: str) -> Call:
    """Go on with a run; the answer is the network that it ends with."""

    def call(run: Path, out: Path) -> Any:
        if (code := prunus_(*arguments, "--out", run, "--resume")) != 0:
            return code
        return sorted((str(p.relative_to(run)), digest(p)) for p in run.rglob("model.safetensors"))

    return call


def told(run: Path, out: Path) -> Any:
    """Return what `run_load` finds; that something differs is a refusal."""
    audit = run_load(run)
    if not audit.intact:
        raise PrunusError("; ".join(c.note for c in audit.checks if c.status == "differs"))
    return audit.to_dict() | {"run": ""}


NETWORK = (CONFIG, RECORD, PLAN, MODEL)
SEALED = (*NETWORK, DENSE, PLANS, ONNX, PT2, NETWORKS)
#: Of the folder of a finished run of `prune`.
FINISHED: dict[str, Reader] = {
    "load": Reader(call=command("load", "RUN"), reads=SEALED, optional=(DENSE,)),
    "report": Reader(call=command("report", "RUN"), reads=(CONFIG, RECORD, PLAN), slow=True),
    "diff": Reader(
        call=command("diff", "RUN", "GOOD", "--json"),
        reads=(CONFIG, RECORD, PLAN, DENSE),
        optional=(CONFIG, DENSE),
    ),
    "diff with": Reader(
        call=command("diff", "GOOD", "RUN", "--json"),
        reads=(CONFIG, RECORD, PLAN, DENSE),
        optional=(CONFIG, DENSE),
    ),
    "export onnx": Reader(call=command("export", "RUN"), reads=NETWORK, slow=True),
    "export pt2": Reader(
        call=command("export", "RUN", "--format", "pt2"), reads=NETWORK, slow=True
    ),
    "export elsewhere": Reader(
        call=command("export", "RUN", "--format", "pt2", "--out", "OUT"), reads=NETWORK, slow=True
    ),
    "score": Reader(call=command("score", "RUN", "--out", "OUT"), reads=NETWORK, slow=True),
    "eval": Reader(call=command("eval", "RUN", "--json", "--device", "cpu"), reads=NETWORK),
    "prune --resume": Reader(call=resume("prune"), reads=SEALED, optional=(ONNX, PT2), slow=True),
    "train --config": Reader(
        call=command("train", "--config", "RUN/config.yaml", "--epochs", "0", "--out", "OUT"),
        reads=(CONFIG, RECORD),
        optional=(RECORD,),
    ),
    "eval --weights": Reader(
        call=within(
            DENSE, "eval", "--model", "lenet300", *folders.DATA, "--weights", "FILE", "--json"
        ),
        reads=(DENSE, RECORD),
        optional=(RECORD,),
    ),
    "prunus.load": Reader(call=lambda run, out: bits(prunus.load(run)), reads=NETWORK),
    "prunus.load of a model": Reader(
        call=lambda run, out: bits(prunus.load(run, folders.network())),
        reads=NETWORK,
        optional=(CONFIG,),
    ),
    "prunus.load dense": Reader(
        call=lambda run, out: bits(prunus.load(run, dense=True)),
        reads=(CONFIG, RECORD, PLAN, DENSE),
    ),
    "FinishedRun.model": Reader(
        call=lambda run, out: bits(FinishedRun(run, Journal(run).record, run).model), reads=NETWORK
    ),
    "run_load": Reader(call=told, reads=SEALED, optional=(DENSE,)),
    "run_diff": Reader(
        call=lambda run, out: run_diff(run, run.parent / "good").plans,
        reads=(CONFIG, RECORD, PLAN, DENSE),
        optional=(CONFIG, DENSE),
    ),
    "Journal.plans": Reader(
        call=lambda run, out: Journal(run).plans(), reads=(RECORD, PLANS), optional=(RECORD, PLANS)
    ),
    "read_plan": Reader(call=lambda run, out: read_plan(run / PLAN), reads=(PLAN,), sealed=False),
}
#: What `load` needs to run the code of `model.pt2` is not given: its outputs are not compared.
TRAINED = {
    name: FINISHED[name]
    for name in ("load", "eval", "prunus.load", "prunus.load of a model", "run_load")
} | {
    "train --resume": Reader(call=resume("train"), reads=NETWORK),
    "push --resume": Reader(call=resume("push"), reads=(CONFIG, RECORD)),  # it is not its run
}
#: A run that was killed; `steps/002.pt` is the state of its last training.
UNFINISHED: dict[str, Reader] = {
    "prune --resume": Reader(
        call=resume("prune"),
        reads=(CONFIG, RECORD, DENSE, "steps/002-cut.*", "steps/001.*", "steps/002.pt"),
        optional=("steps/*.safetensors", "steps/*.pt"),
        slow=True,
    ),
    "report": Reader(call=command("report", "RUN"), reads=(CONFIG, RECORD), slow=True),
    "load": Reader(call=command("load", "RUN"), reads=()),
}
GROWN: dict[str, Reader] = {
    "grow --resume": Reader(
        call=resume("grow"),
        reads=(CONFIG, RECORD, "models/*.safetensors", "grown/*"),
        slow=True,
    ),
    "load grown": Reader(
        call=lambda run, out: bits(prunus.load(run / "grown")),
        reads=[f"grown/{name}" for name in NETWORK],
    ),
    "report": Reader(call=command("report", "RUN"), reads=(CONFIG, RECORD)),
}
SEARCHED: dict[str, Reader] = {
    "report": Reader(call=command("report", "RUN"), reads=(CONFIG, RECORD)),
    "search --resume": Reader(
        call=resume("search"), reads=(CONFIG, RECORD, "derived/record.jsonl", "derived/plans.json")
    ),
    "load derived": Reader(
        call=lambda run, out: bits(prunus.load(run / "derived")),
        reads=[f"derived/{name}" for name in NETWORK],
    ),
}
#: What `Report.save` wrote: the network is given by the caller.
SAVED: dict[str, Reader] = {
    "prunus.load of a model": Reader(
        call=lambda run, out: bits(prunus.load(run, folders.network())),
        reads=(RECORD, PLAN, MODEL),
    ),
    "load": Reader(
        call=command(
            "load", "RUN", "--model", "lenet300", "--input-shape", "1,8,8", "--num-classes", "10"
        ),
        reads=(RECORD, PLAN, MODEL, ONNX),
    ),
    "diff": Reader(
        call=lambda run, out: run_diff(run, run).plans, reads=(PLAN, RECORD), optional=(RECORD,)
    ),
}
#: A trainer's checkpoint: nothing seals it, so only what is no plan or no weights is found.
CHECKPOINT: dict[str, Reader] = {
    "prunus.load of a model": Reader(
        call=lambda run, out: bits(prunus.load(run, folders.network())),
        reads=(PLAN, MODEL),
        sealed=False,
    ),
    "read_plan": Reader(call=lambda run, out: read_plan(run / PLAN), reads=(PLAN,), sealed=False),
    "Plan.from_json": Reader(
        call=lambda run, out: Plan.from_json(read_text(run / PLAN)), reads=(PLAN,), sealed=False
    ),
}
READERS: dict[str, dict[str, Reader]] = {
    "finished": FINISHED,
    "unfinished": UNFINISHED,
    "train": TRAINED,
    "grow": GROWN,
    "search": SEARCHED,
    "saved": SAVED,
    "checkpoint": CHECKPOINT,
    "old": {name: reader for name, reader in FINISHED.items() if not reader.slow},
}
