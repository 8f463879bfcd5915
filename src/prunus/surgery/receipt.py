"""What surgery did, and what it takes to undo it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from prunus.core import (
    WeightsError,
    html_table,
    parse_json,
    require_regular,
    to_json,
    write_whole,
)
from prunus.modules import Baked, baked_words, same_bits
from prunus.plan import Plan
from prunus.surgery.repair import Repair

__all__ = ["Memory", "Receipt", "remember", "saved_shapes", "state_of", "tensors_of"]

#: Format version of a receipt; 1 had no digest of its tensors.
FORMAT = 2
#: What reading a value of another kind raises.
UNREADABLE = TypeError, ValueError, AttributeError


@dataclass(frozen=True, eq=False, repr=False)
class Memory:
    """The values that undoing needs, on the CPU, by the names of parameters and buffers.

    Attributes:
        dense: every tensor before surgery: also those it left alone, since training may not.
        cut: the tensors that differ after surgery in shape or bits, with their values then.
        shapes: the shape of every tensor of the state dict after surgery. Non-persistent buffers
            are not among them: some are caches, whose shape may change whenever the network runs.
        baked: what computed weights that are plain now; not written to files.
    """

    dense: Mapping[str, Tensor]
    cut: Mapping[str, Tensor]
    shapes: Mapping[str, tuple[int, ...]]
    baked: Sequence[Baked] = ()

    def __repr__(self) -> str:
        return f"Memory({len(self.dense)} tensors, {self.bytes:,} bytes)"

    @property
    def bytes(self) -> int:
        """What is held: the dense network once, and what surgery changed."""
        return sum(t.nbytes for part in (self.dense, self.cut) for t in part.values())


@dataclass(frozen=True, eq=False, repr=False)
class Receipt:
    """What a plan changed.

    Attributes:
        params: parameters before and after.
        channels: module → axis → (channels before, after).
        repairs: what compensation did to each consumer.
        batchnorms: how many BatchNorm layers were re-estimated.
        plan: the plan that was carried out.
        network: the class of the network.
        baked: modules whose weight was computed from other tensors and is a plain parameter now,
            with what computed it ("weight norm").
        memory: what `undo_` needs; None where `apply_` kept nothing (`undo=False`).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = prunus.find_groups(net, torch.zeros(1, 4))
        >>> loader = [(torch.randn(32, 4), torch.arange(32) % 2)]
        >>> statistics = prunus.collect(net, loader, groups)
        >>> scores = prunus.score(groups, statistics)
        >>> plan = prunus.make_plan(groups, scores, "macs=50%")
        >>> prunus.apply_(net, plan, statistics).params
        (58, 30)
    """

    params: tuple[int, int]
    channels: dict[str, dict[str, tuple[int, int]]]
    repairs: tuple[Repair, ...]
    batchnorms: int
    plan: Plan = field(default_factory=Plan)
    network: str = ""
    memory: Memory | None = None
    baked: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        repaired = sum(not repair.reason for repair in self.repairs)
        undo = f"undo holds {self.bytes:,} bytes" if self.memory else "cannot be undone"
        return (
            f"Receipt({self.network or 'network'}: {self.params[0]:,} → {self.params[1]:,} params; "
            f"{repaired} of {len(self.repairs)} layers repaired, {self.batchnorms} BatchNorms "
            f"re-estimated; {undo}{f'; {baked_words(self.baked)}' if self.baked else ''})"
        )

    def _repr_html_(self) -> str:
        repairs = {repair.module: repair for repair in self.repairs}
        rows = []
        for name, axes in self.channels.items():
            repair = repairs.get(name)
            left = "" if repair is None or repair.left is None else f"{100 * repair.left:.1f} %"
            said = repair.reason if repair is not None else ""
            widths = ", ".join(f"{axis} {was:,} → {now:,}" for axis, (was, now) in axes.items())
            rows.append((name, widths, left or said))
        return html_table(repr(self), ("module", "channels", "energy left unrepaired"), rows)

    @property
    def bytes(self) -> int:
        """Bytes of tensors held for `undo_`, and written by `save`; 0 where nothing is kept."""
        return self.memory.bytes if self.memory else 0

    def save(self, path: str | Path) -> int:
        """Write the receipt as one safetensors file, its JSON in the metadata; return its bytes.

        Equal receipts give equal files; there is no pickle in them.
        """
        body: dict[str, Any] = {
            "format": FORMAT,
            "params": self.params,
            "channels": self.channels,
            "repairs": [asdict(repair) for repair in self.repairs],
            "batchnorms": self.batchnorms,
            "plan": json.loads(self.plan.to_json()),
            "network": self.network,
            **({"baked": dict(self.baked)} if self.baked else {}),
            "shapes": None if self.memory is None else dict(self.memory.shapes),
        }
        tensors = {}
        if self.memory is not None:
            tensors = {f"dense/{name}": t for name, t in self.memory.dense.items()}
            tensors |= {f"cut/{name}": t for name, t in self.memory.cut.items()}
        body["sha256"] = _digest(body, tensors)
        content = save(tensors, metadata={"receipt": to_json(body)})
        write_whole(Path(path), content)
        return len(content)

    @classmethod
    def load(cls, path: str | Path) -> Receipt:
        """Read what `save` wrote.

        Raises:
            WeightsError: there is no such file, it is damaged, or it holds no receipt of a known
                format.
        """
        path = Path(path)
        require_regular(path, raising=WeightsError)
        try:
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {})["receipt"]
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            body = parse_json(text)
            if body["format"] == FORMAT and body.pop("sha256") != _digest(body, tensors):
                raise ValueError("a part of it is not what was written")
            if body["format"] not in (1, FORMAT):
                raise WeightsError(
                    f"{path} is a receipt of format {body['format']}, this Prunus reads format "
                    f"{FORMAT}: load it with the version that wrote it"
                )
            memory = None
            if body["shapes"] is not None:
                dense, cut = (
                    {n.removeprefix(p): t for n, t in tensors.items() if n.startswith(p)}
                    for p in ("dense/", "cut/")
                )
                shapes = {name: tuple(shape) for name, shape in body["shapes"].items()}
                memory = Memory(dense, cut, shapes)
            return cls(
                params=(body["params"][0], body["params"][1]),
                channels={
                    name: {axis: (was, now) for axis, (was, now) in axes.items()}
                    for name, axes in body["channels"].items()
                },
                repairs=tuple(Repair(**repair) for repair in body["repairs"]),
                batchnorms=body["batchnorms"],
                plan=Plan.from_json(to_json(body["plan"])),
                network=body["network"],
                memory=memory,
                baked=body.get("baked", {}),
            )
        except (OSError, SafetensorError, LookupError, *UNREADABLE) as error:
            if isinstance(error, WeightsError):
                raise
            raise WeightsError(
                f"{path} holds no receipt ({type(error).__name__}: {error}): give a file that "
                "Receipt.save wrote"
            ) from error


def _digest(body: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of all that a receipt says and holds."""
    found = hashlib.sha256(to_json(body).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a network by name: the very objects, no copies."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy, on the CPU, of every parameter and buffer of a network."""
    return {
        name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors_of(model).items()
    }


def saved_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters and buffers that are in a network's state dict."""
    saved = model.state_dict().keys()
    return {name: tuple(t.shape) for name, t in tensors_of(model).items() if name in saved}


def remember(dense: Mapping[str, Tensor], model: nn.Module, baked: Sequence[Baked] = ()) -> Memory:
    """Return what undoing needs, given the state before surgery and the network after it."""
    now = state_of(model)
    cut = {n: t for n, t in now.items() if n not in dense or not same_bits(t, dense[n])}
    return Memory(dense, cut, saved_shapes(model), baked)
