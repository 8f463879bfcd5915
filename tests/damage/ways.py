"""Ways to damage a file: what disks, tools and strangers do to it."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prunus.core import RECORD, digest, rows_to_lines

#: Takes the folder, the file's name in it and a file of another run of that name, if there is one.
Way = Callable[[Path, str, Path | None], None]

TEXTS = (".yaml", ".json", ".jsonl")


def put(path: Path, content: bytes) -> None:
    """Write a file anew: the folders of the corpus share theirs by hard links."""
    path.unlink()
    path.write_bytes(content)


def flipped(at: float) -> Way:
    """Flip one bit, at a share of the file."""

    def flip(folder: Path, name: str, other: Path | None) -> None:
        content = bytearray((folder / name).read_bytes())
        place = min(int(at * len(content)), len(content) - 1)
        content[place] ^= 1 << (place % 3)
        put(folder / name, bytes(content))

    return flip


def changed(change: Callable[[bytes], bytes]) -> Way:
    def apply(folder: Path, name: str, other: Path | None) -> None:
        put(folder / name, change((folder / name).read_bytes()))

    return apply


def replaced(make: Callable[[Path], Any]) -> Way:
    def apply(folder: Path, name: str, other: Path | None) -> None:
        (folder / name).unlink()
        make(folder / name)

    return apply


def loop(path: Path) -> None:
    path.symlink_to(path.name + "~")
    path.with_name(path.name + "~").symlink_to(path.name)


def foreign(folder: Path, name: str, other: Path | None) -> None:
    assert other is not None
    put(folder / name, other.read_bytes())


def nothing(folder: Path, name: str, other: Path | None) -> None:
    """Damage no byte: the file may not be read (`judge.unreadable`)."""


WAYS: dict[str, Way] = {
    "missing": replaced(lambda path: None),
    "empty": changed(lambda content: b""),
    "half": changed(lambda content: content[: len(content) // 2]),
    "longer": changed(lambda content: content + b"\0"),
    "bit of the head": flipped(0.0),
    "bit at a tenth": flipped(0.1),
    "bit of the middle": flipped(0.5),
    "bit of the end": flipped(1.0),
    "random": changed(lambda content: random.Random(0).randbytes(len(content))),
    "of another run": foreign,
    "directory": replaced(Path.mkdir),
    "FIFO": replaced(os.mkfifo),
    "dangling link": replaced(lambda path: path.symlink_to("nowhere")),
    "loop of links": replaced(loop),
    "unreadable": nothing,
}
#: These are only for files of text.
TEXT_WAYS: dict[str, Way] = {
    "UTF-16": changed(lambda content: content.decode().encode("utf-16")),
    "byte order mark": changed(lambda content: b"\xef\xbb\xbf" + content),
    "CRLF": changed(lambda content: content.replace(b"\n", b"\r\n")),
}
#: Ways that leave no file, as far as `Path.exists` tells.
GONE = ("missing", "dangling link", "loop of links")


def seal(folder: Path) -> None:
    """Make a journal whose seals are those of the files that are there: a stranger's folder."""
    rows = rows_of(folder)
    for row in rows:
        if row["event"] == "files":
            there = (name for name in row["sha256"] if (folder / name).is_file())
            row["sha256"] |= {name: digest(folder / name) for name in there}
    put(folder / RECORD, rows_to_lines(rows)[0].encode())


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / RECORD).read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "crc32"} for row in rows]


def journal_of(rows: list[str]) -> bytes:
    """Return lines of JSON, which may hold what `json.dumps` refuses, with right checksums."""
    import zlib

    lines, summed = [], 0
    for body in rows:
        summed = zlib.crc32(body.encode(), summed)
        lines.append(f'{body[:-1]}, "crc32": "{summed:08x}"}}\n')
    return "".join(lines).encode()


