"""Settings of small growing runs."""

from pathlib import Path
from typing import Any

from prunus.pipelines import GrowConfig, GrowRunConfig
from prunus.training import TrainConfig

FILE = Path(__file__).parent / "growing_net.py"
NET = f"{FILE}:Net"
BRIEF = TrainConfig(epochs=1, lr=1e-2)
UNTRAINED: dict[str, Any] = {"base": TrainConfig(epochs=0)}


def config(model: str = NET, **grow: Any) -> GrowRunConfig:
    settings = {"base": BRIEF, "candidate": BRIEF, "threads": 1, "images": 500, **grow}
    return GrowRunConfig(
        model=model,
        data="digits",
        input_shape=(1, 8, 8),
        device="cpu",
        grow=GrowConfig(**settings),
    )
