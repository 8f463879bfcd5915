"""A plan: which units are removed, frozen, as JSON by module name and index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prunus.core import PlanError, html_table, parse_json, share_svg, to_json
from prunus.graph import Branches, Groups

__all__ = ["Edit", "Plan", "plan_units"]

FORMAT = 1
#: Channels that no axis has; below it, a plan's numbers can be counted with.
MOST = 2**31


@dataclass(frozen=True)
class Edit:
    """`removed` channels of an axis that had `of`; indices of the network before the plan."""

    of: int
    removed: tuple[int, ...]

    def kept(self) -> list[int]:
        """Return the indices that stay, in order."""
        gone = set(self.removed)
        return [i for i in range(self.of) if i not in gone]

    @property
    def all_gone(self) -> bool:
        """Whether nothing is kept."""
        return len(self.removed) == self.of

    def then(self, later: Edit) -> Edit:
        """Return both edits in one; the indices of `later` count what this one left."""
        kept = self.kept()
        if later.of != len(kept):
            raise PlanError(
                f"a plan for {later.of} channels cannot follow one that left {len(kept)}"
            )
        return Edit(self.of, tuple(sorted({*self.removed, *(kept[i] for i in later.removed)})))


@dataclass(frozen=True, repr=False)
class Plan:
    """Edits of a network, by group for people and by module for machines.

    Attributes:
        groups: units removed, by group name.
        modules: channels removed, by module name and axis (`out`, `in`, `select`). This is all that
            is needed to replay the plan on the dense network, without tracing. `select` indexes the
            features that arrive at the dense module.

    Example:
        >>> from prunus.plan import Edit, Plan
        >>> plan = Plan({"conv1": Edit(8, (1, 5))}, {"conv1": {"out": Edit(8, (1, 5))}})
        >>> plan
        Plan(removes 2 of 8 units of 1 groups, from 1 modules)
        >>> Plan.from_json(plan.to_json()) == plan
        True
    """

    groups: Mapping[str, Edit] = field(default_factory=dict)
    modules: Mapping[str, Mapping[str, Edit]] = field(default_factory=dict)

    def __repr__(self) -> str:
        removed = sum(len(edit.removed) for edit in self.groups.values())
        of = sum(edit.of for edit in self.groups.values())
        return (
            f"Plan(removes {removed:,} of {of:,} units of {len(self.groups)} groups, "
            f"from {len(self.modules)} modules)"
        )

    def _repr_html_(self) -> str:
        rows = [
            (
                name,
                edit.of,
                len(edit.removed),
                edit.of - len(edit.removed),
                share_svg(1 - len(edit.removed) / max(edit.of, 1), f"{name}: share that stays"),
            )
            for name, edit in self.groups.items()
        ]
        return html_table(repr(self), ("group", "units", "removed", "kept", "share kept"), rows)

    def then(self, later: Plan) -> Plan:
        """Return one plan that applies this one and then `later`, in this one's indices."""
        groups = _chained(self.groups, later.groups)
        modules: dict[str, dict[str, Edit]] = {n: dict(axes) for n, axes in self.modules.items()}
        for name, axes in later.modules.items():
            mine = modules.setdefault(name, {})
            arriving = mine.get("in")
            for axis, edit in axes.items():
                if axis == "select" and arriving is not None:
                    kept = arriving.kept()
                    edit = Edit(arriving.of, tuple(kept[i] for i in edit.removed))  # noqa: PLW2901
                if axis == "select" and axis in mine:
                    removed = {*mine[axis].removed, *edit.removed}
                    mine[axis] = Edit(mine[axis].of, tuple(sorted(removed)))
                elif axis in mine:
                    mine[axis] = mine[axis].then(edit)
                else:
                    mine[axis] = edit
        return Plan(groups, modules)

    def empties(self, module: str) -> bool:
        """Return whether a module loses all its outputs."""
        axes = self.modules.get(module, {})
        return "out" in axes and axes["out"].all_gone

    def to_json(self) -> str:
        """Return the plan as JSON; equal plans give equal bytes."""
        return to_json(
            {
                "format": FORMAT,
                "groups": {n: _edit(e) for n, e in self.groups.items()},
                "modules": {
                    n: {axis: _edit(e) for axis, e in axes.items()}
                    for n, axes in self.modules.items()
                },
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote.

        Raises:
            PlanError: the text is not a plan, has an unknown format version, or has an unknown
                field.
        """
        try:
            return cls.from_dict(parse_json(text))
        except PlanError:
            raise
        except ValueError as error:
            raise PlanError(f"not a plan of Prunus ({error}): give a plan.json of a run") from error

    @classmethod
    def from_dict(cls, body: Any) -> Plan:
        """Read the value of a plan's JSON.

        Raises:
            PlanError: as for `from_json`.
        """
        try:
            if body["format"] != FORMAT:
                raise PlanError(
                    f"the plan has format {body['format']}, this Prunus reads format {FORMAT}: "
                    "load it with the version that wrote it"
                )
            _only(body, "format", "groups", "modules")
            return cls(
                {n: _read(e) for n, e in body["groups"].items()},
                {n: {a: _read(e) for a, e in axes.items()} for n, axes in body["modules"].items()},
            )
        except PlanError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PlanError(f"not a plan of Prunus ({error}): give a plan.json of a run") from error


def plan_units(groups: Groups, removed: Mapping[str, Iterable[int]]) -> Plan:
    """Return the plan that removes the given units of each group.

    If a branch is removed as a whole, so is what nothing reads then (`graph.branches`).

    Raises:
        PlanError: a unit does not exist, a group would become empty that must not, or a module with
            outputs would be left without inputs.
    """
    edits: dict[str, Edit] = {}
    gone: dict[str, dict[str, set[int]]] = {}
    known = [group.name for group in groups.values()]
    for name in removed:
        if name not in known:
            raise PlanError(f"there is no group {name!r}: the groups are {', '.join(known)}")
    removed = {name: set(units) for name, units in removed.items()}
    whole = [g for g in groups.values() if removed.get(g.name) == set(range(g.units))]
    fallen = Branches(groups).fallen(g.name for g in whole if g.least == 0)
    for group in groups.values():
        units = sorted(range(group.units) if group.name in fallen else removed.get(group.name, ()))
        if not units:
            continue
        if units[0] < 0 or units[-1] >= group.units:
            wrong = units[0] if units[0] < 0 else units[-1]
            raise PlanError(f"{group.name} has {group.units} units, asked to remove {wrong}")
        if len(units) > group.units - group.least and group.name not in fallen:
            raise PlanError(
                f"{len(units)} of the {group.units} units of {group.name} would be removed: keep "
                f"at least {group.least}"
            )
        edits[group.name] = Edit(group.units, tuple(units))
        for member in group.members:
            axes = gone.setdefault(member.module, {})
            axes.setdefault(member.axis, set()).update(map(int, member.index[units].ravel()))
    _require_read(groups, gone)
    for group in groups.values():
        for member in group.members:
            if member.axis == "select" and member.module in gone:  # also what no longer arrives
                axes = gone[member.module]
                lost = axes.get("in", set()) | axes.get("select", set())
                units = [u for u, channel in enumerate(member.index[:, 0]) if channel in lost]
                if len(units) == group.units:
                    raise PlanError(
                        f"{member.module} would be left without inputs: no unit of {group.name} is "
                        "left whose channel is left too"
                    )
                if units:
                    edits[group.name] = Edit(group.units, tuple(units))
    modules: dict[str, dict[str, Edit]] = {}
    for name, axes in gone.items():
        layer = groups.layers.get(name)
        for axis, channels in axes.items():
            if axis == "select":
                channels = channels - axes.get("in", set())  # noqa: PLW2901 - they never arrive
            if layer is None or not channels:
                continue
            width = layer.out if axis == "out" else layer.in_
            modules.setdefault(name, {})[axis] = Edit(width, tuple(sorted(channels)))
    return Plan(edits, modules)


def _require_read(groups: Groups, gone: Mapping[str, Mapping[str, set[int]]]) -> None:
    """Raise `PlanError` if a module with outputs would be left without inputs."""
    for name, axes in gone.items():
        layer = groups.layers.get(name)
        if layer is None or len(axes.get("in", ())) < layer.in_:
            continue
        if layer.mixing and len(axes.get("out", ())) < layer.out:
            raise PlanError(
                f"{name} would be left without inputs: every branch that it reads would be "
                "removed; keep one unit of one of them"
            )


def _chained(first: Mapping[str, Edit], second: Mapping[str, Edit]) -> dict[str, Edit]:
    chained = dict(first)
    for name, edit in second.items():
        chained[name] = chained[name].then(edit) if name in chained else edit
    return chained


def _edit(edit: Edit) -> dict[str, Any]:
    return {"of": edit.of, "removed": list(edit.removed)}


def _read(body: dict[str, Any]) -> Edit:
    _only(body, "of", "removed")
    of, removed = _index(body["of"]), tuple(_index(i) for i in body["removed"])
    if wrong := [i for i in removed if i >= of]:
        raise ValueError(f"it removes {wrong[0]} of {of}, counted from 0")
    if len(set(removed)) < len(removed):
        raise ValueError(f"it removes one of {of} twice")
    return Edit(of, removed)


def _only(body: dict[str, Any], *fields: str) -> None:
    if unknown := sorted(body.keys() - set(fields)):
        raise ValueError(f"unknown field {unknown[0]!r}, expected {', '.join(fields)}")


def _index(value: Any) -> int:
    if type(value) is not int or not 0 <= value < MOST:
        raise ValueError(f"{repr(value)[:40]} where an index is expected")
    return value
