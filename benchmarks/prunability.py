"""What can be pruned at all: every torchvision classifier, a small model of every timm family.

Random weights. Prunus traces a network without units at the input pixels, leaves out the groups
that `unsound_groups` finds, and cuts to 67 % of the MACs by a random plan (seed 0). It passes if

- the cut network computes what the masked one does, to 1e-4 of the largest output;
- a backward pass in training mode runs on two images;
- at least 25 % of the MACs are gone, attention's products included (`prunus.graph.count_macs`);
- in a process of its own, `prunus.load` gives the same outputs, bit for bit, from plan.json and
  model.safetensors on a new build whose weights are others (a column of its own);
- with `--onnx`, a column of its own: the export passes the project's gate.

`zoo.py` explains how weights are drawn so that the comparison is meaningful. As a check, the
plan and a change of the image must each move the outputs by 1e-2 of the largest (`effect`,
`sight` in the record).

Torch-Pruning's MagnitudePruner with L2 importance gets the same networks. The layers that make
the outputs are ignored, as Prunus finds them, and the numbers of heads are given; the forward pass
of a network is not rewritten for it, as its examples do for timm's attention. It is tried at
pruning ratios 0.18, 0.3 and 0.5, each on a new copy, and passes at the first at which forward
and backward run and at least 25 % of the MACs are gone. Whether it computes what it should is
not asked.

Each side of each model runs in a process of its own, so that a crash or a hang is one row.

Usage: python benchmarks/prunability.py --out FILE.jsonl [--zoos torchvision timm] [--families]
       [--only resnet18 timm:resnet18 …] [--onnx] [--sides ours rival] [--limit 240] [--jobs 1]
       python benchmarks/prunability.py --table FILE.jsonl [FILE.jsonl …]

Records of one side each are joined by the table.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import multiprocessing as mp
import shutil
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from prunus.batches import flatten_tensors
from prunus.criteria import score
from prunus.export import export_onnx, save_weights
from prunus.graph import Groups, count_macs, find_groups
from prunus.graph.probe import probe
from prunus.pipelines import load
from prunus.plan import make_plan
from prunus.surgery import mask_, replay_, unsound_groups
from zoo import LIBRARIES, Entry, build, named_entries, timm_entries, torchvision_entries

BUDGET = "macs=67%"
#: Share of the MACs that may stay, at most.
MOST_KEPT = 0.75
#: Largest difference between masked and cut, relative to the largest output.
TOLERANCE = 1e-4
#: Least change of the outputs by the plan, and by the image, relative to the largest output.
LEAST_CHANGE = 1e-2
RATIOS = (0.18, 0.3, 0.5)


class CheckError(Exception):
    """A check of this benchmark that a pruned network does not pass."""


def count(model: nn.Module, image: Tensor) -> int:
    """Return the multiply-accumulates of a forward pass, as budgets count them.

    Those of convolutions, linear layers and products of activations (attention), by ATen operation.
    """
    return count_macs(copy.deepcopy(model).eval(), image)


def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return all outputs in eval mode."""
    with torch.no_grad():
        return flatten_tensors(model.eval()(images))


