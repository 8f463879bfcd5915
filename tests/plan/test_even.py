"""A multiple is chosen if the table shows steps, and only beyond its noise."""

import itertools
import random
from dataclasses import replace

import pytest

from prunus.evaluation import LatencyTable, WidthSteps, excess_shares
from prunus.graph import Group, Groups
from prunus.plan import choose_round_to


def table(time_of, *, noise: float = 0.0, layers: int = 2, rounds: int = 20) -> LatencyTable:
    """A machine that takes `time_of(width)` ms, more by up to a share `noise`, at 17 widths."""
    draw = random.Random(0)
    widths = tuple(range(176, 193))
    steps = tuple(
        WidthSteps(
            f"layer {at}",
            1 + at,
            widths,
            (64,) * 17,
            tuple(
                tuple(time_of(w) * (1 + noise * draw.random()) for w in widths)
                for _ in range(rounds)
            ),
        )
        for at in range(layers)
    )
    return LatencyTable({}, {}, 1.0, 1, 1, "made up", steps=steps)


def wide(units: int) -> Groups:
    groups = tuple(Group(f"g{at}", "channels", units, ()) for at in range(3))
    return Groups(None, groups, {}, {}, 0, 0, 0, (), {})  # type: ignore[arg-type]


def up_to(multiple: int):
    """Time in steps: what the next multiple takes."""
    return lambda width: -(-width // multiple) * multiple / 100


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("multiple", [4, 8, 16])
def test_the_steps_of_a_machine_are_found(multiple: int, noise: float) -> None:
    def machine(width: int) -> float:
        return up_to(multiple)(width) * (1.2 if width % multiple else 1.0)  # and a slower kernel

    found = choose_round_to(table(machine, noise=noise), wide(256))
    assert found.multiple == multiple
    assert found.reason.startswith(f"multiples of {multiple}: widths between them cost ")
    assert found.reason.endswith("of the 2 layers that were timed at widths in a row")


def test_a_smooth_machine_gets_any_width_whatever_its_noise() -> None:
    for noise, time_of in itertools.product((0.0, 0.05, 0.5), (lambda w: w, lambda w: 1.0)):
        found = choose_round_to(table(time_of, noise=noise), wide(256))
        assert found.multiple == 1
        assert found.reason.startswith("any width: none saves more than 2 % beyond noise")


def test_a_step_below_the_noise_is_no_step() -> None:
    """A single slow round, or noise as large as the step, must not win."""

    def machine(width: int) -> float:
        return 1.03 if width % 16 else 1.0

    assert choose_round_to(table(machine), wide(256)).multiple == 16
    assert choose_round_to(table(machine, noise=0.5), wide(256)).multiple == 1


def test_rounds_that_a_busy_machine_slowed_down_are_no_steps() -> None:
    smooth = table(lambda w: w)
    draw = random.Random(1)
    busy = [
        replace(
            one,
            ms=tuple(tuple(t * (9 if draw.random() < 0.3 else 1) for t in row) for row in one.ms),
        )
        for one in smooth.steps
    ]
    assert choose_round_to(replace(smooth, steps=tuple(busy)), wide(256)).multiple == 1


def test_the_excess_by_hand() -> None:
    """By definition, for one layer: mean_w [t(w) − line(w)] ÷ mean_w t(w)."""
    found = table(up_to(16), layers=1)
    ms = found.steps[0].ms[0]
    for multiple in (4, 8, 16):
        lines = []
        for at in range(17):
            low = at // multiple * multiple
            high = min(16, low + multiple)
            lines.append(ms[low] + (ms[high] - ms[low]) * (at - low) / multiple)
        expected = sum(t - line for t, line in zip(ms, lines, strict=True)) / sum(ms)
        assert excess_shares(found.steps)[multiple] == pytest.approx(expected)


def test_layers_weigh_by_their_calls() -> None:
    even, steps = table(lambda w: 2.0, layers=1).steps[0], table(up_to(16), layers=1).steps[0]
    alone = excess_shares([steps])[16][0]
    whole = sum(steps.ms[0]) / 17
    both = excess_shares([replace(even, calls=3), replace(steps, calls=5)])[16][0]
    assert both == pytest.approx(5 * alone * whole / (5 * whole + 3 * 2.0))


def test_a_multiple_leaves_widths_to_choose_from() -> None:
    found = table(lambda w: 1 + 0.2 * sum(w % multiple > 0 for multiple in (4, 8, 16)))
    assert [choose_round_to(found, wide(units)).multiple for units in (15, 16, 32, 64, 512)] == [
        *(1, 4, 8, 16, 16)
    ]
    assert "multiples above 3.75 would be too coarse" in choose_round_to(found, wide(15)).reason


def test_the_same_table_gives_the_same_choice_also_from_its_file() -> None:
    found = table(up_to(8), noise=0.1)
    again = LatencyTable.from_json(found.to_json())
    assert again == found
    assert choose_round_to(again, wide(256)) == choose_round_to(found, wide(256))


def test_without_steps_any_width_will_do() -> None:
    found = choose_round_to(replace(table(up_to(8)), steps=()), wide(256))
    assert (found.multiple, found.excess, found.layers) == (1, {}, 0)
    assert "no prunable layer is wide enough" in found.reason
