"""Libraries of extras are imported by their own integration alone, which names the extra."""

import subprocess
import sys

CODE = """
import importlib, pkgutil, sys

LIBRARIES = ("torch_pruning", "lightning", "pytorch_lightning", "transformers", "openvino", "h5py")
for library in LIBRARIES:
    sys.modules[library] = None  # whoever imports it fails, as where it is not installed

import prunus, prunus.cli

ADAPTERS = {"torch_pruning", "lightning", "transformers"}
seen = 0
for module in pkgutil.walk_packages(prunus.__path__, "prunus."):
    room, _, last = module.name.rpartition(".")
    if last != "__main__" and not (room == "prunus.integrations" and last in ADAPTERS):
        importlib.import_module(module.name)
        seen += 1
assert seen > 200, seen
assert "lightning_fabric" not in sys.modules  # it takes seconds, and only training needs it
for adapter in ("torch_pruning", "lightning", "transformers"):
    extra = adapter.replace("_", "-")
    try:
        importlib.import_module(f"prunus.integrations.{adapter}")
    except ImportError as error:
        assert f"prunus.integrations.{adapter} needs " in str(error), error
        assert f"pip install 'prunus[{extra}]'" in str(error), error
    else:
        raise AssertionError(adapter)
"""


def test_everything_else_is_imported_without_them() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
