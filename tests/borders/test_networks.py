"""Each network of the corpus is right or refused by name: never a traceback, never a hang."""

from pathlib import Path

import pytest

from tests.borders import contract, networks
from tests.borders.case import NETWORKS
from tests.borders.known import KNOWN

assert networks.__all__

#: What PyTorch says of the networks themselves, with or without Prunus.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (
        "None of the inputs have requires_grad",
        "LSTM with projections is not supported",
        "The .grad attribute of a Tensor that is not a leaf",
    )
]

STEPS = [
    pytest.param(name, marks=[pytest.mark.xfail(strict=False, reason=KNOWN["steps", name])])
    if ("steps", name) in KNOWN
    else name
    for name in NETWORKS
]
PRUNE = [
    pytest.param(name, marks=[pytest.mark.xfail(strict=False, reason=KNOWN["prune", name])])
    if ("prune", name) in KNOWN
    else name
    for name in NETWORKS
]


@pytest.mark.parametrize("name", STEPS)
def test_the_steps(name: str) -> None:
    case = NETWORKS[name]
    if case.refused:
        contract.check_refusal(case)
        return
    groups = contract.find(case)
    contract.check_cut(case, groups)
    contract.check_steps(case, groups)
    contract.check_doctor(case, groups)


@pytest.mark.parametrize("name", PRUNE)
def test_prune(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    case = NETWORKS[name]
    if case.export != "onnx":
        request.getfixturevalue("no_artefacts")
    contract.check_prune(case, tmp_path)
