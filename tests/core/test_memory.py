"""What control groups and limits leave of the machine's memory and cores, from written trees."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from prunus.core import available_memory, memory_limit, usable_cores
from prunus.core.control_groups import control_groups

GB = 10**9
UNIFIED = "30 23 0:26 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate\n"
FIRST = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "35 31 0:32 {top} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "36 31 0:33 {top} /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)


def tree(root: Path, groups: str, mounts: str, **files: str | int) -> Path:
    """Write a /proc and /sys below `root`; a file is named by its path with "__" for "/"."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups, encoding="utf-8")
    (root / "proc/self/mountinfo").write_text(mounts, encoding="utf-8")
    (root / "sys/fs/cgroup").mkdir(parents=True)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n", encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 256 GB with 200 GB available, and 64 cores."""
    memory = psutil.virtual_memory()._replace(total=256 * GB, available=200 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)


def test_a_container_of_the_second_version(tmp_path: Path) -> None:
    """Its own namespace: it is at / and the mount is its group."""
    root = tree(
        tmp_path,
        "0::/\n",
        UNIFIED.format(top="/"),
        memoryDOTmax=3 * GB,
        memoryDOThigh="max",
        memoryDOTcurrent=2 * GB,
        memoryDOTstat=f"anon 5\nfile {GB + 7}\ninactive_file {GB}\nactive_file 7",
        cpuDOTmax="150000 100000",
    )
    assert available_memory(root) == 2 * GB  # 3 − (2 − 1)
    assert memory_limit(root) == 3 * GB
    assert usable_cores(root) == 1


def test_the_tightest_of_all_groups_above_counts(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "0::/user.slice/job 1.scope\n",
        UNIFIED.format(top="/"),
        **{
            "user.slice/job 1.scope/memory.max": "max",
            "user.slice/job 1.scope/memory.high": 9 * GB,
            "user.slice/job 1.scope/memory.current": GB,
            "user.slice/job 1.scope/cpu.max": "max 100000",
            "user.slice/memory.max": 12 * GB,
            "user.slice/memory.current": 11 * GB,
            "user.slice/memory.stat": "inactive_file 0",
            "user.slice/cpu.max": "650000 100000",
        },
    )
    assert available_memory(root) == GB  # others in the slice have taken the rest
    assert memory_limit(root) == 9 * GB
    assert usable_cores(root) == 6
    names = [group.folder.name for group in control_groups("memory", root)]
    assert names == ["job 1.scope", "user.slice", "cgroup"]


def test_the_first_version_has_a_tree_for_each_controller(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "4:memory:/batch/7\n2:cpu,cpuacct:/batch\n0::/\n",
        FIRST.format(top="/"),
        **{
            "memory/batch/7/memory.limit_in_bytes": 4 * GB,
            "memory/batch/7/memory.usage_in_bytes": 3 * GB,
            "memory/batch/7/memory.stat": f"inactive_file 1\ntotal_inactive_file {GB}",
            "memory/batch/memory.limit_in_bytes": 2**63 - 4096,
            "memory/memory.limit_in_bytes": 2**63 - 4096,
            "cpu,cpuacct/batch/cpu.cfs_quota_us": 320_000,
            "cpu,cpuacct/batch/cpu.cfs_period_us": 100_000,
            "cpu,cpuacct/cpu.cfs_quota_us": -1,
            "cpu,cpuacct/cpu.cfs_period_us": 100_000,
        },
    )
    assert available_memory(root) == 2 * GB
    assert memory_limit(root) == 4 * GB
    assert usable_cores(root) == 3


@pytest.mark.parametrize("top", ["/docker/0f", "/"])
def test_a_container_that_is_named_as_seen_from_outside(tmp_path: Path, top: str) -> None:
    """Docker on the first version mounts the group itself, and leaves the host's path of it."""
    root = tree(
        tmp_path,
        "4:memory:/docker/0f\n2:cpu,cpuacct:/docker/0f\n",
        FIRST.format(top=top),
        **{
            "memory/memory.limit_in_bytes": 3 * GB,
            "memory/memory.usage_in_bytes": GB,
            "cpu,cpuacct/cpu.cfs_quota_us": 50_000,
            "cpu,cpuacct/cpu.cfs_period_us": 100_000,
        },
    )
    assert available_memory(root) == 2 * GB
    assert usable_cores(root) == 1  # half a core is one


def test_a_group_above_the_namespace(tmp_path: Path) -> None:
    mounts = UNIFIED.format(top="/../..")
    root = tree(tmp_path, "0::/../other\n", mounts, memoryDOTmax=5 * GB, memoryDOTcurrent=0)
    assert available_memory(root) == 5 * GB


def test_without_groups_the_machine_counts(tmp_path: Path) -> None:
    assert available_memory(tmp_path) == 200 * GB
    assert memory_limit(tmp_path) == 256 * GB
    assert usable_cores(tmp_path) == 64
    full = tree(tmp_path / "full", "0::/\n", UNIFIED.format(top="/"), memoryDOTmax=GB)
    (full / "sys/fs/cgroup/memory.current").write_text(f"{2 * GB}", encoding="utf-8")
    assert available_memory(full) == 0  # its limit was lowered


@pytest.mark.parametrize("which", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_the_limits_of_the_process(which: str) -> None:
    pytest.importorskip("resource")
    code = (
        "import psutil, resource; from prunus.core.memory import available_memory, memory_limit\n"
        f"resource.setrlimit(resource.{which}, (2 * 10**9, resource.RLIM_INFINITY))\n"
        "print(memory_limit(), available_memory())"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True
    )
    limit, available = map(int, ended.stdout.split())
    assert limit == 2 * GB
    assert 10**8 < available < limit
