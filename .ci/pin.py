"""Print the installed packages as constraints of pip, for this Python on this kind of machine.

`make constraints` writes them to constraints.txt after CI has passed with them. Elsewhere the
markers switch the pins off: other platforms have other wheels (PyTorch's for CUDA are for Linux),
other versions of Python may lack these.
"""

import platform
import re
import sys
from importlib.metadata import distributions

OWN = {"pip", "prunus"}  # pip belongs to the environment


def main() -> None:
    """Print a header and a line for each package, sorted by name."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    where = (
        f'sys_platform == "{sys.platform}" and platform_machine == "{platform.machine()}" '
        f'and python_version == "{version}"'
    )
    pins = {}
    for found in distributions():
        name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
        if name not in OWN:
            pins[name] = found.version.partition("+")[0]  # +cpu and +cu130 are not on PyPI
    head = "# What CI ran, written by `make constraints`; with `make CONSTRAINTS=` the newest."
    lines = [head, *(f"{name}=={pinned} ; {where}" for name, pinned in sorted(pins.items()))]
    sys.stdout.write("\n".join(lines) + "\n")


main()
