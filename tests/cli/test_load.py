"""`prunus load` and `prunus export` as a person uses them, in this process."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import prunus
from prunus.core.record import read_rows
from prunus.models import build_model
from tests.cli.command import prunus_

QUICK = [
    *("--epochs", "1", "--iterations", "1", "--finetune-epochs", "0", "--final-epochs", "0"),
    *("--device", "cpu", "--criterion", "l1", "--compensate", "none"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `prunus prune`, small, with two formats."""
    out = tmp_path_factory.mktemp("runs") / "demo"
    network = ("--model", "lenet300", "--data", "digits", "--budget", "params=20%")
    assert prunus_("prune", *network, "--out", str(out), *QUICK, "--export", "onnx, pt2") == 0
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that may be damaged."""
    return shutil.copytree(finished, tmp_path / "run")


def audit(capsys: pytest.CaptureFixture[str], run: Path, *flags: str, code: int) -> dict[str, dict]:
    """Return the checks of `prunus load --json` by subject."""
    capsys.readouterr()
    assert prunus_("load", run, "--json", "--trust", *flags) == code
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == ("intact" if code == 0 else "differs")
    return {check["subject"]: check for check in found["checks"]}


def differing(checks: dict[str, dict]) -> set[str]:
    return {subject for subject, check in checks.items() if check["status"] == "differs"}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that cannot do its work; return the one sentence it prints."""
    capsys.readouterr()
    assert prunus_(*arguments) == 2, arguments
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("prunus: ")
    return lines[0]


def test_an_untouched_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prunus_("load", run) == 0
    text = capsys.readouterr().out.replace("\u00a0", " ")
    tables = text[text.index("recorded") :]
    assert max(map(len, tables.splitlines())) <= 80
    result = next(r for r in read_rows(run / "record.jsonl")[0] if r["event"] == "result")
    params = f"{result['pruned']['params']:,}".replace(",", " ")
    assert re.search(rf"pruned parameters +{params} +{params} +same", text)
    assert "Intact: everything matches the record." in text
    assert f"can run code that {run / 'model.pt2'} brings" in " ".join(text.split())
    checks = audit(capsys, run, code=0)
    assert list(checks)[:4] == [
        "config.yaml",
        "dense.safetensors",
        "plan.json",
        "model.safetensors",
    ]
    assert "plans.json" in checks
    assert list(checks)[-2:] == ["model.onnx outputs", "model.pt2 outputs"]
    assert {check["status"] for check in checks.values()} == {"same"}


def test_the_dense_network_comes_back(run: Path) -> None:
    dense = prunus.load(run, dense=True)
    saved = load_file(run / "dense.safetensors")
    assert all(torch.equal(saved[name], t) for name, t in dense.state_dict().items())
    assert not dense.training


