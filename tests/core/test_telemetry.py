"""Libraries that report their use are imported with that switched off; nothing else changes."""

import os
import sys
from pathlib import Path

import pytest

from prunus.core import import_without_telemetry

SWITCH = "ORT_DISABLE_TELEMETRY"


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both libraries, replaced by files that note what importing the real ones looks at."""
    (tmp_path / "onnxruntime.py").write_text(f"import os\nseen = os.environ.get({SWITCH!r})\n")
    (tmp_path / "openvino_telemetry.py").write_text("")
    (tmp_path / "openvino.py").write_text(
        "try:\n    import openvino_telemetry\nexcept ImportError:\n    seen = False\n"
        "else:\n    seen = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("onnxruntime", "openvino", "openvino_telemetry"):
        monkeypatch.setitem(sys.modules, name, None)  # what is imported now is gone afterwards
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize(("set_by_user", "seen"), [(None, "1"), ("0", "0"), ("1", "1")])
def test_onnx_runtime_reads_the_switch_and_the_environment_stays(
    set_by_user: str | None, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    if set_by_user is not None:
        monkeypatch.setenv(SWITCH, set_by_user)
    before = dict(os.environ)
    assert import_without_telemetry("onnxruntime").seen == seen
    assert dict(os.environ) == before


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize("imported", [False, True])
def test_openvino_does_not_find_its_reporter_and_others_do(imported: bool) -> None:
    if imported:
        import openvino_telemetry as reporter
    assert import_without_telemetry("openvino").seen is False
    assert ("openvino_telemetry" in sys.modules) == imported
    import openvino_telemetry as found_again

    assert not imported or found_again is reporter


@pytest.mark.usefixtures("found")
def test_a_library_that_is_there_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    first = import_without_telemetry("onnxruntime")
    monkeypatch.delenv(SWITCH)
    assert import_without_telemetry("onnxruntime") is first
    assert first.seen == "0"


@pytest.mark.usefixtures("found")
def test_a_failed_import_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    for name in ("onnxruntime", "openvino"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('broken')\n")
        with pytest.raises(ImportError, match="broken"):
            import_without_telemetry(name)
    assert SWITCH not in os.environ
    assert "openvino_telemetry" not in sys.modules
