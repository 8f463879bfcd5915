"""A format of exported networks that a user registers is configured and written as any other."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prunus.core import ConfigError, from_dict, read_rows, read_yaml
from prunus.export import FORMATS, Format
from prunus.pipelines import PruneConfig, RunConfig, SearchConfig, run_prune
from prunus.training import TrainConfig


class Pickled(Format):
    """The module itself, as PyTorch pickles it."""

    title = "pickle"
    runtime = "torch.load"
    suffixes = (".pickle",)

    def write(self, network: nn.Module, example: Tensor, path: Path) -> None:
        torch.save(network, path)

    def open(self, path: Path) -> Callable[[Tensor], Tensor]:
        network = torch.load(path, weights_only=False)
        return lambda images: network(images).detach()


@pytest.fixture
def pickled() -> Iterator[str]:
    FORMATS.register("pickled")(Pickled())
    yield "pickled"
    del FORMATS._entries["pickled"]


def test_a_registered_format_is_written(pickled: str, tmp_path: Path) -> None:
    config = RunConfig(
        model="lenet300",
        data="digits",
        budget="params=50%",
        export=(pickled,),
        train=TrainConfig(epochs=1),
        prune=PruneConfig(
            iterations=1,
            intervals=False,
            runtimes=(),
            finetune=TrainConfig(epochs=1),
            final=TrainConfig(epochs=1),
        ),
    )
    out = tmp_path / "run"
    run_prune(config, out)
    assert read_yaml(RunConfig, out / "config.yaml").export == (pickled,)
    assert isinstance(torch.load(out / "model.pickle", weights_only=False), nn.Module)
    rows, _ = read_rows(out / "record.jsonl")
    (row,) = [row for row in rows if row["event"] == "artefact"]
    assert (row["format"], row["file"], row["runtime"]) == (pickled, "model.pickle", "torch.load")


@pytest.mark.parametrize("kind", [RunConfig, SearchConfig])
def test_an_unknown_format_names_the_known_ones(kind: type) -> None:
    values = {"model": "lenet5", "data": "digits", "budget": "params=50%", "export": ["pickled"]}
    with pytest.raises(ConfigError, match=r"'pickled', but expected one of onnx, openvino, pt2$"):
        from_dict(kind, values)


@pytest.mark.parametrize(
    ("setting", "known"),
    [
        ("allocation", "global, uniform, dp, threshold"),
        ("compensate", "none, bias, pointwise, patch, joint, merge"),
        ("batchnorm", "auto, always, never"),
    ],
)
def test_other_settings_name_what_is_known(setting: str, known: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting} is 'magic', but expected one of {known}$"):
        from_dict(PruneConfig, {setting: "magic"})
