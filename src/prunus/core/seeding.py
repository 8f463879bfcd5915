"""One seed, many independent streams: every step of a run draws from a stream named after the step.

A step's randomness depends on the run's seed and the step's name alone, never on what ran
before it in the process. This is why a resumed run ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["derive_seed", "keeping_random_state", "seed_everything"]

#: Whether a thread is within `keeping_random_state`.
_KEEPING = threading.local()


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
def keeping_random_state(*names: object, seed: int = 0) -> Iterator[None]:
    """Leave the generators of Python, NumPy and PyTorch (each device's too) as they are found.

    With `names`, what is drawn within comes from that stream under `seed`, so that it does not
    depend on what the caller has drawn. A block within another one goes on with the outer one's
    numbers.

    Example:
        >>> import torch
        >>> found = []
        >>> for caller in (1, 2):
        ...     _ = torch.manual_seed(caller)
        ...     with keeping_random_state("fit", seed=3):
        ...         found.append(float(torch.rand(())))
        >>> found[0] == found[1]
        True
    """
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    python, numpy = random.getstate(), np.random.get_state()
    outermost = not getattr(_KEEPING, "inside", False)
    devices = range(torch.accelerator.device_count())  # all, without a warning that they are many
    try:
        with torch.random.fork_rng(devices):
            _KEEPING.inside = True
            if names and outermost:
                seed_everything(seed, *names)
            yield
    finally:
        _KEEPING.inside = not outermost
        random.setstate(python)
        np.random.set_state(numpy)
