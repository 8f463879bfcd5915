"""What is imported inside a call leaves the process as it was."""

import importlib
import logging
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from prunus.core import imported, importing

LOUD = """
import logging, os, random, sys, warnings
random.random()
warnings.filterwarnings("ignore", message="of a library")
warnings.simplefilter("always", ResourceWarning)
os.environ["LIBRARY_CACHE"] = "/tmp/library"
os.environ["LIBRARY_SETTING"] = "its own"
os.environ.pop("LIBRARY_FLAG", None)
sys.path.insert(0, "/tmp/library")
logger = logging.getLogger("loud_library")
logger.setLevel(logging.DEBUG)
logger.addHandler(logging.NullHandler())
logging.getLogger("loud_library.new").setLevel(logging.INFO)
value = 3
"""


def process() -> Any:
    logger = logging.getLogger("loud_library")
    return (
        random.getstate(),
        id(warnings.filters),
        list(warnings.filters),
        dict(os.environ),
        list(sys.path),
        (logger.level, list(logger.handlers), logging.root.level, list(logging.root.handlers)),
    )


@pytest.fixture
def loud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "loud_library.py").write_text(LOUD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LIBRARY_SETTING", "mine")
    monkeypatch.setenv("LIBRARY_FLAG", "1")
    monkeypatch.delitem(sys.modules, "loud_library", raising=False)
    logging.getLogger("loud_library").setLevel(logging.ERROR)
    return "loud_library"


def test_an_import_leaves_everything_as_it_was(loud: str) -> None:
    before = process()
    assert imported(loud).value == 3
    assert process() == before
    assert logging.getLogger("loud_library.new").level == logging.INFO
    warnings.simplefilter("ignore", BytesWarning)  # what the caller sets afterwards stays
    filters = list(warnings.filters)
    assert imported(loud) is sys.modules[loud]
    assert list(warnings.filters) == filters


def test_an_import_that_fails_too(loud: str, tmp_path: Path) -> None:
    (tmp_path / "loud_library.py").write_text(LOUD + "raise ZeroDivisionError\n")
    importlib.invalidate_caches()
    before = process()
    with pytest.raises(ZeroDivisionError), importing():
        importlib.import_module(loud)
    assert process() == before


#: In a process that has imported nothing of this yet.
FRESH = """
import logging, os, signal, sys, warnings
import torch
from torch import nn
import prunus

def process():
    loggers = dict(logging.root.manager.loggerDict)
    return {
        "filters": (id(warnings.filters), list(warnings.filters)),
        "environment": dict(os.environ),
        "path": list(sys.path),
        "signals": [signal.getsignal(s) for s in signal.valid_signals()],
        "logging": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "levels": {n: getattr(g, "level", None) for n, g in loggers.items() if n in KNOWN},
        "torch": (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()),
        "hooks": (sys.excepthook, warnings.showwarning),
    }

KNOWN = list(logging.root.manager.loggerDict)
warnings.filterwarnings("ignore", message="of the user")
net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
loader = [(torch.randn(32, 4), torch.arange(32) % 2)]

before = process()
groups = prunus.find_groups(net, torch.zeros(1, 4))
statistics = prunus.collect(net, loader, groups)
scores = prunus.score(groups, statistics)
plan = prunus.make_plan(groups, scores, "macs=50%")
prunus.undo_(net, prunus.apply_(net, plan, statistics, loader=loader))
after = process()
print({key: (before[key], after[key]) for key in before if before[key] != after[key]})
assert "torch._dynamo" in sys.modules and "threadpoolctl" in sys.modules
"""


def test_a_call_in_a_fresh_process_leaves_it_alone() -> None:
    """SciPy, SymPy, threadpoolctl and PyTorch's compiler are imported by the calls."""
    source = Path(__file__).resolve().parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-c", FRESH],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "{}\n", "")