def plan_with(change: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    def apply(content: bytes) -> bytes:
        plan = json.loads(content)
        return json.dumps(change(plan) or plan).encode()

    return apply


def first_edit(plan: Any) -> Any:
    """Return the first edit of a module of a plan."""
    return next(iter(next(iter(plan["modules"].values())).values()))


def removes(*indices: int) -> Callable[[bytes], bytes]:
    def change(plan: Any) -> None:
        first_edit(plan)["removed"] += indices

    return plan_with(change)


def text(old: str, new: str) -> Callable[[bytes], bytes]:
    def apply(content: bytes) -> bytes:
        assert old.encode() in content, old
        return content.replace(old.encode(), new.encode(), 1)

    return apply


DEEP = b"[" * 100_000 + b"]" * 100_000
#: Contents of a plan that a stranger may have sealed.
PLANS: dict[str, Callable[[bytes], bytes]] = {
    "NaN": text('"of": ', '"of": NaN, "was": '),
    "1e999": text('"of": ', '"of": 1e999, "was": '),
    "a number of 5000 digits": text('"of": ', '"of": ' + "9" * 5000 + ', "was": '),
    "deep": lambda content: DEEP,
    "a list": lambda content: b"[1]",
    "a string": lambda content: b'"plan"',
    "null": lambda content: b"null",
    "a key twice": text('"format": 1', '"format": 1, "format": 1'),
    "format 2": text('"format": 1', '"format": 2'),
    "an unknown key": text('"format": 1', '"format": 1, "new": 1'),
    "a negative index": removes(-1),
    "an index twice": plan_with(
        lambda plan: first_edit(plan)["removed"].append(first_edit(plan)["removed"][0])
    ),
    "an index too large": removes(10**6),
    "a width of 10**18": plan_with(lambda plan: first_edit(plan).update(of=10**18)),
    "an unknown module": text(
        '"modules": {', '"modules": {"none": {"out": {"of": 1, "removed": []}},'
    ),
    "no layer": text('"modules": {', '"modules": {"": {"out": {"of": 1, "removed": [0]}},'),
    "an unknown axis": text('"out": {', '"outs": {'),
    "modules a list": plan_with(lambda plan: plan.update(modules=[1])),
    "an edit null": plan_with(lambda plan: next(iter(plan["modules"].values())).update(out=None)),
    "group of 10**30": plan_with(
        lambda plan: next(iter(plan["groups"].values())).update(of=10**30)
    ),
}
BOMB = "\n".join(
    ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    + [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
)
MERGES = "\n".join(
    ["a0: &a0 {x: 1}"]
    + [f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 10)]
)
#: Contents of a configuration that a stranger may have sealed.
CONFIGS: dict[str, Callable[[bytes], bytes]] = {
    "a Python object": lambda content: content + b"x: !!python/object/apply:os.system ['true']\n",
    "repetitions": lambda content: content + BOMB.encode() + b"\n",
    "repetitions in options": text("  options: {}", "  options: {x: &x [*x]}"),
    "repeated merges": lambda content: content + MERGES.encode() + b"\n",
    "deep": lambda content: content + b"x: " + DEEP + b"\n",
    "a list": lambda content: b"- 1\n",
    "null": lambda content: b"null\n",
    "a string": lambda content: b"text\n",
    "version 2": text("version: 1", "version: 2"),
    "version true": text("version: 1", "version: true"),
    "an unknown key": lambda content: content + b"new: 1\n",
    "a key twice": lambda content: content + b"model: lenet5\n",
    "a key that is a number": lambda content: content + b"1: 2\n",
    "a key that is a list": lambda content: content + b"? [1]\n: 2\n",
    "a date that is none": lambda content: content + b"x: 2001-99-99\n",
    "an integer that is none": lambda content: content + b"x: !!int ''\n",
    "a model that is none": text("model: lenet300", "model: 3"),
    "an unknown model": text("model: lenet300", "model: lenet301"),
    "infinity": text("ridge: 0.001", "ridge: .inf"),
    "classes that fill the memory": text("num_classes: 10", "num_classes: 1000000000000000"),
    "a shape that fills the memory": text("- 8\n- 8", "- 1000000000\n- 1000000000"),
    "a shape beyond 64 bits": text("- 8\n- 8", "- 100000000000000000000\n- 8"),
    "NUL": lambda content: content + b"x: \0\n",
}


def tensors(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def apply(content: bytes) -> bytes:
        from safetensors.torch import load, save

        state = load(content)
        change(state)
        return save(state)

    return apply


def _first(state: dict[str, Any]) -> str:
    return next(name for name in sorted(state) if name.endswith("bias"))


def _select(state: dict[str, Any]) -> None:
    (index,) = [name for name in state if name.endswith(".index")][:1]
    state[index][0] = 10_000


#: Contents of weights that a stranger may have sealed.
WEIGHTS: dict[str, Callable[[bytes], bytes]] = {
    "a header of 2**62 bytes": lambda content: struct.pack("<Q", 2**62) + content[8:],
    "a header of 99 MB": lambda content: struct.pack("<Q", 99_000_000) + content[8:],
    "a deep header": lambda content: struct.pack("<Q", len(DEEP)) + DEEP,
    "a list as header": lambda content: struct.pack("<Q", 2) + b"[]",
    "NaN": tensors(lambda state: state[_first(state)].fill_(float("nan"))),
    "a further tensor": tensors(lambda state: state.update(more=state[_first(state)].clone())),
    "complex numbers": tensors(
        lambda state: state.update({_first(state): state[_first(state)].cfloat()})
    ),
    "another shape": tensors(
        lambda state: state.update({_first(state): state[_first(state)][:-1].clone()})
    ),
    "selection out of range": tensors(_select),
}
