"""The host's memory is what a container or a job may use of it, by cgroup version 1 or 2."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from dlmbench.measure import memory
from dlmbench.measure.environment import fingerprint
from dlmbench.measure.memory import HostMemory, host_memory

GIB = 2**30


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """Writes cgroup files: the process's own line, then values by path."""
    machine = SimpleNamespace(total=64 * GIB, available=48 * GIB)
    monkeypatch.setattr("psutil.virtual_memory", lambda: machine)
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "own")

    def write(own: str, values: dict[str, object]) -> None:
        (tmp_path / "own").write_text(own)
        for name, value in values.items():
            path: Path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")

    return write


def test_without_cgroups_it_is_the_machine(cgroups):
    assert host_memory() == HostMemory(64 * GIB, 48 * GIB)
    cgroups("0::/job\n", {"job/memory.max": "max", "job/memory.current": GIB})
    assert host_memory() == HostMemory(64 * GIB, 48 * GIB)


def test_version_2_and_its_cache(cgroups):
    values = {"memory.max": 16 * GIB, "memory.current": 6 * GIB, "memory.stat": f"anon 1\ninactive_file {4 * GIB}"}
    cgroups("0::/slice/job\n", {f"slice/job/{name}": value for name, value in values.items()})
    assert host_memory() == HostMemory(16 * GIB, 14 * GIB)


def test_the_tightest_of_nested_groups_counts(cgroups):
    inner, outer = ("slice/job/memory", 32), ("slice/memory", 8)
    values = {f"{path}.{n}": v * GIB for path, limit in (inner, outer) for n, v in (("max", limit), ("current", 3))}
    cgroups("0::/slice/job\n", values)
    assert host_memory() == HostMemory(8 * GIB, 5 * GIB)


def test_version_1_and_a_container_that_sees_its_limit_at_the_root(cgroups):
    values = {"memory/memory.limit_in_bytes": 4 * GIB, "memory/memory.usage_in_bytes": GIB}
    cgroups("5:cpu:/x\n4:memory:/docker/abc\n", values)
    assert host_memory() == HostMemory(4 * GIB, 3 * GIB)
    unlimited = {"memory/memory.limit_in_bytes": 2**63 - 4096, "memory/memory.usage_in_bytes": GIB}
    cgroups("4:memory,hugetlb:/docker/abc\n", unlimited)
    assert host_memory() == HostMemory(64 * GIB, 48 * GIB)


def test_a_run_on_the_cpu_records_it(cgroups):
    cgroups("0::/\n", {"memory.max": 2 * GIB, "memory.current": GIB})
    assert fingerprint("cpu").memory_bytes == 2 * GIB
