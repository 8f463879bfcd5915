"""`prunus diff` as a person uses it, in this process."""

import json
from pathlib import Path

import pytest

from prunus.core import digest, rows_to_lines, to_yaml
from prunus.pipelines import RunConfig
from prunus.plan import Edit, Plan
from tests.cli.command import prunus_

A = Plan({"conv": Edit(40, tuple(range(20))), "fc": Edit(10, (1,)), "left": Edit(4, (0,))})
B = Plan({"conv": Edit(40, tuple(range(5, 10))), "fc": Edit(10, (1,)), "right": Edit(2, (1,))})


def diff(*arguments: str | Path) -> int:
    """Run the command; return its exit code."""
    return prunus_("diff", *arguments)


def write_run(folder: Path, plan: Plan, *, dense: bytes = b"same", model: str = "lenet5") -> Path:
    """Write what `prunus diff` reads of a run folder."""
    folder.mkdir()
    config = RunConfig(model=model, data="digits", budget="params=10%")
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "plan.json").write_text(plan.to_json())
    (folder / "dense.safetensors").write_bytes(dense)
    shared = {"bytes": 800, "validation_accuracy": 0.9}
    sizes = {
        "dense": {"params": 200, "macs": 100, **shared},
        "pruned": {"params": 25, "macs": 50, **shared},
    }
    names = ("config.yaml", "plan.json", "dense.safetensors")
    sums = {name: digest(folder / name) for name in names}
    rows = [{"event": "result", **sizes}, {"event": "files", "sha256": sums}]
    (folder / "record.jsonl").write_text(rows_to_lines(rows)[0])
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work where paths are short."""
    monkeypatch.chdir(tmp_path)


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the output with every gap as one space."""
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    return " ".join(text.split())


def test_two_runs(capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(Path("a"), A), write_run(Path("b"), B)
    assert diff(a, b) == 0
    text = printed(capsys)
    assert (
        "A is a (lenet5 on digits, budget params=10%, criterion stacked): it removes 22 of 56 "
        "units (39.3 %) and keeps 12.5 % of the parameters and 50.0 % of the MACs."
    ) in text
    assert "B is b (" in text
    assert "it removes 7 of 56 units (12.5 %)" in text
    assert "conv 40 20 5 15: 0, 1, 2, 3, 4," in text
    assert "16, 3 more" in text  # 12 are named
    assert ", 17" not in text
    assert "fc 10 9 1 – –" in text
    assert (
        "Of the 23 units that either run removes, both remove 6: a Jaccard index of 0.261" in text
    )
    assert "Only A cuts left; B keeps all of it. Only B cuts right; A keeps all of it." in text
    assert (
        text.index("conv 40") < text.index("left 4") < text.index("right 2") < text.index("fc 10")
    )
    assert "other weights" not in text
    assert "different networks" not in text


def test_files_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.json").write_text(A.to_json())
    b = write_run(Path("b"), B)
    assert diff("a.json", b / "plan.json", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["a"]["path"] == "a.json"
    assert found["a"]["budget"] is None
    assert found["b"]["budget"] == "params=10%"
    assert found["same_dense"] is None
    assert found["groups"][0]["a_alone"] == [*range(5), *range(10, 20)]
    assert found["groups"][0]["kept"] == 20
    assert found["jaccard"] == 6 / 23
    assert diff("a.json", b) == 0
    assert "A is a.json: it removes 22 of 56 units (39.3 %). B is" in printed(capsys)


def test_the_same_plans(capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(Path("a"), A)
    assert diff(a, a) == 0
    assert "The plans are the same: they remove the same units." in printed(capsys)
    Path("none.json").write_text(Plan().to_json())
    assert diff("none.json", "none.json") == 0
    assert "The plans are the same: neither removes a unit." in printed(capsys)


def test_the_same_units_but_other_channels(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.json").write_text(A.to_json())
    Path("b.json").write_text(Plan(A.groups, {"fc": {"out": Edit(10, (1,))}}).to_json())
    assert diff("a.json", "b.json") == 0
    assert "the same units of every group, but different channels of fc." in printed(capsys)


def test_what_makes_indices_doubtful_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(Path("a"), A), write_run(Path("b"), B, dense=b"else")
    assert diff(a, b) == 0
    assert "have different weights" in printed(capsys)
    c = write_run(Path("c"), B, dense=b"else", model="lenet300")
    assert diff(a, c) == 0
    assert "The runs are of different networks, lenet5 and lenet300:" in printed(capsys)


def test_bad_input_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(Path("a"), A)
    Path("empty").mkdir()
    Path("no.json").write_text("{")
    Path("bytes.json").write_bytes(b"\xff\xfe")
    Path("wide.json").write_text(Plan({"conv": Edit(41, (0,))}).to_json())
    broken = write_run(Path("broken"), B)
    (broken / "config.yaml").write_text("version: 7\n")
    for other, said in (
        ("missing", "missing does not exist: give the folder of a run"),
        ("empty", "empty has no plan.json"),
        ("no.json", "no.json: not a plan of Prunus"),
        ("bytes.json", "bytes.json is not a text file"),
        ("wide.json", "plans belong to different networks: conv has 40 units in A and 41 in B"),
        (broken, "config.yaml is not the file that this run wrote"),
    ):
        for flags in ((), ("--json",)):
            assert diff(a, other, *flags) == 2, other
            output = capsys.readouterr()
            assert output.out == ""
            assert len(output.err.splitlines()) == 1, output.err
            assert output.err.startswith("prunus: ")
            assert said in output.err


def test_the_help_says_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert diff("--help") == 0
    text = capsys.readouterr().out
    assert all(f"Exit code {code}:" in text for code in (0, 2))
