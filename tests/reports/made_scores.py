"""What `scores.json` holds, made up but consistent."""

import random
from typing import Any

Row = dict[str, Any]
ROWS: list[Row] = [
    {
        "event": "run",
        "command": "prunus score --model lenet5 --data digits --weights w.safetensors",
        "prunus": "0.1.0",
        "torch": "2.15.0",
        "python": "3.11.7",
        "device": "CPU: AMD EPYC, 2 threads",
        "seed": 0,
        "started": "2026-11-21T02:30:00Z",
    },
    {"event": "score", "images": 1079, "statistics_seconds": 0.5, "score_seconds": 0.1},
]
CONFIG: Row = {"model": "lenet5", "data": "digits", "criterion": "stacked"}


def make_scores(groups: int = 3, units: int = 40, name: str = "conv") -> Row:
    """Return scores whose unit u, u % 8 == 0, has an interval that includes 0."""
    draw = random.Random(0)
    shares = [(at + 1) / (groups + 1) for at in range(groups)]
    shares[-1] = 0.9 * shares[-2] if groups > 1 else shares[-1]  # the last one forgets
    return {
        "version": 1,
        **CONFIG,
        "weights": "w.safetensors",
        "run": None,
        "options": {"mu": 0.2},
        "unit": "share of the consumer's output energy lost after repair",
        "comparable": True,
        "sampling": "patch",
        "images": 1079,
        "blocks": 8,
        "level": 0.95,
        "layers": [
            {
                "module": f"{name}{at + 1}",
                "features": 9 * units,
                "information": 9 * share,
                "share": share,
                "low": share - 0.02,
                "high": share + 0.02,
                "gain": share - (shares[at - 1] if at else 0.0),
            }
            for at, share in enumerate(shares)
        ],
        "groups": [_group(f"{name}{at}", f"{name}{at + 1}", units, draw) for at in range(groups)],
        "skipped": [{"module": "stem", "reason": "no consumer has statistics"}],
        "unprunable": [{"module": "fc", "reason": "its outputs are the network's outputs"}],
    }


def _group(name: str, consumer: str, units: int, draw: random.Random) -> Row:
    order = draw.sample(range(units), units)
    costs = [0.0] * units
    for place, unit in enumerate(order):
        costs[unit] = 1e-5 * 1.3**place if units <= 60 else 1e-5 * (1 + place)
    low = [0.0 if unit % 8 == 0 else 0.8 * cost for unit, cost in enumerate(costs)]
    return {
        "name": name,
        "kind": "channels",
        "units": units,
        "consumers": [consumer],
        "order": order,
        "values": costs,
        "costs": costs,
        "low": low,
        "high": [1.2 * cost for cost in costs],
    }
