"""A run sends nothing: not a packet, not a look-up, and it needs no network."""

import json
import re
from pathlib import Path

import pytest

from tests import warm

RUN = (
    *("prune", "--model", "lenet300", "--data", "digits", "--input-shape", "1,8,8"),
    *("--budget", "params=50%", "--epochs", "1", "--iterations", "1", "--finetune-epochs", "0"),
    *("--final-epochs", "0", "--device", "cpu", "--criterion", "l1", "--export", "onnx,pt2"),
)
#: Enter a network namespace of its own, without any network; then do `act` and count.
ALONE = """
import ctypes, json, os, re, socket, sys
from pathlib import Path
libc = ctypes.CDLL(None, use_errno=True)
NEWUSER, NEWNET = 0x10000000, 0x40000000
if libc.unshare(NEWNET) and libc.unshare(NEWUSER | NEWNET):
    print("cannot: " + os.strerror(ctypes.get_errno()))
    sys.exit(0)

def counted():
    found = {}
    names, values = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines()[:2])
    found |= {f"Ip{n}": int(v) for n, v in zip(names[1:], values[1:], strict=True) if "Out" in n}
    for line in Path("/proc/net/snmp6").read_text().splitlines():
        name, value = line.split()
        if name in ("Ip6OutRequests", "Ip6OutNoRoutes"):
            found[name] = int(value)
    return found

before = counted()
"""
COUNTED = """
after = counted()
print(json.dumps({name: n - before[name] for name, n in after.items() if n != before[name]}))
"""
TALK = """
try:
    socket.create_connection(("192.0.2.1", 80), timeout=1)
except OSError:
    pass
try:
    socket.getaddrinfo("prunus.invalid", 443)
except OSError:
    pass
"""
ACT = """
import runpy
sys.argv = ["prunus", *json.loads(sys.argv[1])]
os.environ["HOME"] = sys.argv.pop()
for name in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
    os.environ.pop(name, None)
try:
    runpy.run_module("prunus", run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
"""


def alone(act: str, *arguments: str) -> dict[str, int]:
    """Run Python without a network; return which counters of sent packets it has raised."""
    command = warm.start("-c", ALONE + act + COUNTED, *arguments)
    assert command.wait() == 0, command.errors
    last = command.output.strip().splitlines()[-1]
    if last.startswith("cannot"):
        pytest.skip(f"this system permits no network namespace ({last})")
    assert command.errors.strip() == ""
    found: dict[str, int] = json.loads(last)
    return found


def test_the_counters_see_a_connection_and_a_look_up() -> None:
    assert alone(TALK)["IpOutNoRoutes"] >= 2


def test_a_run_without_a_network_is_silent_and_complete(tmp_path: Path) -> None:
    home, out, other = tmp_path / "home", tmp_path / "run", tmp_path / "other"
    home.mkdir()
    assert alone(ACT, json.dumps([*RUN, "--out", str(out), str(home)])) == {}
    assert [path for path in home.rglob("*") if path.is_file()] == []
    for name in ("report.html", "model.onnx", "model.pt2", "record.jsonl"):
        assert (out / name).exists()
    command = warm.start("-m", "prunus", *RUN, "--out", str(other))  # with a network
    assert command.wait() == 0, command.errors
    for name in ("plan.json", "model.safetensors", "dense.safetensors", "model.onnx", "model.pt2"):
        assert (out / name).read_bytes() == (other / name).read_bytes(), name
    page = (out / "report.html").read_text()
    assert not re.search(r"""<(script|link|img|iframe)[^>]+(src|href)=["']?(https?:)?//""", page)
