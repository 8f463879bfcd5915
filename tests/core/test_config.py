"""Configuration: checked when created, one sentence per error, unchanged by a round trip."""

from dataclasses import FrozenInstanceError, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass

from prunus.core import STRICT, Registry, from_dict, one_of, read_yaml, to_dict, to_yaml
from prunus.core.errors import ConfigError, PrunusError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Fit:
    epochs: int = Field(default=3, ge=1)
    rate: float = 0.1
    schedule: Literal["cosine", "constant"] = "cosine"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Job:
    model: str
    fit: Fit = field(default_factory=Fit)
    milestones: tuple[int, ...] = (1, 2)
    note: str | None = None


def test_round_trip(tmp_path: Path) -> None:
    job = Job(model="lenet5", fit=Fit(epochs=7, rate=1e-4), milestones=(3,), note="½: yes")
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(job), encoding="utf-8")
    assert path.read_text().startswith("version: 1\nmodel: lenet5\n")
    assert read_yaml(Job, path) == job
    assert to_yaml(read_yaml(Job, path)) == to_yaml(job)
    assert from_dict(Job, to_dict(job)) == job


def test_a_number_that_yaml_reads_as_text(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("version: 1\nrate: 1e-3\n")  # YAML 1.1: a string
    assert read_yaml(Fit, path).rate == 1e-3


def test_configs_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Fit().epochs = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"model": "a", "fit": {"epochs": 0}},
            r"fit.epochs is 0, but .*greater than or equal to 1",
        ),
        ({"model": "a", "fit": {"epochs": "many"}}, r"fit.epochs is 'many', but .*integer"),
        ({"model": "a", "fit": {"schedule": "step"}}, r"fit.schedule is 'step', but .*'cosine'"),
        ({"model": "a", "colour": 3}, r"colour is 3, but unexpected"),
        ({}, r"model"),
        ({"model": 3}, r"model is 3, but .*string"),
    ],
)
def test_what_is_wrong_in_one_sentence(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        from_dict(Job, values, source="job.yaml")
    text = str(error.value)
    assert text.startswith("job.yaml: ")
    assert "\n" not in text
    assert isinstance(error.value, PrunusError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 2\nmodel: a\n", "format version 2, this Prunus reads 1"),
        ("model: a\n", "format version None"),
        ("- a\n", "holds list, expected a mapping"),
        ("", "holds NoneType, expected a mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_yaml(Job, path)


def test_a_name_of_a_registry_also_one_that_is_added_later() -> None:
    colours = Registry[int]("colour")
    colours.register("red")(1)

    @dataclass(frozen=True, kw_only=True, config=STRICT)
    class Wall:
        colour: Annotated[str, one_of(colours)] = "red"

    with pytest.raises(ConfigError, match=r"colour is 'blue', but expected one of red$"):
        from_dict(Wall, {"colour": "blue"})
    colours.register("blue")(2)
    assert from_dict(Wall, {"colour": "blue"}).colour == "blue"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration at .*config.yaml of a run"):
        read_yaml(Job, tmp_path / "config.yaml")
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match="not a text file in UTF-8"):
        read_yaml(Job, path)
