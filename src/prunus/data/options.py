"""Options after the colon of a data set's name, separated by commas."""

from __future__ import annotations

from collections.abc import Mapping

from prunus.core import DataError

__all__ = ["read_options"]


def read_options(name: str, argument: str, known: Mapping[str, str]) -> dict[str, str]:
    """Return the options of `argument`, OPTION=VALUE or OPTION alone, separated by commas.

    `known` maps each option to the value it has when it stands alone.

    Raises:
        DataError: an option is unknown or repeated.

    Example:
        >>> read_options("cifar10", "cutout,norm=own", {"cutout": "16", "norm": "own"})
        {'cutout': '16', 'norm': 'own'}
    """
    given: dict[str, str] = {}
    for part in filter(None, argument.split(",")):
        option, equals, value = part.partition("=")
        if option not in known:
            raise DataError(
                f"{name} takes {' and '.join(known)} after its name, but was given {part!r}: write "
                f"{name}:{','.join(f'{key}={usual}' for key, usual in known.items())}"
            )
        if option in given:
            raise DataError(f"{name} was given {option} twice: write it once")
        given[option] = value if equals else known[option]
    return given