def backward(model: nn.Module, images: Tensor) -> None:
    """Run forward and backward in training mode."""
    made = flatten_tensors(model.train()(images))
    torch.stack([tensor.sum() for tensor in made if tensor.requires_grad]).sum().backward()


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    """Return the largest difference relative to the largest value, over all outputs."""
    if [t.shape for t in one] != [t.shape for t in other]:
        raise CheckError("the shape of the outputs changes")
    pairs = list(zip(one, other, strict=True))
    for tensor in (*one, *other):
        if not torch.isfinite(tensor).all() or not tensor.any():
            raise CheckError("the outputs are all 0, or not finite")
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def ours(entry: Entry, onnx: bool, folder: Path) -> Iterator[dict[str, Any]]:
    """Prune by Prunus; yield what is found, with the name of the stage that comes next.

    What is left of the network goes into `folder`, for `reload`.
    """
    yield {"stage": "build"}
    model, images = build(entry)
    image = images[:1]
    dense, macs = outputs(model, image), count(model, image)
    sight = distance(dense, outputs(model, images[1:]))
    params = sum(p.numel() for p in model.parameters())
    yield {"stage": "trace", "params": params, "macs": macs, "sight": sight}
    groups = find_groups(model, image, inputs=False)
    yield {"stage": "verify", "groups": len(groups)}
    unsound = unsound_groups(groups, image)
    groups = groups.without(unsound)
    yield {"stage": "plan", "unsound": unsound, "unprunable": unprunable(groups, unsound)}
    groups.require_any()
    plan = make_plan(groups, score(groups, None, "random", seed=0), BUDGET)
    yield {"stage": "cut"}
    expected = outputs(mask_(copy.deepcopy(model), plan), image)
    cut = replay_(copy.deepcopy(model), plan)
    found = outputs(cut, image)
    difference, effect = distance(expected, found), distance(dense, expected)
    kept = count(cut, image) / macs
    yield {"stage": "check", "difference": difference, "effect": effect, "macs_kept": kept}
    if difference > TOLERANCE:
        raise CheckError(f"cut and masked differ by {difference:.2g} of the largest output")
    for change, cause in ((effect, "the plan"), (sight, "another image")):
        if change < LEAST_CHANGE:
            raise CheckError(f"{cause} moves the outputs by {change:.2g}: nothing is compared")
    if kept > MOST_KEPT:
        raise CheckError(f"{100 * kept:.0f} % of the MACs are left")
    yield {"stage": "backward"}
    backward(copy.deepcopy(cut), images)
    (folder / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    save_weights(cut, folder / "model.safetensors")
    torch.save(found, folder / "outputs.pt")
    yield {"ok": True}
    if onnx:
        yield {"stage": "onnx", "onnx": "no answer"}
        yield {"onnx": exported(cut.eval(), image)}


@torch.no_grad()
def reload(entry: Entry, onnx: bool, folder: Path) -> Iterator[dict[str, Any]]:
    """Load what `ours` left in `folder` into a new build, and compare the outputs."""
    yield {"stage": "build"}
    model, images = build(entry)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)  # nothing may be left over from the constructor
    yield {"stage": "load"}
    found = outputs(load(folder, model=model), images[:1])
    expected = torch.load(folder / "outputs.pt")
    if not all(torch.equal(a, b) for a, b in zip(expected, found, strict=True)):
        raise CheckError("the outputs are others")
    yield {"ok": True}


def unprunable(groups: Groups, unsound: dict[str, str]) -> dict[str, list[Any]]:
    """Return what tracing left whole: reason → how many modules, and the first."""
    found: dict[str, list[str]] = defaultdict(list)
    for entry in groups.unprunable:
        if entry.module not in unsound:
            found[entry.reason].append(entry.module)
    return {reason: [len(names), names[0]] for reason, names in found.items()}


def exported(model: nn.Module, image: Tensor) -> bool | str:
    """Return whether the ONNX gate opens, or why not."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            export_onnx(model, image, Path(folder) / "cut.onnx")
        except Exception as error:
            return words(error)
    return True


def rival(entry: Entry, onnx: bool, folder: Path) -> Iterator[dict[str, Any]]:
    """Prune by Torch-Pruning; the reason is that of the first ratio that failed."""
    yield {"stage": "build"}
    model, images = build(entry)
    image = images[:1]
    macs = count(model, image)
    ends = probe(copy.deepcopy(model), (image,)).ends
    yield {"stage": "prune"}
    failed, kept = "", 1.0
    for ratio in RATIOS:
        cut = copy.deepcopy(model)
        try:
            tp.pruner.MagnitudePruner(
                cut,
                image,
                importance=tp.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=ratio,
                ignored_layers=[cut.get_submodule(name) for name in sorted(ends)],
                num_heads=heads(cut),
            ).step()
            outputs(cut, image)
            kept = count(cut, image) / macs
            backward(cut, images)
        except Exception as error:
            failed = failed or f"at ratio {ratio}: {words(error)}"
            continue
        if kept <= MOST_KEPT:
            yield {"ok": True, "ratio": ratio, "macs_kept": kept}
            return
    raise CheckError(failed or f"{100 * kept:.0f} % of the MACs are left at ratio {RATIOS[-1]}")


def heads(model: nn.Module) -> dict[nn.Module, int]:
    """Return the number of heads of each attention, as Torch-Pruning wants it."""
    found: dict[nn.Module, int] = {}
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            found[module] = module.num_heads
        elif isinstance(getattr(module, "qkv", None), nn.Linear) and hasattr(module, "num_heads"):
            found[module.qkv] = module.num_heads
    return found


SIDES = {"ours": ours, "reload": reload, "rival": rival}


def words(error: BaseException) -> str:
    """Return an error as one line."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, CheckError) else f"{type(error).__name__}: {text}"


