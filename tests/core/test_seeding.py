"""Streams by name."""

import random

import numpy as np
import pytest
import torch

from prunus.core import derive_seed, keeping_random_state, seed_everything


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_stream_depends_on_seed_and_name_alone() -> None:
    seed_everything(3, "fit", 1)
    first = drawn()
    drawn()
    seed_everything(3, "fit", 1)
    assert drawn() == first
    seed_everything(3, "fit", 2)
    second = drawn()
    assert all(a != b for a, b in zip(first, second, strict=True))
    assert seed_everything(3, "fit", 2) == derive_seed(3, "fit", 2)


def test_seeds_are_many_and_in_range() -> None:
    seeds = {derive_seed(s, name, i) for s in range(5) for name in "ab" for i in range(5)}
    assert len(seeds) == 50
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0) == 0x5FECEB66FFC86F38 >> 1  # the first 8 bytes of SHA-256 of "0"


def test_random_state_is_kept() -> None:
    seed_everything(1, "a")
    drawn()
    expected = drawn()
    seed_everything(1, "a")
    drawn()
    with pytest.raises(ZeroDivisionError), keeping_random_state():
        seed_everything(2, "b")
        drawn()
        raise ZeroDivisionError
    assert drawn() == expected


def test_a_stream_does_not_depend_on_the_caller_and_its_states_stay() -> None:
    found = []
    for caller in (1, 2):
        seed_everything(caller, "caller")
        first = drawn()
        seed_everything(caller, "caller")
        with keeping_random_state("work", seed=3):
            outer = drawn()
            with keeping_random_state("part"):  # goes on with the outer numbers
                inner = drawn()
            assert drawn() == inner
            found.append((outer, inner))
        assert drawn() == first
    assert found[0] == found[1] and found[0][0] != found[0][1]
    with keeping_random_state("work", seed=4):
        assert drawn() != found[0][0]


def test_a_block_that_raises_ends_the_stream() -> None:
    with pytest.raises(ZeroDivisionError), keeping_random_state("work"):
        raise ZeroDivisionError
    found = []
    for caller in (1, 2):
        seed_everything(caller, "caller")
        with keeping_random_state("work"):
            found.append(drawn())
    assert found[0] == found[1]
