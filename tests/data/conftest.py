import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets and weights, outside the repository."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("PRUNUS_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"real data are not at {folder}: set PRUNUS_SHARED_DATA to their folder")
    return folder