def work(side: str, entry: Entry, onnx: bool, threads: int, folder: Path, pipe: Connection) -> None:
    """Child process: send what is found, piece by piece."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        for facts in SIDES[side](entry, onnx, folder):
            pipe.send(facts)
    except Exception as error:
        pipe.send({"ok": False, "error": words(error)})


@dataclass
class Child:
    """A running side of a model, and what it has sent so far."""

    entry: Entry
    side: str
    process: Any
    start: float
    facts: dict[str, Any] = field(default_factory=lambda: {"stage": "start"})

    def finish(self, limit: float) -> dict[str, Any]:
        """End the process and return its facts; without a verdict, say how it ended."""
        late = time.monotonic() - self.start >= limit
        if late:
            self.process.kill()
        self.process.join()
        if "ok" not in self.facts:
            end = f"the process died (exit code {self.process.exitcode})"
            self.facts |= {"ok": False, "error": f"no answer in {limit:.0f} s" if late else end}
        return self.facts | {"seconds": round(time.monotonic() - self.start, 1)}


def run_all(
    tasks: list[tuple[Entry, str]], options: argparse.Namespace
) -> Iterator[tuple[Entry, str, dict[str, Any]]]:
    """Run `options.jobs` tasks at a time, each in a fork; yield each when it ends."""
    context = mp.get_context("fork")
    running: dict[Connection, Child] = {}
    queue = list(reversed(tasks))
    folders: dict[str, Path] = {}
    while queue or running:
        while queue and len(running) < options.jobs:
            entry, side = queue.pop()
            pipe, theirs = context.Pipe(duplex=False)
            if entry.key not in folders:
                folders[entry.key] = Path(tempfile.mkdtemp(prefix="prunability-"))
            process = context.Process(
                target=work,
                args=(side, entry, options.onnx, options.threads, folders[entry.key], theirs),
                daemon=True,
            )
            process.start()
            theirs.close()
            running[pipe] = Child(entry, side, process, time.monotonic())
        first = min(child.start for child in running.values()) + options.limit
        ready = wait(list(running), timeout=max(0.0, first - time.monotonic()))
        for pipe, child in list(running.items()):
            ended = time.monotonic() - child.start >= options.limit
            if pipe in ready and not ended:
                try:
                    child.facts |= pipe.recv()
                except EOFError:
                    ended = True
            if ended:
                del running[pipe]
                pipe.close()
                facts = child.finish(options.limit)
                if child.side == "ours" and "reload" in options.sides and facts["ok"]:
                    queue.append((child.entry, "reload"))
                elif child.side in ("ours", "reload"):
                    shutil.rmtree(folders[child.entry.key], ignore_errors=True)
                yield child.entry, child.side, facts


def run(options: argparse.Namespace) -> None:
    """Try every model that has no row yet; write a row when all its sides are done."""
    if options.only:
        entries = named_entries(options.only)
    else:
        entries = torchvision_entries(options.families) if "torchvision" in options.zoos else []
        entries += timm_entries() if "timm" in options.zoos else []
    done = {row["model"] for row in (read([options.out]) if options.out.exists() else [])}
    left = [entry for entry in entries if entry.key not in done]
    print(f"{len(left)} models to try, {len(entries) - len(left)} have rows already")
    sides = options.sides
    parts: dict[str, dict[str, Any]] = defaultdict(dict)
    tasks = [(entry, side) for entry in left for side in sides if side != "reload"]
    for entry, side, facts in run_all(tasks, options):
        parts[entry.key][side] = facts
        verdict = "passed" if facts["ok"] else f"{facts['stage']}: {facts['error']}"[:150]
        print(f"{entry.key:42} {side:5} {facts['seconds']:6.1f} s  {verdict}", flush=True)
        wanted = [s for s in sides if s != "reload" or parts[entry.key].get("ours", {}).get("ok")]
        if len(parts[entry.key]) < len(wanted):
            continue
        row = {
            "zoo": entry.zoo,
            "family": entry.family,
            "model": entry.key,
            "options": entry.options,
            "version": LIBRARIES[entry.zoo],
            "torch": torch.__version__,
            "torch_pruning": version("torch-pruning"),  # tp.__version__ is that of a release before
            **parts[entry.key],
        }
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def read(paths: list[Path]) -> list[dict[str, Any]]:
    """Return the rows of records, one a model; of a side with several, the last."""
    rows: dict[str, dict[str, Any]] = {}
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows[row["model"]] = rows.get(row["model"], {}) | row
    return list(rows.values())


def table(paths: list[Path]) -> None:
    """Print the summary, the failures and the unsound groups as Markdown."""
    rows = read(paths)
    print("| zoo | | Prunus | reloaded | Torch-Pruning | ONNX |\n|---|---|---|---|---|---|")
    for zoo in dict.fromkeys(row["zoo"] for row in rows):
        same = [row for row in rows if row["zoo"] == zoo]
        families: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in same:
            families[row["family"]].append(row)
        onnx = _share(
            [r["onnx"] is True for r in (row.get("ours", {}) for row in same) if "onnx" in r]
        )
        models = " | ".join(_share(_passed(same, side)) for side in SIDES)
        print(f"| {zoo} {same[0]['version']} | models | {models} | {onnx} |")
        each = {side: [_passed(f, side) for f in families.values()] for side in SIDES}
        joined = " | ".join(_share([all(f) for f in each[side] if f]) for side in SIDES)
        print(f"| | families, all their models | {joined} | |")
    print("\n### What failed\n\n| model | Prunus | reloaded | Torch-Pruning | ONNX |")
    print("|---|---|---|---|---|")
    for row in rows:
        cells = [_verdict(row.get(side)) for side in SIDES]
        onnx = row.get("ours", {}).get("onnx")
        cells.append("–" if onnx is None else "passed" if onnx is True else _cell(onnx))
        if any(cell not in ("passed", "–") for cell in cells):
            print(f"| {row['model']} | {' | '.join(cells)} |")
    print("\n### Groups that were traced and found unsound\n")
    print("| model | groups | unsound | the first, and why |\n|---|---|---|---|")
    for row in rows:
        if unsound := row.get("ours", {}).get("unsound"):
            name, why = next(iter(unsound.items()))
            text = _cell(f"`{name}`: {why}")
            print(f"| {row['model']} | {row['ours']['groups']} | {len(unsound)} | {text} |")


def _passed(rows: list[dict[str, Any]], side: str) -> list[bool]:
    return [row[side]["ok"] for row in rows if side in row]


def _share(passed: list[bool]) -> str:
    return f"{sum(passed)} of {len(passed)}" if passed else "–"


def _verdict(facts: dict[str, Any] | None) -> str:
    if facts is None:
        return "–"
    return "passed" if facts["ok"] else _cell(f"{facts['stage']}: {facts['error']}")


def _cell(text: str) -> str:
    return (text if len(text) <= 160 else text[:159] + "…").replace("|", "\\|")


def main() -> None:
    """Try the models, or print the tables of records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoos", nargs="+", default=list(LIBRARIES), choices=LIBRARIES)
    parser.add_argument("--families", action="store_true", help="torchvision: one a family")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these, of any zoo")
    parser.add_argument("--onnx", action="store_true", help="export too; it takes long")
    parser.add_argument(
        "--sides", nargs="+", default=list(SIDES), choices=SIDES, help="reload goes with ours"
    )
    parser.add_argument("--limit", type=float, default=240.0, help="seconds a side of a model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--out", type=Path, help="record, continued where it ends")
    task.add_argument("--table", type=Path, nargs="+", help="print the tables of records")
    options = parser.parse_args()
    if options.table:
        table(options.table)
    else:
        run(options)


if __name__ == "__main__":
    main()
