"""Intervals are those of order statistics; calls take turns; a runtime that fails says why."""

import itertools
import math
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from prunus.core.errors import ConfigError
from prunus.evaluation import (
    Comparison,
    Estimate,
    RuntimeUnavailableError,
    compare_latency,
    compiled_call,
    eager_call,
    onnx_call,
)
from prunus.evaluation.latency import compare as latency


@pytest.mark.parametrize("n", [*range(6, 40), 100])
def test_the_interval_covers_the_median_with_95_percent_and_is_the_shortest_such(n: int) -> None:
    """By definition: x_(k) < median < x_(n+1−k) unless fewer than k values lie on one side."""
    found = Estimate.of(range(1, n + 1))
    k = int(found.low)
    assert found.high == n + 1 - k
    assert found.median == (n + 1) / 2

    def missed(k: int) -> float:
        return 2 * sum(math.comb(n, i) for i in range(k)) / 2**n

    assert missed(k) <= 0.05 < missed(k + 1)


def test_the_interval_is_known_from_tables() -> None:
    found = Estimate.of([float(i) for i in range(1, 21)])
    assert (found.low, found.high) == (6.0, 15.0)  # n = 20: [Conover, Table A3]
    with pytest.raises(ConfigError, match="5 rounds given, expected at least 6"):
        Estimate.of([1.0] * 5)


def test_a_speedup_is_the_median_of_paired_ratios() -> None:
    slow = (2.0, 20.0, 4.0, 2.0, 6.0, 2.0)  # a machine that is 10 times slower in the second round
    seconds = {"slow": slow, "fast": tuple(s / 2 for s in slow)}
    found = Comparison(seconds)
    assert found.rounds == 6
    assert found.speedup("slow", "fast") == Estimate(2.0, 2.0, 2.0)
    assert found.speedup("fast", "slow") == Estimate(0.5, 0.5, 0.5)
    assert found.latency("slow") == Estimate(3.0, 2.0, 20.0)


class Machine:
    """Calls that move a clock of their own, by a name and the seconds it takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.seen = 0.0, []
        monkeypatch.setattr(latency.time, "perf_counter", lambda: self.now)

    def call(self, name: str, seconds: float):
        def run() -> None:
            assert torch.is_inference_mode_enabled()
            self.seen.append(name)
            self.now += seconds

        return run


def test_calls_take_turns_both_ways_and_are_timed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    times = {"a": 1.0, "b": 2.0, "c": 3.0}
    found = compare_latency(
        {name: machine.call(name, spent) for name, spent in times.items()}, rounds=7, seconds=1e9
    )
    assert found.rounds == 7
    assert "".join(machine.seen) == "abc" * 2 + "abccba" * 3 + "abc"
    for name, spent in times.items():
        assert found.seconds[name] == (spent,) * 7


def test_a_short_call_settles_before_it_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    calls = {"long": machine.call("L", 1.0), "short": machine.call("s", 0.01)}
    compare_latency(calls, rounds=6, seconds=1e9)
    assert "".join(machine.seen) == "LsLs" + "LssssL" * 3


def test_time_ends_it_but_not_before_there_is_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    assert compare_latency({"a": machine.call("a", 1.0)}, seconds=0.1).rounds == 6
    assert compare_latency({"a": machine.call("a", 1.0)}, seconds=9.5).rounds == 10
    for calls, rounds in (({"a": print}, 5), ({}, 20)):
        with pytest.raises(ConfigError, match="expected at least 6 rounds of at least one call"):
            compare_latency(calls, rounds=rounds)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())


def test_a_call_is_one_forward_pass(network: nn.Module, tmp_path: Path) -> None:
    images, path = torch.randn(2, 3, 6, 6), tmp_path / "net.onnx"
    call = eager_call(network, images)
    assert not network.training
    with torch.inference_mode():
        expected = network(images)
        assert torch.equal(call(), expected)  # type: ignore[arg-type]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "x"], ["y"])],
        "twice",
        [value("x", onnx.TensorProto.FLOAT, ["batch", 3, 6, 6])],
        [value("y", onnx.TensorProto.FLOAT, ["batch", 3, 6, 6])],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, ir_version=10, opset_imports=opsets), path)
    (found,) = onnx_call(path, images)()  # type: ignore[misc]
    assert torch.equal(torch.from_numpy(found), 2 * images)


def test_a_file_that_onnx_runtime_cannot_run(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(RuntimeUnavailableError, match=r"ONNX Runtime cannot run bad\.onnx: "):
        onnx_call(tmp_path / "bad.onnx", torch.zeros(1))


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch):
    """Put something else in the place of inductor, which takes long."""

    compile_ = torch.compile

    def put(backend) -> None:
        torch.compiler.reset()
        monkeypatch.setattr(torch, "compile", lambda m, **k: compile_(m, backend=backend, **k))

    yield put
    torch.compiler.reset()


def test_a_compiled_network_is_compared_with_itself(network: nn.Module, backend) -> None:
    images = torch.randn(2, 3, 6, 6)
    backend("eager")
    with torch.inference_mode():
        assert torch.equal(compiled_call(network, images)(), network(images))  # type: ignore[arg-type]
    backend(lambda graph, _: lambda *args: [2 * out for out in graph(*args)])
    with pytest.raises(RuntimeUnavailableError, match="changes the outputs"):
        compiled_call(network, images)


def test_a_network_that_does_not_compile_says_why(network: nn.Module, backend) -> None:
    def no_compiler(graph, inputs):
        raise RuntimeError("no C++ compiler was found")

    backend(no_compiler)
    with pytest.raises(
        RuntimeUnavailableError, match=r"torch\.compile fails on Sequential: .*no C\+\+ compiler"
    ):
        compiled_call(network, torch.randn(2, 3, 6, 6))


def test_more_networks_than_pytorch_compiles_are_an_error_not_eager_in_silence(backend) -> None:
    backend("eager")
    with pytest.raises(RuntimeUnavailableError, match="recompile"):
        for width in itertools.count(1):
            assert width < 20
            compiled_call(nn.Sequential(nn.Linear(3, width)), torch.randn(2, 3))
