"""One seed, many independent streams: every step of a run draws from a stream named after the step.

A step's randomness depends on the run's seed and the step's name alone, never on what ran
before it in the process. This is why a resumed run ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["derive_seed", "keeping_random_state", "seed_everything"]


def derive_seed(seed: int, *names: object) -> int:
    """Return a 63-bit seed for the stream `names` under `seed`.

    Example:
        >>> derive_seed(0, "fit", 1) == derive_seed(0, "fit", 1) != derive_seed(0, "fit", 2)
        True
    """
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_everything(seed: int, *names: object) -> int:
    """Seed Python, NumPy and PyTorch for the stream `names`; return the derived seed."""
    import numpy as np  # noqa: PLC0415 - torch takes seconds, and `prunus --help` needs none
    import torch  # noqa: PLC0415

    derived = derive_seed(seed, *names)
    random.seed(derived)
    np.random.seed(derived % 2**32)
    torch.manual_seed(derived)
    return derived


@contextmanager
def keeping_random_state() -> Iterator[None]:
    """Leave the generators of Python, NumPy and PyTorch (each device's too) as they are found."""
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
