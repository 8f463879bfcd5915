"""Registered names, and errors for unknown ones."""

import pytest

from prunus.core import Registry
from prunus.core.errors import UnknownNameError


@pytest.fixture
def colours() -> Registry[int]:
    registry = Registry[int]("colour", hint="; or #RRGGBB")
    for i, name in enumerate(["red", "green", "blue"]):
        assert registry.register(name)(i) == i
    return registry


def test_names_are_sorted_and_found(colours: Registry[int]) -> None:
    assert list(colours) == ["blue", "green", "red"]
    assert len(colours) == 3
    assert colours["green"] == 1
    assert "red" in colours
    assert "pink" not in colours


def test_an_unknown_name_lists_the_known(colours: Registry[int]) -> None:
    with pytest.raises(UnknownNameError) as error:
        colours["gren"]
    assert str(error.value) == (
        "unknown colour 'gren' (did you mean 'green'?): the known ones are blue, green, red; "
        "or #RRGGBB"
    )
    with pytest.raises(UnknownNameError, match=r"unknown colour 'xyz': the known"):
        colours["xyz"]


def test_registering_twice_is_a_bug(colours: Registry[int]) -> None:
    with pytest.raises(ValueError, match="colour 'red' is registered twice"):
        colours.register("red")(7)