def test_changed_weights_are_found_by_fingerprint_and_by_what_they_compute(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(run / "model.safetensors")
    weights["fc3.bias"][3] += 0.5
    save_file(weights, run / "model.safetensors")
    checks = audit(capsys, run, code=1)
    assert differing(checks) == {
        "model.safetensors",
        "model.onnx outputs",
        "model.pt2 outputs",
    }
    assert "ONNX Runtime differs from PyTorch by 0.5 in" in checks["model.onnx outputs"]["note"]
    assert prunus_("load", run, "--trust") == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "Differs: model.safetensors, model.onnx outputs, model.pt2 outputs." in text


def test_a_tampered_plan(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "plan.json"
    whole = json.loads(path.read_text())
    moved = json.loads(path.read_text())
    edit = moved["modules"]["fc1"]["out"]
    edit["removed"][-1] = next(i for i in range(edit["of"]) if i not in edit["removed"])
    path.write_text(json.dumps(moved))
    assert differing(audit(capsys, run, code=1)) == {"plan.json"}  # as many, but others
    fewer = json.loads(json.dumps(whole))
    fewer["modules"]["fc1"]["out"]["removed"].pop()
    path.write_text(json.dumps(fewer))
    message = refused(capsys, "load", run)
    assert message.startswith(f"prunus: {path} is not the file that this run wrote")
    assert f"{run / 'model.safetensors'}: tensor fc1.weight has shape" in message
    for changed, said in (
        ({**whole, "format": 2}, "plan.json: the plan has format 2, this Prunus reads format 1"),
        ({**whole, "format": 0}, "the plan has format 0"),
        ({**whole, "author": "me"}, "unknown field 'author'"),
        ({**whole, "modules": {"fc9": {"out": edit}}}, "plan.json: the plan does not fit"),
    ):
        path.write_text(json.dumps(changed))
        assert said in refused(capsys, "load", run)
        assert "plan.json is not the file that this run wrote" in refused(capsys, "export", run)


def test_a_damaged_artefact(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, runtime in (("model.onnx", "ONNX Runtime"), ("model.pt2", "torch.export.load")):
        whole = (run / name).read_bytes()
        (run / name).write_bytes(b"no network")
        checks = audit(capsys, run, code=1)
        assert differing(checks) == {name, f"{name} outputs"}
        assert f"{runtime} cannot open it" in checks[f"{name} outputs"]["note"]
        (run / name).write_bytes(whole)
    (run / "model.pt2").write_bytes(b"no network")
    assert prunus_("export", run, "--format", "pt2") == 0  # written anew
    assert not differing(audit(capsys, run, code=0))


def test_a_run_without_its_journal_is_not_intact(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "record.jsonl").unlink()
    checks = audit(capsys, run, code=1)
    assert differing(checks) == {"record.jsonl", "plan.json", "model.safetensors"}
    assert checks["dense MACs"]["status"] == "unknown"
    assert prunus_("load", run) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert f"{run} has no record.jsonl, without which no file can be checked" in text
    assert "Not recorded in the journal: pruned parameters," in text


def test_dense_weights_that_are_gone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "dense.safetensors").unlink()
    check = audit(capsys, run, code=0)["dense.safetensors"]
    assert check["status"] == "unknown"
    assert "cannot be restored" in check["note"]


SOURCE = """
from torch import nn
def narrow(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 9), nn.ReLU(), nn.Linear(9, num_classes))
def wants(depth, num_classes): ...
"""


def test_a_run_of_the_python_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from prunus.data import load_data
    from prunus.models.source_file import load_factory

    path = tmp_path / "my.py"
    path.write_text(SOURCE)
    model = load_factory(str(path), "narrow")(10)
    settings = prunus.PruneConfig(
        iterations=1,
        compensate="none",
        criterion="l1",
        finetune=prunus.TrainConfig(epochs=0),
        final=prunus.TrainConfig(epochs=0),
    )
    loader = load_data("digits", batch_size=256).train
    _, report = prunus.prune(model, loader, "params=50%", config=settings, device="cpu")
    report.save(tmp_path / "run")
    said = refused(capsys, "load", tmp_path / "run")
    assert "does not specify how its network is built" in said
    assert "--model path/to/file.py:factory" in said
    spec = f"{path}:narrow"
    assert "--input-shape and --num-classes" in refused(
        capsys, "load", tmp_path / "run", "--model", spec
    )
    given = ("--model", spec, "--input-shape", "1,28,28", "--num-classes", "10")
    checks = audit(capsys, tmp_path / "run", *given, code=0)
    assert {check["status"] for check in checks.values()} == {"same"}
    assert prunus_("export", tmp_path / "run", *given, "--format", "pt2") == 0
    assert (tmp_path / "run/model.pt2").exists()


def test_export_beside_a_run_leaves_it_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert prunus_("export", run, "--format", "pt2,onnx,pt2", "--out", tmp_path / "out") == 0
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model.onnx", "model.pt2"]
    assert prunus_("export", run, "--format", "pt2", "--batch", "5") == 0
    row = read_rows(run / "record.jsonl")[0][-1]
    assert (row["event"], row["format"], row["file"]) == ("artefact", "pt2", "model.pt2")
    assert row["images"] == 5
    text = " ".join(capsys.readouterr().out.split())
    assert f"{run / 'model.pt2'}: torch.export.load differs from PyTorch by at most" in text


def test_export_of_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build_model("lenet300", num_classes=10, input_shape=(1, 28, 28))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    network = ("--model", "lenet300", "--input-shape", "1,28,28", "--num-classes", "10")
    flags = ("--weights", tmp_path / "w.safetensors", "--format", "pt2", "--out", tmp_path / "o")
    assert prunus_("export", *network, *flags) == 0
    loaded = torch.export.load(tmp_path / "o/model.pt2").module()
    images = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(loaded(images), model.eval()(images))


def test_a_failed_gate_is_exit_code_1_and_the_others_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "noisy.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "    def forward(self, x):\n"
        "        x = x.flatten(1)[:, :4]\n"
        "        return x + torch.rand_like(x) * (not torch.compiler.is_exporting())\n"
    )
    network = ("--model", f"{tmp_path / 'noisy.py'}:Net", "--input-shape", "1,8,8")
    flags = ("--num-classes", "4", "--format", "onnx,pt2", "--out", tmp_path / "out")
    assert prunus_("export", *network, *flags) == 1
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 2
    for line, runtime in zip(printed, ("ONNX Runtime", "torch.export.load"), strict=True):
        assert re.match(rf"prunus: {runtime} differs from PyTorch by .* in output 'logits'", line)
        assert "for images of shape 64×1×8×8, more than the tolerance of 0.000" in line
        assert line.endswith("was not written")
    assert not list((tmp_path / "out").glob("*"))


def test_bad_input_is_one_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my.py").write_text(SOURCE)
    network = ("--model", "lenet300", "--input-shape", "1,28,28", "--num-classes", "10")
    for arguments, said in (
        (("load", tmp_path / "nowhere"), "finished run"),
        (("load", run, "--num-classes", "7"), "model.safetensors: tensor fc3"),
        (("load", run, "--model", "lenet5"), "the plan does not fit LeNet5"),
        (("load", run, "--model", f"{tmp_path / 'my.py'}:wants"), "called without depth"),
        (("load", run, "--input-shape", "1,28"), "channels, height and width"),
        (("export",), "nothing to export: give"),
        (("export", run, "--format", "onx"), "did you mean 'onnx'?"),
        (("export", run, "--format", ","), "names no format"),
        (("export", run, "--weights", "w.pt"), "give only one"),
        (("export", "--model", "lenet300"), "--input-shape and --num-classes"),
        (("export", *network), "results of random weights are meaningless"),
        (("prune", *network[:2], "--data", "digits", "--budget", "macs=50%", "--out",
          tmp_path / "x", "--export", "onx"), "export.0 is 'onx'"),
    ):  # fmt: skip
        assert said in refused(capsys, *arguments), arguments
    (run / "model.safetensors").write_bytes(b"short")
    assert "not a complete .safetensors file" in refused(capsys, "load", run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(__import__("sys").modules, "openvino", raising=False)
    assert "pip install openvino" in refused(capsys, "export", run, "--format", "openvino")


def test_the_help_says_exit_codes_and_formats(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("load", "export"):
        assert prunus_(verb, "--help") == 0
        text = capsys.readouterr().out
        assert all(f"Exit code {code}:" in text for code in (0, 1, 2))
    assert "onnx, openvino, pt2" in " ".join(text.replace("│", " ").split())
